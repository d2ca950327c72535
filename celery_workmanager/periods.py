"""When periodic work runs. Pure: every moment is an argument, in microseconds since 1970-01-01 UTC.

Source of the formulas for a plain interval: WorkManager, ``WorkSpec.calculateNextRunTime``: it counts from the end of a
run, and flex shapes the first period only. A fixed rate and a crontab have *occurrences*: moments that are known in
advance; the next one follows from the one before, never from the time, so that a step of the clock neither loses nor
doubles a period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.occurrences import next_occurrence
from celery_workmanager.outcome import Standing
from celery_workmanager.periodic import DEFAULT_CATCH_UP_LIMIT, UTC_NAME, PeriodicWorkRequest
from celery_workmanager.policies import CatchUp
from celery_workmanager.schedules import Crontab
from celery_workmanager.settings import Limits
from celery_workmanager.timing import SECOND, as_timedelta, micros, moment

_HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Periodicity:
    """When a stored work repeats; durations and moments in microseconds."""

    interval: int | None = None
    flex: int | None = None
    #: Occurrences at the interval, instead of counting from the end of each run.
    is_rate: bool = False
    crontab: Crontab | None = None
    zone: str = UTC_NAME
    catch_up: CatchUp = CatchUp.ONCE
    limit: int = DEFAULT_CATCH_UP_LIMIT
    start: int | None = None
    end: int | None = None
    keep: int | None = None
    #: The arguments of a task call, from which each period begins anew: a retry may have changed those of the work.
    call: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self | None:
        """What the options of a stored work say; ``None`` of one-time work."""
        entry = options.get("period")
        if entry is None:
            return None
        given = dict(entry)
        if "crontab" in given:
            given["crontab"] = Crontab.from_json(given["crontab"])
        if "catch_up" in given:
            given["catch_up"] = CatchUp(given["catch_up"])
        return cls(**given)

    @property
    def has_occurrences(self) -> bool:
        """Whether its moments are known in advance."""
        return self.is_rate or self.crontab is not None

    @property
    def times(self) -> tuple[Any, ...]:
        """All that decides about the moments of its occurrences, but the end."""
        return (self.interval, self.flex, self.is_rate, self.crontab, self.zone, self.start)


def period_option(request: PeriodicWorkRequest, limits: Limits) -> dict[str, Any]:
    """The entry of a work's options that says when it repeats, in JSON types. Raises InvalidRequest."""
    interval, flex, _ = fitted(request, limits)
    crontab = request.schedule
    entries: dict[str, Any] = {
        "interval": interval,
        "flex": flex,
        "is_rate": (request.has_occurrences and crontab is None) or None,
        "crontab": None if crontab is None else crontab.to_json(),
        "zone": None if crontab is None or request.timezone == UTC_NAME else request.timezone,
        "catch_up": None if request.catch_up is CatchUp.ONCE else request.catch_up.value,
        "limit": None if request.catch_up_limit == DEFAULT_CATCH_UP_LIMIT else request.catch_up_limit,
        "start": None if request.start_at is None else moment(request.start_at),
        "end": None if request.end_at is None else moment(request.end_at),
        "keep": request.keep_runs,
        "call": None if request.call is None else request.call.arguments,
    }
    return {key: value for key, value in entries.items() if value is not None}


def fitted(request: PeriodicWorkRequest, limits: Limits) -> tuple[int | None, int | None, list[str]]:
    """Interval and flex moved into the limits of the profile, and a sentence for each that was.

    Source: WorkManager, ``WorkSpec.setPeriodic``. Raises InvalidRequest for a flex longer than the interval, unless the
    profile cuts it.
    """
    interval, flex, said = request.repeat_interval, request.flex_interval, list[str]()
    if interval is None:
        return None, None, said
    if interval < limits.min_period:
        said.append(
            f"expected repeat_interval to be at least {limits.min_period}, got: {interval}; it is raised to that"
        )
        interval = limits.min_period
    if flex is None:
        return micros(interval), None, said
    if flex < limits.min_flex:
        said.append(f"expected flex_interval to be at least {limits.min_flex}, got: {flex}; it is raised to that")
        flex = limits.min_flex
    if flex > interval:
        if not limits.cuts_flex:
            raise InvalidRequest("flex_interval", f"at most the repeat_interval, {interval}", flex)
        said.append(f"expected flex_interval to be at most the interval, {interval}, got: {flex}; it is cut to that")
        flex = interval
    return micros(interval), None if flex == interval else micros(flex), said


# -- moments ---------------------------------------------------------------------------------------------------------


def first_moment(period: Periodicity, enqueued_at: int, initial_delay: int) -> int | None:
    """The nominal moment of the first run; ``None``: there is none before the end."""
    earliest = enqueued_at + initial_delay
    if period.crontab is not None:
        since = earliest if period.start is None else max(earliest, period.start)
        return _before_end(period, next_occurrence(period.crontab, period.zone, since - 1))
    interval = period.interval or 0
    offset = 0 if period.flex is None else interval - period.flex
    if period.start is None:
        return _before_end(period, earliest + offset)
    if not period.is_rate:
        return _before_end(period, max(earliest + offset, period.start))
    begins = period.start + offset
    return _before_end(period, begins if begins >= earliest else _on_grid(begins, interval, earliest - 1))


