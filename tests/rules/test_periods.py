"""When periodic work runs: the worked examples of WorkManager's formulas, occurrences, and what is missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from celery.schedules import crontab
from celery.schedules import schedule as every
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.outcome import Standing
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.periods import (
    Periodicity,
    caught_up,
    described,
    first_moment,
    fitted,
    following_moment,
    moment_after_update,
    next_moment,
    period_option,
    run_moment,
    upcoming,
)
from celery_workmanager.policies import BackoffPolicy, CatchUp
from celery_workmanager.settings import Limits
from celery_workmanager.terms import backoff_wait
from celery_workmanager.timing import SECOND, as_datetime, micros, moment

ANDROID, SERVER = Limits.android(), Limits.server()
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
MIDNIGHT = moment(datetime(2026, 5, 4, tzinfo=UTC))
DAY_OF = datetime(2026, 5, 4, tzinfo=UTC)
ONE_HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)


def clock(text: str) -> int:
    """A time of day as a moment."""
    hours, minutes, seconds = (int(part) for part in f"{text}:0".split(":")[:3])
    return MIDNIGHT + ((hours * 60 + minutes) * 60 + seconds) * SECOND


def shown(at: int | None) -> str | None:
    return None if at is None else f"{as_datetime(at):%H:%M}"


def period(limits: Limits = ANDROID, **options: Any) -> Periodicity:
    """What is stored of a request with these options, as it is read again."""
    if "schedule" not in options:
        options.setdefault("repeat_interval", ONE_HOUR)
    found = Periodicity.of({"period": period_option(PeriodicWorkRequest("x", **options), limits)})
    assert found is not None
    return found


def first(at: str, delay: int = 0, **options: Any) -> str | None:
    return shown(first_moment(period(**options), clock(at), delay))


def next_run(
    at: str, ended: str, *, count: int = 0, attempts: int = 0, override: str | None = None, wait: int = 30 * SECOND
) -> int:
    """The next start of a work of one hour, by Android's rules; `at`: its nominal moment."""
    standing = Standing(count, clock(at), None if override is None else clock(override))
    options = {"backoff_delay": wait}
    return run_moment(standing, clock(ended), attempts, backoff_wait(options, ANDROID, attempts), ANDROID)


# -- Android's worked examples -----------------------------------------------------------------------------------------


def test_an_hour_without_flex_starts_at_once_and_counts_from_the_end_of_each_run():
    assert first("10:00") == "10:00"
    assert shown(following_moment(period(), Standing(0, clock("10:00")), clock("10:07"))) == "11:07"


def test_flex_shapes_only_the_first_run():
    assert first("10:00", flex_interval=QUARTER) == "10:45"
    of = period(flex_interval=QUARTER)
    assert shown(following_moment(of, Standing(0, clock("10:45")), clock("10:46"))) == "11:46"


def test_a_delay_comes_on_top_of_the_flex():
    assert first("10:00", 20 * MINUTE, flex_interval=QUARTER) == "11:05"


def test_a_flex_as_long_as_the_interval_shapes_nothing():
    assert first("10:00", flex_interval=ONE_HOUR) == "10:00"


def test_retries_inside_a_period_wait_for_their_backoff_from_the_end_of_the_run():
    assert next_run("10:00", "10:05", attempts=1) == clock("10:05:30")
    assert next_run("10:00", "10:05:40", attempts=2) == clock("10:06:40")
    assert shown(following_moment(period(), Standing(0, clock("10:00")), clock("10:07"))) == "11:07"


def test_an_override_of_the_first_period_is_kept_to_the_moment_whatever_delay_or_backoff_say():
    assert next_run("10:00", "10:00", override="14:00") == clock("14:00")
    assert next_run("10:00", "10:05", attempts=3, override="14:00") == clock("14:00")
    assert next_run("10:00", "10:05", override="09:00") == clock("09:00")


def test_after_the_first_period_an_override_comes_no_sooner_than_a_quarter_after_the_last_end():
    assert next_run("11:07", "10:07", count=1, override="10:10") == clock("10:22")
    assert next_run("11:07", "10:07", count=1, override="10:30") == clock("10:30")


def test_after_an_override_the_interval_counts_from_the_end_of_its_run():
    standing = Standing(0, clock("10:00"), clock("14:00"))
    assert shown(following_moment(period(), standing, clock("14:03"))) == "15:03"


