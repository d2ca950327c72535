"""When a crontab comes on the clocks of a time zone, also on the days when these are changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab
from celery.utils.time import ffwd
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.occurrences import next_occurrence
from celery_workmanager.schedules import Crontab, read_schedule
from celery_workmanager.timing import as_datetime, moment

MADRID, LORD_HOWE, SAO_PAULO, APIA = "Europe/Madrid", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"


def cron(**fields: object) -> Crontab:
    found = read_schedule(crontab(**fields))
    assert isinstance(found, Crontab)
    return found


def occurrences(table: Crontab, zone: str, after: datetime) -> Iterator[datetime]:
    at = moment(after)
    while (found := next_occurrence(table, zone, at)) is not None:
        yield as_datetime(found)
        at = found


def clocks(table: Crontab, zone: str, after: str, count: int) -> list[str]:
    """What the clocks of `zone` show at the next `count` occurrences after a moment on these clocks."""
    tz = ZoneInfo(zone)
    found = occurrences(table, zone, datetime.fromisoformat(after).replace(tzinfo=tz))
    return [f"{at.astimezone(tz):%a %d %H:%M %z}" for at in islice(found, count)]


def test_an_ordinary_night_follows_the_clock():
    assert clocks(cron(hour=3, minute=15), MADRID, "2026-01-10T03:15", 2) == [
        "Sun 11 03:15 +0100",
        "Mon 12 03:15 +0100",
    ]


def test_an_occurrence_is_later_than_the_moment_asked_about():
    at = moment(datetime(2026, 1, 10, 3, 0, tzinfo=UTC))
    table = cron(hour=3, minute=0)
    assert next_occurrence(table, "UTC", at - 1) == at
    assert next_occurrence(table, "UTC", at) == at + 86_400_000_000


def test_day_of_week_and_day_of_month_must_both_match_as_in_celery():
    friday_13th = cron(minute=0, hour=9, day_of_week="fri", day_of_month=13)
    assert clocks(friday_13th, "UTC", "2026-01-01T00:00", 3) == [
        "Fri 13 09:00 +0000",
        "Fri 13 09:00 +0000",
        "Fri 13 09:00 +0000",
    ]
    months = [at.month for at in islice(occurrences(friday_13th, "UTC", datetime(2026, 1, 1, tzinfo=UTC)), 3)]
    assert months == [2, 3, 11]


def test_sunday_is_zero():
    for sunday in (0, "0", "sun"):
        assert clocks(cron(minute=0, hour=0, day_of_week=sunday), "UTC", "2026-01-01T00:00", 1) == [
            "Sun 04 00:00 +0000"
        ]


def test_the_29th_of_february_is_found_years_ahead_also_across_a_century():
    leap = cron(minute=0, hour=0, day_of_month=29, month_of_year=2)
    found = list(islice(occurrences(leap, "UTC", datetime(2093, 1, 1, tzinfo=UTC)), 2))
    assert [at.year for at in found] == [2096, 2104]
    sunday = cron(minute=0, hour=0, day_of_month=29, month_of_year=2, day_of_week=0)
    (at,) = islice(occurrences(sunday, "UTC", datetime(2088, 3, 1, tzinfo=UTC)), 1)
    assert (at.year, at.isoweekday()) == (2128, 7)


def test_after_the_last_day_of_the_calendar_there_is_none():
    assert next_occurrence(cron(minute=0, hour=0), "UTC", moment(datetime(9999, 12, 31, tzinfo=UTC))) is None
    assert next_occurrence(cron(), "UTC", moment(datetime(9999, 12, 31, 23, 59, tzinfo=UTC))) is None


# -- clocks are put forward: 2026-03-29 in Madrid, 02:00 becomes 03:00 ------------------------------------------------


def test_a_named_time_in_the_gap_runs_at_the_first_moment_after_it():
    assert clocks(cron(hour=2, minute=30), MADRID, "2026-03-28T03:00", 2) == [
        "Sun 29 03:00 +0200",
        "Mon 30 02:30 +0200",
    ]


def test_several_named_times_in_the_gap_are_one_run():
    assert clocks(cron(hour="2,3", minute="0,30"), MADRID, "2026-03-29T00:00", 3) == [
        "Sun 29 03:00 +0200",
        "Sun 29 03:30 +0200",
        "Mon 30 02:00 +0200",
    ]


def test_a_crontab_of_every_hour_leaves_the_gap_out():
    assert clocks(cron(minute=30), MADRID, "2026-03-29T00:45", 3) == [
        "Sun 29 01:30 +0100",
        "Sun 29 03:30 +0200",
        "Sun 29 04:30 +0200",
    ]


# -- clocks are put back: 2026-10-25 in Madrid, 03:00 becomes 02:00 ---------------------------------------------------


def test_a_named_time_that_comes_twice_runs_the_first_time():
    assert clocks(cron(hour=2, minute=30), MADRID, "2026-10-24T03:00", 2) == [
        "Sun 25 02:30 +0200",
        "Mon 26 02:30 +0100",
    ]


def test_named_times_around_the_doubled_hour_keep_their_order_and_come_once():
    assert clocks(cron(hour="1-3", minute=0), MADRID, "2026-10-25T00:30", 4) == [
        "Sun 25 01:00 +0200",
        "Sun 25 02:00 +0200",
        "Sun 25 03:00 +0100",
        "Mon 26 01:00 +0100",
    ]


def test_a_crontab_of_every_hour_runs_in_both_doubled_hours():
    assert clocks(cron(minute=30), MADRID, "2026-10-25T01:45", 3) == [
        "Sun 25 02:30 +0200",
        "Sun 25 02:30 +0100",
        "Sun 25 03:30 +0100",
    ]


def test_every_quarter_of_an_hour_is_every_quarter_of_an_hour_on_both_days():
    for day in (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        found = list(islice(occurrences(cron(minute="*/15"), MADRID, day), 20))
        assert {later - sooner for sooner, later in pairwise(found)} == {timedelta(minutes=15)}


# -- odder clocks --------------------------------------------------------------------------------------------------


def test_clocks_that_move_by_half_an_hour():
    """Lord Howe: 02:00 becomes 02:30 on 4 October, and 02:00 becomes 01:30 on 5 April."""
    assert clocks(cron(hour=2, minute=15), LORD_HOWE, "2026-10-04T00:00", 2) == [
        "Sun 04 02:30 +1100",
        "Mon 05 02:15 +1100",
    ]
    assert clocks(cron(hour=1, minute=45), LORD_HOWE, "2026-04-05T00:00", 2) == [
        "Sun 05 01:45 +1100",
        "Mon 06 01:45 +1030",
    ]


def test_a_day_that_begins_at_one_o_clock():
    """Brazil, 4 November 2018: midnight became 01:00."""
    assert clocks(cron(hour=0, minute=0), SAO_PAULO, "2018-11-03T12:00", 2) == [
        "Sun 04 01:00 -0200",
        "Mon 05 00:00 -0200",
    ]
    assert clocks(cron(minute=0, day_of_week="sun"), SAO_PAULO, "2018-11-03T12:00", 2) == [
        "Sun 04 01:00 -0200",
        "Sun 04 02:00 -0200",
    ]


def test_a_day_that_was_left_out():
    """Samoa had no 30 December 2011: what was named for it runs at the first moment after."""
    assert clocks(cron(hour=12, minute=0), APIA, "2011-12-29T13:00", 2) == [
        "Sat 31 00:00 +1400",
        "Sat 31 12:00 +1400",
    ]
    assert clocks(cron(minute=0), APIA, "2011-12-29T22:30", 3) == [
        "Thu 29 23:00 -1000",
        "Sat 31 00:00 +1400",
        "Sat 31 01:00 +1400",
    ]


FIELDS = st.builds(
    Crontab,
    st.sets(st.integers(0, 59), min_size=1, max_size=4).map(tuple),
    st.one_of(st.just(tuple(range(24))), st.sets(st.integers(0, 23), min_size=1, max_size=4).map(tuple)),
    st.one_of(st.just(tuple(range(1, 32))), st.sets(st.integers(1, 28), min_size=1, max_size=4).map(tuple)),
    st.one_of(st.just(tuple(range(1, 13))), st.sets(st.integers(1, 12), min_size=1, max_size=4).map(tuple)),
    st.one_of(st.just(tuple(range(7))), st.sets(st.integers(0, 6), min_size=1, max_size=4).map(tuple)),
)
MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(FIELDS, st.sampled_from([MADRID, LORD_HOWE, SAO_PAULO, "Asia/Kathmandu", "UTC"]), MOMENTS)
def test_occurrences_grow_and_show_what_was_named_or_follow_a_gap(table, zone, after):
    tz = ZoneInfo(zone)
    before = after
    for at in islice(occurrences(table, zone, after), 5):
        assert at > before
        before, local = at, at.astimezone(tz)
        matches = (
            local.minute in table.minute
            and local.hour in table.hour
            and local.day in table.day_of_month
            and local.month in table.month_of_year
            and local.isoweekday() % 7 in table.day_of_week
            and local.second == 0
        )
        just_before = (at - timedelta(seconds=1)).astimezone(tz).replace(tzinfo=None)
        follows_gap = local.replace(tzinfo=None) - just_before > timedelta(seconds=1)
        assert matches or follows_gap


@given(FIELDS, MOMENTS)
def test_in_utc_nothing_between_two_occurrences_is_left_out(table, after):
    """As far as Celery's own crontab sees it."""
    (at,) = islice(occurrences(table, "UTC", after), 1)
    theirs = crontab(
        minute=set(table.minute),
        hour=set(table.hour),
        day_of_month=set(table.day_of_month),
        month_of_year=set(table.month_of_year),
        day_of_week=set(table.day_of_week),
        nowfun=lambda: after,
    )
    left = theirs.remaining_delta(after, ffwd=ffwd)
    start, delta, _ = left
    assert at == start + delta


@pytest.mark.parametrize("zone", [MADRID, LORD_HOWE])
def test_a_year_of_named_hours_has_a_run_for_every_day(zone):
    found = list(islice(occurrences(cron(hour=2, minute=10), zone, datetime(2025, 12, 31, 20, tzinfo=UTC)), 365))
    days = [at.astimezone(ZoneInfo(zone)).date() for at in found]
    assert len(set(days)) == 365
    assert days == sorted(days)
