"""A work's states, the result of a run, and what is known of a work from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from typing import Any

from celery_workmanager.checks import ZERO, Duration, check_duration
from celery_workmanager.constraints import Constraints
from celery_workmanager.data import Data
from celery_workmanager.foreground import ForegroundInfo
from celery_workmanager.jsontypes import JSON
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.policies import CatchUp

#: A message is kept from its start, a traceback from its end (in characters).
MESSAGE_KEPT = 8_000
TRACEBACK_KEPT = 40_000


class State(IntEnum):
    """The state of a work (WorkManager semantics: WorkInfo.State, with its numbers)."""

    ENQUEUED = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    BLOCKED = 4
    CANCELLED = 5

    @property
    def is_finished(self) -> bool:
        """Whether this state is final."""
        return self in _FINISHED


_FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class StopReason(IntEnum):
    """Why a run was stopped (WorkManager semantics: WorkInfo.STOP_REASON_*, with their numbers)."""

    NOT_STOPPED = -256
    #: The run was lost with its process or its node.
    UNKNOWN = -512
    FOREGROUND_SERVICE_TIMEOUT = -128
    CANCELLED_BY_APP = 1
    PREEMPT = 2
    TIMEOUT = 3
    DEVICE_STATE = 4
    CONSTRAINT_BATTERY_NOT_LOW = 5
    CONSTRAINT_CHARGING = 6
    CONSTRAINT_CONNECTIVITY = 7
    CONSTRAINT_DEVICE_IDLE = 8
    CONSTRAINT_STORAGE_NOT_LOW = 9
    QUOTA = 10
    BACKGROUND_RESTRICTION = 11
    APP_STANDBY = 12
    #: An operator revoked it.
    USER = 13
    #: The worker is shutting down.
    SYSTEM_PROCESSING = 14
    ESTIMATED_APP_LAUNCH_TIME_CHANGED = 15

    @classmethod
    def _missing_(cls, value: object) -> StopReason | None:
        # One that a later version has written, while nodes of both work on one store.
        return cls.UNKNOWN if isinstance(value, int) else None


class RunOutcome(Enum):
    """How a run of a periodic work ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: It asked for another run of the same period.
    RETRIED = "retried"
    STOPPED = "stopped"
    #: Its process or node died.
    LOST = "lost"
    CANCELLED = "cancelled"