def test_a_run_of_an_override_that_asks_for_another_waits_for_its_backoff():
    assert next_run("10:00", "14:03", attempts=1, wait=30 * MINUTE) == clock("14:33")


def test_a_stopped_run_is_due_by_the_backoff_from_the_moment_of_enqueue():
    assert next_run("10:00", "10:00", attempts=1) == clock("10:00:30")


def test_backoff_of_periodic_work_obeys_its_policy():
    options = {"backoff_policy": int(BackoffPolicy.LINEAR), "backoff_delay": 40 * SECOND}
    assert backoff_wait(options, ANDROID, 3) == 120 * SECOND
    assert backoff_wait({}, ANDROID, 11) == 5 * HOUR


def test_on_a_server_an_override_waits_for_a_second_only():
    standing = Standing(1, clock("11:07"), clock("10:07"))
    assert run_moment(standing, clock("10:07"), 0, 0, SERVER) == clock("10:07:01")


# -- limits ------------------------------------------------------------------------------------------------------------


def fits(limits: Limits, interval: Any, flex: Any = None) -> tuple[Any, ...]:
    found, cut, said = fitted(PeriodicWorkRequest("x", repeat_interval=interval, flex_interval=flex), limits)
    return (found or 0) // SECOND, cut if cut is None else cut // SECOND, len(said)


@pytest.mark.parametrize(
    ("limits", "interval", "flex", "expected"),
    [
        (ANDROID, 60, None, (900, None, 1)),
        (ANDROID, 900, None, (900, None, 0)),
        (ANDROID, 3600, 60, (3600, 300, 1)),
        (ANDROID, 3600, 300, (3600, 300, 0)),
        (ANDROID, 3600, 7200, (3600, None, 1)),
        (ANDROID, 60, 7200, (900, None, 2)),
        (ANDROID, 60, 60, (900, 300, 2)),
        (SERVER, 0.5, None, (1, None, 1)),
        (SERVER, 0, None, (1, None, 1)),
        (SERVER, 1, 0, (1, 0, 0)),
        (SERVER, 3600, 3600, (3600, None, 0)),
    ],
)
def test_intervals_and_flexes_are_moved_into_the_limits_of_the_profile_and_that_is_said(
    limits, interval, flex, expected
):
    assert fits(limits, interval, flex) == expected


def test_on_a_server_a_flex_longer_than_the_interval_is_refused():
    with pytest.raises(InvalidRequest, match="expected flex_interval to be at most the repeat_interval"):
        fits(SERVER, 60, 61)


def test_what_is_said_tells_what_was_expected_and_what_is_done():
    _, _, said = fitted(PeriodicWorkRequest("x", repeat_interval=60), ANDROID)
    assert said == ["expected repeat_interval to be at least 0:15:00, got: 0:01:00; it is raised to that"]


# -- occurrences -------------------------------------------------------------------------------------------------------


def test_a_fixed_rate_does_not_drift_and_begins_when_it_is_enqueued():
    of = period(fixed_rate=True)
    assert first("10:20", 5 * MINUTE, fixed_rate=True) == "10:25"
    assert shown(following_moment(of, Standing(0, clock("10:25")), clock("10:31"))) == "11:25"


def test_celerys_schedule_is_a_fixed_rate():
    of = period(schedule=every(1800))
    assert (of.interval, of.is_rate) == (1800 * SECOND, True)


def test_a_start_is_where_a_fixed_rate_counts_from_also_when_it_lies_in_the_past():
    ten_to = DAY_OF + timedelta(hours=-4, minutes=-10)
    assert first("10:20", fixed_rate=True, start_at=ten_to) == "10:50"
    assert first("10:50", fixed_rate=True, start_at=ten_to) == "10:50"
    assert first("10:20", fixed_rate=True, start_at=DAY_OF + timedelta(hours=14)) == "14:00"


def test_nothing_runs_before_its_start():
    two = DAY_OF + timedelta(hours=14)
    assert first("10:00", start_at=two) == "14:00"
    assert first("15:00", start_at=two) == "15:00"
    assert first("10:00", schedule=crontab(minute=0), start_at=two) == "14:00"


