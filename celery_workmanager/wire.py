"""Requests as plain JSON: to carry them through a canvas, and from a run to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from celery_workmanager.call import Call, Takes
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.mergers import OverwritingInputMerger, load_merger, merger_path
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy
from celery_workmanager.requests import DEFAULT_BACKOFF_DELAY, OneTimeWorkRequest

__all__ = ("decoded", "request_from_json", "request_to_json")

_AS_THEY_ARE = ("trace_tag", "queue", "time_limit", "soft_time_limit", "max_attempts")
_DURATIONS = ("initial_delay", "backoff_delay", "keep_results_for_at_least")


def request_to_json(request: OneTimeWorkRequest) -> dict[str, Any]:
    """Return what differs from a bare request, in JSON types."""
    found: dict[str, Any] = {name: getattr(request, name) for name in _AS_THEY_ARE}
    found |= {name: getattr(request, name).total_seconds() or None for name in _DURATIONS}
    # Here zero is not what is usual.
    is_usual = request.backoff_delay == DEFAULT_BACKOFF_DELAY
    found["backoff_delay"] = None if is_usual else request.backoff_delay.total_seconds()
    found |= {
        "id": request.id,
        "tags": sorted(request.tags - {request.worker_name}) or None,
        "input_data": request.input_data.to_dict() or None,
        "priority": request.priority or None,
        "expedited": None if request.expedited is None else request.expedited.name,
        "expires": _moment_or_seconds(request.expires),
        "constraints": request.constraints.to_json() or None,
        "deadline": _moment_or_seconds(request.deadline),
        "concurrency": None if request.concurrency is None else request.concurrency.to_json(),
        "rate": None if request.rate is None else request.rate.to_json(),
    }
    if request.backoff_policy is not BackoffPolicy.EXPONENTIAL:
        found["backoff_policy"] = request.backoff_policy.name
    if request.input_merger is not OverwritingInputMerger:
        found["input_merger"] = merger_path(request.input_merger)
    if request.call is not None:
        found["call"] = [request.call.arguments, str(request.call.takes), request.call.facts]
    return {name: value for name, value in found.items() if value is not None}


def request_from_json(worker: str, values: Mapping[str, Any]) -> OneTimeWorkRequest:
    """Return the request that ``request_to_json`` wrote. Raises InvalidRequest for what can't be."""
    parts = decoded(values)
    if "call" in parts:
        arguments, takes, facts = parts["call"]
        parts["call"] = Call(arguments, Takes(takes), facts)
    return OneTimeWorkRequest(worker, **parts)


def decoded(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a request as it takes them; those that are no text are left as they are.

    Raises InvalidRequest for text that says none.
    """
    return {
        name: _DECODERS[name](name, value) if name in _DECODERS and isinstance(value, str) else value
        for name, value in parts.items()
    }


def _member(kind: type[Enum]) -> Callable[[str, str], Any]:
    def decode(what: str, name: str) -> Any:
        if name in kind.__members__:
            return kind[name]
        raise InvalidRequest(what, f"one of {', '.join(kind.__members__)}", name)

    return decode


def _moment(what: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(what, "a moment in ISO 8601", text) from None


_DECODERS: dict[str, Callable[[str, str], Any]] = {
    "backoff_policy": _member(BackoffPolicy),
    "expedited": _member(OutOfQuotaPolicy),
    "input_merger": lambda _, path: type(load_merger(path)),
    "expires": _moment,
    "deadline": _moment,
}


def _moment_or_seconds(when: timedelta | datetime | None) -> str | float | None:
    if isinstance(when, datetime):
        return when.isoformat()
    return None if when is None else when.total_seconds()