class ResultKind(Enum):
    """The three ways a run can answer."""

    SUCCESS = "success"
    FAILURE = "failure"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run answers, made by its class methods (WorkManager semantics: ListenableWorker.Result)."""

    kind: ResultKind
    output_data: Data = Data.EMPTY
    #: How long to wait before a retry; None: as the request's backoff says.
    after: timedelta | None = None

    @classmethod
    def success(cls, data: Any = None, /, **values: Any) -> Result:
        """The work is done; its output becomes input of the works that wait for it."""
        return cls(ResultKind.SUCCESS, Data.of(data, "output_data", **values))

    @classmethod
    def failure(cls, data: Any = None, /, **values: Any) -> Result:
        """The work failed for good, and with it every work that waits for it."""
        return cls(ResultKind.FAILURE, Data.of(data, "output_data", **values))

    @classmethod
    def retry(cls, after: Duration | None = None) -> Result:
        """Run it again ``after`` this long (timedelta or seconds; None: as the request's backoff says)."""
        return cls(ResultKind.RETRY, after=None if after is None else check_duration("after", after))


@dataclass(frozen=True, slots=True)
class WorkError:
    """The exception that failed a work, as text."""

    exc_type: str
    message: str
    module: str = "builtins"
    traceback: str = ""
    #: What the exception was made with, in JSON types; None: with the message.
    args: tuple[JSON, ...] | None = None

    def __str__(self) -> str:
        return f"{self.exc_type}: {self.message}" if self.message else self.exc_type

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types, without ``args`` when the message says it all."""
        facts = asdict(self)
        if self.args is None:
            del facts["args"]
        return facts

    def to_json(self) -> str:
        """Return compact JSON in ASCII."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> WorkError:
        """Return the error that ``to_json`` wrote."""
        facts = json.loads(text)
        if "args" in facts:
            facts["args"] = tuple(facts["args"])
        return cls(**facts)

    @classmethod
    def from_exception(cls, exc: BaseException, traceback_text: str = "") -> WorkError:
        """Return the error of an exception; an overlong message or traceback is cut."""
        kind = type(exc)
        message = _clean(_safely(str, exc))[:MESSAGE_KEPT]
        kept = _clean(traceback_text)[-TRACEBACK_KEPT:]
        return cls(kind.__qualname__, message, kind.__module__, kept, _arguments_of(exc, message))


def _safely(show: Callable[[Any], str], value: Any) -> str:
    try:
        return show(value)
    except Exception:  # noqa: BLE001  # what an exception says of itself must not hide the exception
        return f"<{type(value).__qualname__} whose {show.__name__}() fails>"


def _arguments_of(exc: BaseException, message: str) -> tuple[JSON, ...] | None:
    text = json.dumps([_json_or_repr(each) for each in exc.args])
    if len(text) > MESSAGE_KEPT:
        return None  # it is made again with its message, which is cut
    args = tuple(json.loads(text))
    return None if args == (message,) else args


def _json_or_repr(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _clean(_safely(repr, value))
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicityInfo:
    """When a work repeats (WorkManager semantics: WorkInfo.PeriodicityInfo, and more)."""

    #: None: a crontab says when.
    repeat_interval: timedelta | None
    flex_interval: timedelta | None
    #: The same in words: ``0 3 * * * Europe/Madrid``.
    schedule: str
    catch_up: CatchUp = CatchUp.ONCE
    start_at: datetime | None = None
    end_at: datetime | None = None

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {name: _jsonable(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run of a periodic work that has ended."""

    #: 1 for the first run of the work.
    number: int
    #: How many periods had ended before it.
    period: int
    #: The nominal moment of its occurrence.
    scheduled_at: datetime
    #: None: the worker's code never began.
    started_at: datetime | None
    finished_at: datetime
    #: The incarnation of the node that had it.
    node: str | None
    outcome: RunOutcome
    stop_reason: StopReason
    output_data: Data
    error: WorkError | None

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {name: _jsonable(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class StopInfo:
    """A run that was stopped before its end."""

    #: 1 for the first stop of the work.
    number: int
    reason: StopReason
    stopped_at: datetime
    #: None: not known, the run was lost before its start was written.
    started_at: datetime | None
    #: The incarnation of the node that had it.
    node: str | None
    #: Which attempt it was: 1 for the first. Under the default profile a stopped attempt isn't spent.
    run_attempt_count: int

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {name: _jsonable(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkInfo:
    """What is known of a work at one moment (WorkManager semantics: WorkInfo, and more)."""

    id: str
    state: State
    worker_name: str
    tags: frozenset[str] = frozenset()
    #: Empty unless SUCCEEDED or FAILED; of periodic work that of the last run that ended a period.
    output_data: Data = Data.EMPTY
    progress: Data = Data.EMPTY
    #: Starts so far: 1 during the first run (the run itself sees 0).
    run_attempt_count: int = 0
    #: Updates applied so far.
    generation: int = 0
    constraints: Constraints = Constraints.NONE
    initial_delay: timedelta = ZERO
    #: The earliest moment of the next run; only of ENQUEUED works.
    next_schedule_time: datetime | None = None
    #: Why the previous run was stopped.
    stop_reason: StopReason = StopReason.NOT_STOPPED
    input_data: Data = Data.EMPTY
    unique_names: tuple[str, ...] = ()
    queue: str = ""
    priority: int = 0
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: The exception that failed it, or because of which it waits for another run.
    error: WorkError | None = None
    #: Ids of the works it waits or waited for.
    prerequisites: tuple[str, ...] = ()
    #: The incarnation of the node that runs it.
    node: str | None = None
    #: Grows with every change of the stored work.
    version: int = 0
    #: Every start, also those that ``run_attempt_count`` does not count.
    runs: int = 0
    #: Runs lost with their process.
    interruptions: int = 0
    #: The finished work that this one runs again.
    retry_of: str | None = None
    #: None: it is one-time work.
    periodicity_info: PeriodicityInfo | None = None
    #: Periods that have ended.
    period_count: int = 0
    #: The moment that the next run of a periodic work was set to.
    next_schedule_time_override: datetime | None = None
    #: Whether a pause of its queue, a tag or a unique name keeps it from being started (a run goes on to its end).
    paused: bool = False
    #: From when on it may run even if its constraints are not met; of periodic work: how long after a run's moment.
    deadline: datetime | timedelta | None = None
    concurrency: Limit | None = None
    rate: Rate | None = None
    #: What a run in the foreground shows of itself.
    foreground: ForegroundInfo | None = None

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types: enumerations by name, moments in ISO 8601, durations in seconds."""
        return {name: _jsonable(getattr(self, name)) for name in self.__slots__}


_TO_JSON: dict[type, Callable[[Any], JSON]] = {
    State: lambda state: str(state.name),
    StopReason: lambda reason: str(reason.name),
    CatchUp: lambda policy: str(policy.name),
    RunOutcome: lambda outcome: str(outcome.name),
    PeriodicityInfo: PeriodicityInfo.to_dict,
    Constraints: Constraints.to_json,
    Limit: Limit.to_json,
    Rate: Rate.to_json,
    ForegroundInfo: ForegroundInfo.to_json,
    Data: Data.to_dict,
    WorkError: WorkError.to_dict,
    frozenset: sorted,
    tuple: list,
    datetime: datetime.isoformat,
    timedelta: timedelta.total_seconds,
}


def _jsonable(value: Any) -> JSON:
    convert = _TO_JSON.get(type(value))
    plain: JSON = convert(value) if convert else value
    return plain
