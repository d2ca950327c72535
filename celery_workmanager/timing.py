"""When a work may run next. Pure: every moment is an argument, in microseconds since 1970-01-01 UTC.

Source of the formulas: WorkManager, ``WorkSpec.calculateNextRunTime``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import overload

from celery_workmanager.policies import BackoffPolicy

MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_DOUBLINGS = 62


def micros(duration: timedelta) -> int:
    """`duration` in whole microseconds."""
    return duration // MICROSECOND


def moment(at: datetime) -> int:
    """An aware datetime as microseconds since the epoch."""
    return (at - _EPOCH) // MICROSECOND


@overload
def as_datetime(at: int) -> datetime: ...
@overload
def as_datetime(at: None) -> None: ...
@overload
def as_datetime(at: int | None) -> datetime | None: ...
def as_datetime(at: int | None) -> datetime | None:
    """Microseconds since the epoch as an aware datetime in UTC; ``None`` stays ``None``."""
    return None if at is None else _EPOCH + timedelta(microseconds=at)


def as_timedelta(duration: int) -> timedelta:
    """Microseconds as a timedelta."""
    return timedelta(microseconds=duration)


def backoff(policy: BackoffPolicy, delay: int, attempts: int, longest: int) -> int:
    """How long to wait after run number `attempts` asked for a retry, in microseconds.

    Linear: ``delay × attempts``; exponential: ``delay × 2^(attempts - 1)``; never more than `longest`.
    """
    if attempts < 1:
        return 0
    if policy is BackoffPolicy.LINEAR:
        return min(longest, delay * attempts)
    return min(longest, delay << min(attempts - 1, _MOST_DOUBLINGS))


def clamped(delay: int, shortest: int, longest: int) -> int:
    """`delay` moved into the limits of the profile."""
    return max(shortest, min(delay, longest))


def first_run_at(enqueued_at: int, initial_delay: int) -> int:
    """The earliest start of one-time work that has not run yet: delays count from the moment it was enqueued."""
    return enqueued_at + initial_delay


def next_run_at(
    *,
    enqueued_at: int,
    attempts: int,
    initial_delay: int,
    policy: BackoffPolicy,
    delay: int,
    longest: int,
) -> int:
    """The earliest next start of one-time work that is ENQUEUED.

    A work that ran before waits for its backoff, counted from the moment it was enqueued again; its initial delay
    plays no part.
    """
    if attempts > 0:
        return enqueued_at + backoff(policy, delay, attempts, longest)
    return first_run_at(enqueued_at, initial_delay)