def test_a_flex_of_every_period_puts_each_run_into_the_last_part_of_its_hour():
    options: dict[str, Any] = {"flex_interval": QUARTER, "flex_every_period": True}
    assert first("10:00", **options) == "10:45"
    of = period(**options)
    assert shown(following_moment(of, Standing(0, clock("10:45")), clock("10:46"))) == "11:45"


def test_a_crontab_begins_with_its_first_moment_after_the_delay():
    assert first("10:00", schedule=crontab(minute=0)) == "10:00"
    assert first("10:01", schedule=crontab(minute=0)) == "11:00"
    assert first("10:01", 2 * HOUR, schedule=crontab(minute=0)) == "13:00"


def test_a_crontab_is_read_on_the_clocks_of_its_zone():
    assert first("00:00", schedule=crontab(minute=0, hour=9), timezone="Asia/Tokyo") == "00:00"
    assert first("00:00", schedule=crontab(minute=0, hour=9), timezone="Europe/Madrid") == "07:00"


def test_a_run_that_was_moved_stands_for_its_occurrence_and_all_that_it_was_moved_over():
    of = period(fixed_rate=True)
    late = Standing(0, clock("10:00"), clock("12:30"))
    assert shown(following_moment(of, late, clock("12:31"))) == "13:00"
    early = Standing(0, clock("10:00"), clock("09:10"))
    assert shown(following_moment(of, early, clock("09:11"))) == "11:00"


def test_an_override_that_was_set_during_the_run_does_not_count_for_that_run():
    new = Standing(0, clock("10:00"), clock("12:30"), override_is_new=True)
    assert shown(following_moment(period(fixed_rate=True), new, clock("10:01"))) == "11:00"


# -- ends --------------------------------------------------------------------------------------------------------------

NOON = DAY_OF + timedelta(hours=12)


@pytest.mark.parametrize(
    "options", [{}, {"fixed_rate": True}, {"schedule": crontab(minute=0)}], ids=["interval", "rate", "crontab"]
)
def test_a_moment_at_the_end_is_the_last_one(options):
    of = period(end_at=NOON, **options)
    assert shown(following_moment(of, Standing(0, clock("11:00")), clock("11:00"))) == "12:00"
    assert following_moment(of, Standing(1, clock("12:00")), clock("12:00:01")) is None
    assert first_moment(of, clock("12:00:01"), 0) is None


def test_an_interval_that_would_begin_after_the_end_does_not_begin():
    assert following_moment(period(end_at=NOON), Standing(0, clock("10:00")), clock("11:00:01")) is None


# -- what is missed ----------------------------------------------------------------------------------------------------

KINDS = {"rate": {"fixed_rate": True}, "crontab": {"schedule": crontab(minute=0)}}
both = pytest.mark.parametrize("kind", KINDS)


def missed(kind: str, policy: CatchUp, now: str, **options: Any) -> str | None:
    """What runs at `now` when the occurrence of 11:00 is the earliest that has not been."""
    of = period(**KINDS[kind], catch_up=policy, **options)
    return shown(caught_up(of, clock("11:00"), clock(now)))


@both
@pytest.mark.parametrize("policy", CatchUp)
def test_what_is_merely_late_runs(kind, policy):
    assert missed(kind, policy, "10:59") == "11:00"
    assert missed(kind, policy, "11:00") == "11:00"
    assert missed(kind, policy, "11:59") == "11:00"


@both
def test_skip_waits_for_the_next_occurrence(kind):
    assert missed(kind, CatchUp.SKIP, "12:00") == "13:00"
    assert missed(kind, CatchUp.SKIP, "13:30") == "14:00"


@both
def test_once_runs_for_all_of_them(kind):
    assert missed(kind, CatchUp.ONCE, "12:00") == "12:00"
    assert missed(kind, CatchUp.ONCE, "13:30") == "13:00"


@both
def test_all_runs_each_up_to_the_limit(kind):
    assert missed(kind, CatchUp.ALL, "13:30") == "11:00"
    assert missed(kind, CatchUp.ALL, "13:30", catch_up_limit=3) == "11:00"
    assert missed(kind, CatchUp.ALL, "13:30", catch_up_limit=2) == "12:00"
    assert missed(kind, CatchUp.ALL, "13:30", catch_up_limit=1) == "13:00"


