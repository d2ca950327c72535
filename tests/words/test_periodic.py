"""The periodic request and its builder, and Celery's schedules as they read them."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.schedules import crontab, schedule, solar

from celery_workmanager import CatchUp, OneTimeWorkRequest, PeriodicWorkRequest, PeriodicWorkRequestBuilder
from celery_workmanager.call import Call
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.policies import BackoffPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.schedules import Crontab, check_timezone, read_schedule

HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def of_days(days: set[int], months: set[int]) -> SimpleNamespace:
    """What a crontab of midnights carries; Celery's newer versions refuse some themselves."""
    return SimpleNamespace(
        minute={0}, hour={0}, day_of_week=set(range(7)), day_of_month=days, month_of_year=months, run_every=None
    )


def request(**options: Any) -> PeriodicWorkRequest:
    if "schedule" not in options:
        options.setdefault("repeat_interval", HOUR)
    return PeriodicWorkRequest("x", **options)


def test_an_interval_is_enough():
    found = request()
    assert isinstance(found, WorkRequest)
    assert (found.repeat_interval, found.flex_interval, found.schedule) == (HOUR, None, None)
    assert (found.catch_up, found.catch_up_limit, found.keep_runs) == (CatchUp.ONCE, 100, None)
    assert (found.timezone, found.fixed_rate, found.has_occurrences) == ("UTC", False, False)
    assert (found.tags, found.priority, found.initial_delay) == (frozenset({"x"}), 0, timedelta(0))
    assert (found.expires, found.expedited) == (None, None)


def test_it_is_frozen_and_durations_may_be_seconds():
    found = request(repeat_interval=90, flex_interval=30.5)
    assert (found.repeat_interval, found.flex_interval) == (timedelta(seconds=90), timedelta(seconds=30.5))
    with pytest.raises(FrozenInstanceError):
        found.repeat_interval = HOUR  # type: ignore[misc]


def test_it_takes_what_every_request_takes():
    call = Call('{"args": [], "kwargs": {}}')
    found = request(
        id="a", tags={"t"}, initial_delay=5, backoff_policy=BackoffPolicy.LINEAR, backoff_delay=7, queue="q",
        priority=9, time_limit=3, soft_time_limit=2, max_attempts=4, keep_results_for_at_least=60, trace_tag="trace",
        call=call,
    )  # fmt: skip
    assert (found.id, found.tags, found.queue, found.priority, found.call) == ("a", frozenset({"x", "t"}), "q", 9, call)
    assert (found.max_attempts, found.time_limit, found.soft_time_limit) == (4, 3.0, 2.0)


@pytest.mark.parametrize("option", ["expires", "expedited", "input_merger"])
def test_it_has_no_options_that_only_one_run_can_have(option):
    with pytest.raises(TypeError, match=option):
        request(**{option: None})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repeat_interval": None}, "expected periodic work to be given either repeat_interval or schedule"),
        ({"repeat_interval": HOUR, "schedule": crontab()}, "given either repeat_interval or schedule"),
        ({"repeat_interval": -1}, "expected repeat_interval to be zero or more, got: -1"),
        ({"repeat_interval": "1h"}, "expected repeat_interval to be a timedelta or a number of seconds"),
        ({"flex_interval": -1}, "expected flex_interval to be zero or more"),
        ({"schedule": crontab(), "flex_interval": 5}, "expected flex_interval to be given with a repeat_interval only"),
        ({"flex_every_period": True}, "expected flex_every_period to be given with a flex_interval only"),
        ({"catch_up": "once"}, "expected catch_up to be a CatchUp, got: 'once'"),
        ({"catch_up": CatchUp.SKIP}, "expected catch_up to be given with a schedule or a fixed rate only"),
        ({"catch_up_limit": 0}, "expected catch_up_limit to be an int from 1"),
        ({"keep_runs": -1}, "expected keep_runs to be an int from 0"),
        ({"start_at": datetime(2026, 1, 1)}, "expected start_at to be a timezone-aware datetime"),  # noqa: DTZ001
        ({"end_at": 5}, "expected end_at to be a timezone-aware datetime"),
        ({"start_at": NOON, "end_at": NOON - HOUR}, "expected end_at to be no earlier than start_at"),
        ({"next_schedule_time_override": 5}, "expected next_schedule_time_override to be a timezone-aware datetime"),
        (
            {"next_schedule_time_override": NOON, "clear_next_schedule_time_override": True},
            "expected next_schedule_time_override to be either given or cleared",
        ),
        ({"timezone": "Europe/Nowhere"}, "expected timezone to be the IANA name of a time zone.*'Europe/Nowhere'"),
        ({"schedule": "0 3 * * *"}, "expected schedule to be Celery's crontab or schedule"),
        ({"schedule": solar.__new__(solar)}, "expected schedule to be Celery's crontab or schedule .*solar"),
        ({"schedule": schedule(timedelta(seconds=-5))}, "expected schedule to be zero or more"),
        (
            {"schedule": of_days({30}, {2})},
            r"expected crontab to be true of some day, got: '0 0 30 2 \*'",
        ),
        ({"schedule": of_days({31}, {2, 4, 6, 9, 11})}, "expected crontab to be true of some day"),
    ],
)
def test_bad_input_is_refused_at_once(options, expected):
    with pytest.raises(InvalidRequest, match=expected):
        request(**options)


