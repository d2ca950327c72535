"""The moments of a crontab on the clocks of a time zone. Pure: every moment is an argument, in microseconds since 1970.

On the days when clocks are changed: a crontab that names hours runs a skipped time at the first moment after the gap,
and a doubled time once, the first time. One that takes every hour follows real time: both doubled hours, nothing for
the gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from celery_workmanager.schedules import Crontab
from celery_workmanager.timing import as_datetime, moment

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
#: 29 February on a given weekday comes every 28 years; where a century leaves one out, after 40.
_YEARS_AHEAD = 41


def next_occurrence(crontab: Crontab, zone: str, after: int) -> int | None:
    """The first moment of `crontab` later than `after`; ``None``: there is none before the calendar ends."""
    tz = ZoneInfo(zone)
    since = as_datetime(after)
    try:
        found = _in_real_time(crontab, tz, since) if crontab.takes_every_hour else _on_the_clock(crontab, tz, since)
    except OverflowError:
        return None
    return None if found is None else moment(found)


def _on_the_clock(crontab: Crontab, tz: ZoneInfo, after: datetime) -> datetime | None:
    # From the day before: a time that its day skipped may come on the next one.
    for day in _days(crontab, after.astimezone(tz).date() - _DAY):
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a clock's face
        for hour in crontab.hour:
            if _instant(midnight.replace(hour=hour, minute=crontab.minute[-1]), tz) > after:
                instants = (_instant(midnight.replace(hour=hour, minute=each), tz) for each in crontab.minute)
                return next(at for at in instants if at > after)
    return None


def _in_real_time(crontab: Crontab, tz: ZoneInfo, after: datetime) -> datetime | None:
    at = after.replace(second=0, microsecond=0) + _MINUTE
    for day in _days(crontab, at.astimezone(tz).date()):
        at = max(at, _instant(datetime(day.year, day.month, day.day), tz))  # noqa: DTZ001 - a clock's face
        while (local := at.astimezone(tz)).date() <= day:
            if local.date() == day and local.minute in crontab.minute:
                return at
            at += _until_next(crontab.minute, local.minute)
    return None


def _until_next(minutes: tuple[int, ...], minute: int) -> timedelta:
    # To the next full hour at most: clocks may be changed there.
    return min(next((each for each in minutes if each > minute), 60), 60) * _MINUTE - minute * _MINUTE


def _days(crontab: Crontab, first: date) -> Iterator[date]:
    """The days from `first` on that match."""
    weekdays = frozenset(crontab.day_of_week)
    for year in range(first.year, min(first.year + _YEARS_AHEAD, 9999) + 1):
        for month in crontab.month_of_year:
            if (year, month) < (first.year, first.month):
                continue
            for number in crontab.day_of_month:
                try:
                    day = date(year, month, number)
                except ValueError:
                    break  # no such day in this month, and none after it
                if day >= first and day.isoweekday() % 7 in weekdays:
                    yield day


def _instant(wall: datetime, tz: ZoneInfo) -> datetime:
    """When the clocks show `wall`: the first time if twice, the first moment after the gap if never."""
    at = wall.replace(tzinfo=tz).astimezone(UTC)
    if at.astimezone(tz).replace(tzinfo=None) == wall:
        return at
    # In a gap: the clocks were changed between what the time would be by the new offset and by the old one.
    low, high = wall.replace(tzinfo=tz, fold=1).astimezone(UTC), at
    after = high.astimezone(tz).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        if middle.astimezone(tz).utcoffset() == after:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0)