@both
def test_missed_occurrences_end_with_the_end(kind):
    end = DAY_OF + timedelta(hours=12, minutes=30)
    assert missed(kind, CatchUp.SKIP, "13:30", end_at=end) is None
    assert missed(kind, CatchUp.ONCE, "13:30", end_at=end) == "12:00"
    assert missed(kind, CatchUp.ALL, "13:30", end_at=end, catch_up_limit=1) == "12:00"


def test_a_run_that_takes_longer_than_its_period_misses_what_came_meanwhile():
    for policy, expected in {CatchUp.SKIP: "13:00", CatchUp.ONCE: "12:00", CatchUp.ALL: "11:00"}.items():
        of = period(fixed_rate=True, catch_up=policy)
        assert shown(following_moment(of, Standing(0, clock("10:00")), clock("12:30"))) == expected


def test_nothing_is_missed_of_a_plain_interval():
    assert caught_up(period(), clock("11:00"), clock("20:00")) == clock("11:00")


def test_a_year_of_minutes_is_caught_up_without_a_look_at_each():
    of = period(schedule=crontab(), catch_up=CatchUp.ALL, catch_up_limit=200)
    now = MIDNIGHT + 365 * DAY
    assert caught_up(of, MIDNIGHT, now) == now - 199 * MINUTE


def test_a_rare_crontab_is_caught_up_too():
    of = period(schedule=crontab(minute=0, hour=0, day_of_month=1, month_of_year=1), catch_up=CatchUp.ALL)
    newyear = moment(datetime(2027, 1, 1, tzinfo=UTC))
    assert caught_up(of, newyear, moment(datetime(2032, 6, 1, tzinfo=UTC))) == newyear


@given(st.integers(0, 10 * DAY), st.integers(1, 5), st.sampled_from(CatchUp), st.sampled_from(["rate", "crontab"]))
def test_whatever_was_missed_the_next_run_is_an_occurrence_and_no_period_is_doubled(late, limit, policy, kind):
    of = period(**KINDS[kind], catch_up=policy, catch_up_limit=limit)
    at, now = clock("11:00"), clock("11:00") + late
    found = caught_up(of, at, now)
    assert found is not None
    assert (found - at) % HOUR == 0
    pending = late // HOUR + 1
    expected = {CatchUp.SKIP: pending, CatchUp.ONCE: pending - 1, CatchUp.ALL: max(0, pending - limit)}[policy]
    assert (found - at) // HOUR == (expected if pending > 1 else 0)


# -- the clock is set --------------------------------------------------------------------------------------------------


@both
@given(back=st.integers(0, 30 * DAY))
def test_a_clock_that_was_set_back_doubles_no_occurrence(kind, back):
    of = period(**KINDS[kind])
    assert following_moment(of, Standing(3, clock("11:00")), clock("11:05") - back) == clock("12:00")


# -- updates -----------------------------------------------------------------------------------------------------------


def after_update(
    old: Periodicity, new: Periodicity, count: int, at: str, ended: str, delays: tuple[int, int] = (0, 0)
) -> str | None:
    return shown(moment_after_update(old, new, Standing(count, clock(at)), clock(ended), delays))


def test_before_the_first_run_an_update_counts_from_the_enqueue():
    old, new = period(), period(flex_interval=QUARTER)
    assert after_update(old, new, 0, "10:00", "10:00") == "10:45"
    assert after_update(old, old, 0, "10:00", "10:00", (0, 5 * MINUTE)) == "10:05"


def test_between_runs_an_update_counts_from_the_end_of_the_last_one():
    assert after_update(period(), period(repeat_interval=timedelta(hours=2)), 1, "11:07", "10:07") == "12:07"
    assert after_update(period(), period(flex_interval=QUARTER), 1, "11:07", "10:07") == "11:07"


def test_an_update_that_says_the_same_leaves_the_occurrence_as_it_is():
    rate = period(fixed_rate=True)
    assert after_update(rate, period(fixed_rate=True, catch_up=CatchUp.SKIP), 4, "14:00", "13:20") == "14:00"
    assert after_update(rate, rate, 0, "10:00", "10:00") == "10:00"