def next_moment(period: Periodicity, at: int, after: int) -> int | None:
    """The first occurrence later than `after`; `at` is one of them. ``None``: there is none before the end."""
    if period.crontab is not None:
        return _before_end(period, next_occurrence(period.crontab, period.zone, after))
    return _before_end(period, _on_grid(at, period.interval or 1, after))


def _on_grid(at: int, interval: int, after: int) -> int:
    return at + interval * ((after - at) // interval + 1)


def _before_end(period: Periodicity, at: int | None) -> int | None:
    return None if at is None or (period.end is not None and at > period.end) else at


def following_moment(period: Periodicity, standing: Standing, now: int) -> int | None:
    """The nominal moment of the run after the one that ends `now`; ``None``: there is none before the end."""
    if not period.has_occurrences:
        return _before_end(period, now + (period.interval or 0))
    # A run that was moved stands for its own occurrence and for all that it was moved over.
    moved = standing.at if standing.override_at is None or standing.override_is_new else standing.override_at
    return caught_up(period, next_moment(period, standing.at, max(standing.at, moved)), now)


def caught_up(period: Periodicity, at: int | None, now: int) -> int | None:
    """Which occurrence is to run when `at` is the earliest that has not been; ``None``: none before the end.

    An occurrence is missed when the following one has come before it was started; one that is merely late runs.
    """
    if at is None or at > now or not period.has_occurrences:
        return at
    following = next_moment(period, at, at)
    if following is None or following > now:
        return at
    if period.catch_up is CatchUp.SKIP:
        return next_moment(period, at, now)
    return _latest(period, at, now, 1 if period.catch_up is CatchUp.ONCE else period.limit)


def _latest(period: Periodicity, at: int, now: int, count: int) -> int:
    """The first of the latest `count` occurrences from `at` to `now`."""
    until = now if period.end is None else min(now, period.end)
    if period.crontab is None:
        interval = period.interval or 1
        return max(at, at + interval * ((until - at) // interval - count + 1))
    span = _HOUR
    while True:
        # Looked for from the end: a crontab of every minute has half a million of them a year.
        since = max(at - 1, until - span)
        found = deque(_occurrences(period, at, since, until), maxlen=count)
        if since < at or len(found) == count:
            return found[0]
        span *= 4


def _occurrences(period: Periodicity, at: int, since: int, until: int) -> Iterator[int]:
    found = next_moment(period, at, since)
    while found is not None and found <= until:
        yield found
        found = next_moment(period, at, found)


# -- the next run ----------------------------------------------------------------------------------------------------


def run_moment(standing: Standing, enqueued_at: int, attempts: int, wait: int, limits: Limits) -> int:
    """The earliest next start of periodic work that is ENQUEUED.

    An override goes first (after the first period: no sooner than the shortest interval after the last end), then the
    backoff of a run that asks for another (`wait`), then the nominal moment.
    """
    if standing.override_at is not None:
        soonest = enqueued_at + micros(limits.min_period)
        return max(standing.override_at, soonest) if standing.count else standing.override_at
    return enqueued_at + wait if attempts else standing.at


def moment_after_update(
    old: Periodicity, new: Periodicity, standing: Standing, enqueued_at: int, delays: tuple[int, int]
) -> int | None:
    """The nominal moment of the next run of a waiting work that gets another periodicity; ``None``: there is none.

    `delays`: its initial delay before and after. What was decided stays where the update says the same; else it counts
    from the enqueue, or from the end of the last run.
    """
    if not standing.count:
        is_same = old.times == new.times and delays[0] == delays[1]
        return _before_end(new, standing.at) if is_same else first_moment(new, enqueued_at, delays[1])
    if new.has_occurrences and old.times == new.times:
        return _before_end(new, standing.at)
    if new.is_rate and new.start is not None:
        return first_moment(new, enqueued_at + 1, 0)
    if new.has_occurrences:
        return next_moment(new, enqueued_at, enqueued_at)
    return _before_end(new, enqueued_at + (new.interval or 0))


def upcoming(period: Periodicity, standing: Standing, run_at: int | None, now: int) -> Iterator[int]:
    """The moments of the next runs, as far as they are known; `run_at`: of a work that waits, that of its next run.

    Of a plain interval as if runs took no time. Retries are not foreseen.
    """
    if run_at is not None:
        yield run_at
    at = following_moment(period, standing, now if run_at is None else max(now, run_at))
    while at is not None:
        yield at
        at = next_moment(period, at, at)


def described(period: Periodicity) -> str:
    """The schedule in a few words."""
    if period.crontab is not None:
        return f"{period.crontab} {period.zone}"
    every = as_timedelta(period.interval or 0)
    return f"every {every}" if period.is_rate else f"{every} after each run"