@pytest.mark.parametrize("name", ["", "Europe", "/etc/passwd", "../UTC", "UTC\n", 5, "zone.tab", "é"])
def test_only_names_of_time_zones_are_time_zones(name):
    with pytest.raises(InvalidRequest, match="expected timezone"):
        check_timezone(name)


def test_the_29th_of_february_is_some_day():
    assert request(schedule=crontab(day_of_month=29, month_of_year=2)).has_occurrences


def test_a_crontab_is_read_by_its_sets():
    found = read_schedule(
        crontab(minute="*/20", hour="8-10", day_of_week="mon,fri", day_of_month="1-3", month_of_year=5)
    )
    assert found == Crontab((0, 20, 40), (8, 9, 10), (1, 2, 3), (5,), (1, 5))
    assert str(found) == "*/20 8-10 1-3 5 1,5"
    assert str(read_schedule(crontab())) == "* * * * *"
    assert str(read_schedule(crontab(minute=5, hour="3,4"))) == "5 3,4 * * *"


@pytest.mark.parametrize("fields", [{}, {"minute": 0}, {"hour": "1,5", "day_of_week": "sun"}, {"day_of_month": 31}])
def test_a_crontab_survives_being_stored(fields):
    found = read_schedule(crontab(**fields))
    assert isinstance(found, Crontab)
    assert Crontab.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_schedule_is_an_interval_at_a_fixed_rate():
    assert read_schedule(schedule(30)) == timedelta(seconds=30)
    found = request(schedule=schedule(run_every=HOUR))
    assert (found.repeat_interval, found.fixed_rate, found.has_occurrences) == (HOUR, True, True)


def test_a_crontab_of_impossible_values_is_refused():
    with pytest.raises(InvalidRequest, match="expected crontab's hour to be whole numbers from 0 to 23"):
        Crontab((0,), (24,), (1,), (1,), (0,))
    with pytest.raises(InvalidRequest, match="expected crontab's minute"):
        Crontab((), (2,), (1,), (1,), (0,))


def test_the_builder_builds_the_same_and_gives_each_request_an_id_of_its_own():
    builder = (
        PeriodicWorkRequestBuilder("x", HOUR, QUARTER)
        .set_input_data(a=1)
        .add_tag("t")
        .set_initial_delay(minutes=5)
        .set_fixed_rate()
        .set_flex_every_period()
        .set_catch_up(CatchUp.ALL, 5)
        .set_start_at(NOON)
        .set_end_at(NOON + HOUR)
        .set_keep_runs(7)
        .set_next_schedule_time_override(NOON)
    )
    first, second = builder.build(), builder.build()
    assert first.id != second.id
    expected = request(
        input_data={"a": 1}, tags={"t"}, initial_delay=300, flex_interval=QUARTER, fixed_rate=True,
        flex_every_period=True, catch_up=CatchUp.ALL, catch_up_limit=5, start_at=NOON, end_at=NOON + HOUR, keep_runs=7,
        next_schedule_time_override=NOON, id=first.id,
    )  # fmt: skip
    assert first == expected


def test_the_builder_takes_schedules_and_clears_overrides():
    builder = PeriodicWorkRequestBuilder("x").set_schedule(crontab(hour=3, minute=0), "Europe/Madrid").set_id("a")
    found = builder.set_next_schedule_time_override(NOON).clear_next_schedule_time_override().build()
    assert (found.id, str(found.schedule), found.timezone) == ("a", "0 3 * * *", "Europe/Madrid")
    assert (found.next_schedule_time_override, found.clear_next_schedule_time_override) == (None, True)
    with pytest.raises(InvalidRequest, match="either repeat_interval or schedule"):
        PeriodicWorkRequestBuilder("x").build()


def test_the_two_kinds_are_never_equal():
    one_time: WorkRequest = OneTimeWorkRequest("x", id="a")
    assert request(id="a") != one_time