def test_an_update_to_another_schedule_begins_after_the_last_run():
    rate = period(fixed_rate=True)
    assert after_update(rate, period(fixed_rate=True, repeat_interval=QUARTER), 4, "14:00", "13:20") == "13:35"
    assert after_update(period(), period(schedule=crontab(minute=30)), 1, "14:00", "13:30") == "14:30"
    anchored = period(fixed_rate=True, start_at=DAY_OF + timedelta(minutes=10))
    assert after_update(rate, anchored, 4, "14:00", "13:10") == "14:10"


def test_an_update_may_leave_no_run():
    assert after_update(period(), period(end_at=NOON), 1, "12:30", "11:30") is None
    rate: dict[str, Any] = {"fixed_rate": True}
    assert after_update(period(**rate), period(**rate, end_at=NOON), 1, "13:00", "11:30") is None


# -- what comes --------------------------------------------------------------------------------------------------------


def coming(of: Periodicity, standing: Standing, run_at: str | None, now: str, count: int = 3) -> list[str | None]:
    found = upcoming(of, standing, None if run_at is None else clock(run_at), clock(now))
    return [shown(at) for at in islice(found, count)]


def test_the_next_runs_are_foreseen():
    assert coming(period(), Standing(1, clock("11:07")), "11:07", "10:30") == ["11:07", "12:07", "13:07"]
    assert coming(period(fixed_rate=True), Standing(1, clock("11:00")), "11:00", "10:30") == ["11:00", "12:00", "13:00"]
    daily = period(schedule=crontab(minute=0, hour="9,17"))
    assert coming(daily, Standing(1, clock("17:00")), "17:00", "10:30") == ["17:00", "09:00", "17:00"]


def test_the_run_under_way_is_not_among_them():
    assert coming(period(), Standing(1, clock("11:00")), None, "11:05", 2) == ["12:05", "13:05"]
    assert coming(period(fixed_rate=True), Standing(1, clock("11:00")), None, "11:05", 2) == ["12:00", "13:00"]


def test_an_override_comes_first_and_the_schedule_goes_on_after_it():
    standing = Standing(1, clock("11:00"), clock("12:30"))
    assert coming(period(fixed_rate=True), standing, "12:30", "10:30") == ["12:30", "13:00", "14:00"]


def test_the_next_runs_end_with_the_end():
    of = period(fixed_rate=True, end_at=NOON)
    assert coming(of, Standing(1, clock("11:00")), "11:00", "10:30") == ["11:00", "12:00"]


# -- as it is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "entry"),
    [
        ({}, {"interval": HOUR}),
        ({"flex_interval": QUARTER}, {"interval": HOUR, "flex": micros(QUARTER)}),
        ({"fixed_rate": True, "catch_up": CatchUp.ALL}, {"interval": HOUR, "is_rate": True, "catch_up": "all"}),
        ({"keep_runs": 0, "end_at": NOON}, {"interval": HOUR, "keep": 0, "end": moment(NOON)}),
        (
            {"schedule": crontab(minute=5, hour=3, day_of_month=1, month_of_year=2, day_of_week=0), "timezone": "UTC"},
            {"crontab": [[5], [3], [1], [2], [0]]},
        ),
    ],
)
def test_what_is_stored_differs_from_the_defaults(options, entry):
    if "schedule" not in options:
        options = {**options, "repeat_interval": ONE_HOUR}
    assert period_option(PeriodicWorkRequest("x", **options), ANDROID) == entry


def test_one_time_work_has_no_periodicity():
    assert Periodicity.of({"initial_delay": 5}) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "1:00:00 after each run"),
        ({"fixed_rate": True}, "every 1:00:00"),
        ({"schedule": crontab(minute="*/15", hour=3)}, "*/15 3 * * * UTC"),
        (
            {"schedule": crontab(minute=0, day_of_week="mon-fri"), "timezone": "Europe/Madrid"},
            "0 * * * 1-5 Europe/Madrid",
        ),
    ],
)
def test_a_schedule_is_said_in_a_few_words(options, words):
    assert described(period(**options)) == words


def test_the_next_moment_of_a_rate_lies_on_its_grid_before_and_after_the_one_known():
    of = period(fixed_rate=True)
    assert shown(next_moment(of, clock("10:20"), clock("07:00"))) == "07:20"
    assert shown(next_moment(of, clock("10:20"), clock("12:20"))) == "13:20"
