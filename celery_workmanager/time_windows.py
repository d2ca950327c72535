"""Hours in which a work may run, on the clocks of a time zone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Any
from zoneinfo import ZoneInfo

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.schedules import check_timezone

__all__ = ("DAYS", "TimeWindow")

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From `start` until before `end` (``time`` or ``"22:00"``), on the wall clock of `timezone`.

    One whose end comes before its start goes past midnight; `days` (``"mon"`` … ``"sun"``, none: every day) are those
    on which it begins. Raises InvalidRequest.
    """

    start: time_of_day
    end: time_of_day
    timezone: str = "UTC"
    days: tuple[str, ...] = ()

    def __init__(
        self, start: time_of_day | str, end: time_of_day | str, timezone: str = "UTC", days: Iterable[str] = ()
    ) -> None:
        first, last = _time("time window's start", start), _time("time window's end", end)
        if first == last:
            raise InvalidRequest("time window", "of some length, less than a day", f"{start} to {end}")
        for name, value in (("start", first), ("end", last)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "timezone", check_timezone(timezone))
        object.__setattr__(self, "days", _days(days))

    def __str__(self) -> str:
        days = f"{','.join(self.days)} " if self.days else ""
        return f"{days}{_clock(self.start)}-{_clock(self.end)} {self.timezone}"

    def contains(self, at: datetime) -> bool:
        """Whether `at` (aware) lies in it."""
        local = at.astimezone(ZoneInfo(self.timezone))
        now = local.time()
        if self.start < self.end:
            return self.start <= now < self.end and self._begins_on(local)
        if now >= self.start:
            return self._begins_on(local)
        return now < self.end and self._begins_on(local - timedelta(days=1))

    def _begins_on(self, local: datetime) -> bool:
        return not self.days or DAYS[local.weekday()] in self.days

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types, without what is as usual."""
        found: dict[str, Any] = {"start": _clock(self.start), "end": _clock(self.end), "timezone": self.timezone}
        return found | ({"days": list(self.days)} if self.days else {})

    @classmethod
    def of(cls, value: Any) -> TimeWindow:
        """Return `value` when it is one, or the one that a mapping of its parts says. Raises InvalidRequest."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or not {"start", "end"} <= set(value) <= set(cls.__slots__):
            raise InvalidRequest("time window", "a TimeWindow", value)
        return cls(**value)


def _time(what: str, value: Any) -> time_of_day:
    if isinstance(value, str):
        try:
            value = time_of_day.fromisoformat(value)
        except ValueError:
            raise InvalidRequest(what, "a time of day such as '22:00'", value) from None
    if not isinstance(value, time_of_day) or value.tzinfo is not None:
        raise InvalidRequest(what, "a time of day without a time zone", value)
    return value


def _clock(value: time_of_day) -> str:
    return value.isoformat("minutes" if value == value.replace(second=0, microsecond=0) else "auto")


def _days(days: Any) -> tuple[str, ...]:
    if isinstance(days, str) or not isinstance(days, Iterable):
        raise InvalidRequest("time window's days", f"several of {', '.join(DAYS)}", days)
    named = list(days)
    if unknown := [day for day in named if day not in DAYS]:
        raise InvalidRequest("time window's days", f"several of {', '.join(DAYS)}", unknown)
    return tuple(day for day in DAYS if day in named) if set(named) != set(DAYS) else ()
