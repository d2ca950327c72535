"""Celery's schedules as values: read by what they carry, so that these words need no Celery."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from celery_workmanager.checks import check_duration, check_text
from celery_workmanager.errors import InvalidRequest

__all__ = ("Crontab", "check_timezone", "read_schedule")

_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
#: The fields as Celery's ``crontab`` calls them, in the order of a crontab file, with their lowest and highest values.
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day_of_month", 1, 31),
    ("month_of_year", 1, 12),
    ("day_of_week", 0, 6),
)


@dataclass(frozen=True, slots=True)
class Crontab:
    """Moments on the wall clock: all five fields must match (Celery, ``crontab``; Sunday is 0).

    Raises InvalidRequest when no day ever matches.
    """

    minute: tuple[int, ...]
    hour: tuple[int, ...]
    day_of_month: tuple[int, ...]
    month_of_year: tuple[int, ...]
    day_of_week: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, low, high in _FIELDS:
            values = tuple(getattr(self, name))
            if not values or not all(isinstance(value, int) and low <= value <= high for value in values):
                raise InvalidRequest(f"crontab's {name}", f"whole numbers from {low} to {high}", values)
            object.__setattr__(self, name, tuple(sorted(set(values))))
        if not any(min(self.day_of_month) <= _DAYS_OF_MONTH[month - 1] for month in self.month_of_year):
            raise InvalidRequest("crontab", "true of some day", str(self))

    def to_json(self) -> list[list[int] | None]:
        """Return the values of its fields in JSON types; None where there are all."""
        fields = [(getattr(self, name), high - low + 1) for name, low, high in _FIELDS]
        return [None if len(values) == count else list(values) for values, count in fields]

    @classmethod
    def from_json(cls, fields: Iterable[list[int] | None]) -> Crontab:
        """Return the crontab that ``to_json`` wrote."""
        both = zip(fields, _FIELDS, strict=True)
        return cls(*(tuple(range(low, high + 1) if values is None else values) for values, (_, low, high) in both))

    @property
    def takes_every_hour(self) -> bool:
        """Whether it names no hours."""
        return len(self.hour) == 24  # noqa: PLR2004 - hours of a day

    def __str__(self) -> str:
        return " ".join(_field_text(getattr(self, name), low, high) for name, low, high in _FIELDS)


def _field_text(values: tuple[int, ...], low: int, high: int) -> str:
    """The values as a crontab file has them: ``*``, ``*/15``, ``1-5`` or ``0,30``."""
    for step in range(1, high - low + 1):
        if len(values) > 1 and values == tuple(range(low, high + 1, step)):
            return "*" if step == 1 else f"*/{step}"
    if len(values) > 2 and values == tuple(range(values[0], values[-1] + 1)):  # noqa: PLR2004 - two are a list
        return f"{values[0]}-{values[-1]}"
    return ",".join(map(str, values))


def read_schedule(schedule: Any) -> Crontab | timedelta:
    """Return what one of Celery's schedules says: a crontab, or the interval of a ``schedule``.

    Raises InvalidRequest for any other, such as ``solar``.
    """
    fields = {name: getattr(schedule, name, None) for name, _, _ in _FIELDS}
    if all(isinstance(values, Iterable) and not isinstance(values, str) for values in fields.values()):
        return Crontab(**{name: tuple(values or ()) for name, values in fields.items()})
    every = getattr(schedule, "run_every", None)
    if isinstance(every, (timedelta, int, float)):
        return check_duration("schedule", every)
    raise InvalidRequest("schedule", "Celery's crontab or schedule (others, such as solar, can't be kept)", schedule)


def check_timezone(name: Any) -> str:
    """Return the IANA name of a time zone that is known here; raises InvalidRequest."""
    text = check_text("timezone", name)
    try:
        ZoneInfo(text)
    except (LookupError, ValueError, OSError):
        raise InvalidRequest("timezone", "the IANA name of a time zone, such as 'Europe/Madrid'", text) from None
    return text
