"""Deferrable background work with a guarantee to run, for Celery: AndroidX WorkManager's semantics on durable rows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_workmanager.version import __version__ as __version__

if TYPE_CHECKING:
    from celery_workmanager.app import WorkManager
    from celery_workmanager.builders import OneTimeWorkRequestBuilder, PeriodicWorkRequestBuilder
    from celery_workmanager.constraints import Constraints, ContentUriTrigger
    from celery_workmanager.continuation import WorkContinuation
    from celery_workmanager.data import Data
    from celery_workmanager.errors import ConstraintsWarning, WorkManagerError
    from celery_workmanager.explanation import Explanation, Reason, ReasonKind
    from celery_workmanager.foreground import ForegroundInfo
    from celery_workmanager.limits import Limit, Rate
    from celery_workmanager.mergers import ArrayCreatingInputMerger, InputMerger, OverwritingInputMerger
    from celery_workmanager.operation import Operation
    from celery_workmanager.pauses import PauseInfo, PauseKind
    from celery_workmanager.periodic import PeriodicWorkRequest
    from celery_workmanager.policies import (
        BackoffPolicy,
        CatchUp,
        ExistingPeriodicWorkPolicy,
        ExistingWorkPolicy,
        NetworkType,
        OutOfQuotaPolicy,
        UpdateResult,
    )
    from celery_workmanager.query import WorkQuery
    from celery_workmanager.requests import OneTimeWorkRequest
    from celery_workmanager.time_windows import TimeWindow
    from celery_workmanager.work import (
        PeriodicityInfo,
        Result,
        RunInfo,
        RunOutcome,
        State,
        StopInfo,
        StopReason,
        WorkError,
        WorkInfo,
    )
    from celery_workmanager.worker import Worker

__all__ = [
    "ArrayCreatingInputMerger",
    "BackoffPolicy",
    "CatchUp",
    "Constraints",
    "ConstraintsWarning",
    "ContentUriTrigger",
    "Data",
    "ExistingPeriodicWorkPolicy",
    "ExistingWorkPolicy",
    "Explanation",
    "ForegroundInfo",
    "InputMerger",
    "Limit",
    "NetworkType",
    "OneTimeWorkRequest",
    "OneTimeWorkRequestBuilder",
    "Operation",
    "OutOfQuotaPolicy",
    "OverwritingInputMerger",
    "PauseInfo",
    "PauseKind",
    "PeriodicWorkRequest",
    "PeriodicWorkRequestBuilder",
    "PeriodicityInfo",
    "Rate",
    "Reason",
    "ReasonKind",
    "Result",
    "RunInfo",
    "RunOutcome",
    "State",
    "StopInfo",
    "StopReason",
    "TimeWindow",
    "UpdateResult",
    "WorkContinuation",
    "WorkError",
    "WorkInfo",
    "WorkManager",
    "WorkManagerError",
    "WorkQuery",
    "Worker",
]

# Every `celery` command and every pytest run of an environment that holds this package imports its entry points, and
# with them this module: what is heavy (SQLAlchemy, Celery's worker) comes in with the first name that is used.
_ROOMS = {
    "app": ("WorkManager",),
    "builders": ("OneTimeWorkRequestBuilder", "PeriodicWorkRequestBuilder"),
    "constraints": ("Constraints", "ContentUriTrigger"),
    "continuation": ("WorkContinuation",),
    "data": ("Data",),
    "explanation": ("Explanation", "Reason", "ReasonKind"),
    "errors": ("ConstraintsWarning", "WorkManagerError"),
    "foreground": ("ForegroundInfo",),
    "limits": ("Limit", "Rate"),
    "mergers": ("ArrayCreatingInputMerger", "InputMerger", "OverwritingInputMerger"),
    "operation": ("Operation",),
    "pauses": ("PauseInfo", "PauseKind"),
    "periodic": ("PeriodicWorkRequest",),
    "policies": (
        "BackoffPolicy",
        "CatchUp",
        "ExistingPeriodicWorkPolicy",
        "ExistingWorkPolicy",
        "NetworkType",
        "OutOfQuotaPolicy",
        "UpdateResult",
    ),
    "query": ("WorkQuery",),
    "requests": ("OneTimeWorkRequest",),
    "time_windows": ("TimeWindow",),
    "work": (
        "PeriodicityInfo",
        "Result",
        "RunInfo",
        "RunOutcome",
        "State",
        "StopInfo",
        "StopReason",
        "WorkError",
        "WorkInfo",
    ),
    "worker": ("Worker",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
