"""When a work may run: the worked examples of WorkManager's formulas, caps and overflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.policies import BackoffPolicy
from celery_workmanager.timing import (
    SECOND,
    as_datetime,
    as_timedelta,
    backoff,
    clamped,
    first_run_at,
    micros,
    moment,
    next_run_at,
)

LINEAR, EXPONENTIAL = BackoffPolicy.LINEAR, BackoffPolicy.EXPONENTIAL
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
CAP = 5 * HOUR
THIRTY = 30 * SECOND


def clock(text: str) -> int:
    """A time of day as microseconds."""
    hours, minutes, seconds = (int(part) for part in f"{text}:0".split(":")[:3])
    return ((hours * 60 + minutes) * 60 + seconds) * SECOND


def next_run(enqueued: str, attempts: int = 0, *, delay: int = 0, policy=EXPONENTIAL, wait: int = THIRTY) -> int:
    return next_run_at(
        enqueued_at=clock(enqueued), attempts=attempts, initial_delay=delay, policy=policy, delay=wait, longest=CAP
    )


def test_enqueued_at_ten_with_ten_minutes_of_delay_it_runs_at_ten_past():
    assert next_run("10:00", delay=10 * MINUTE) == clock("10:10")
    assert first_run_at(clock("10:00"), 10 * MINUTE) == clock("10:10")


def test_an_updated_delay_counts_from_the_enqueue_and_not_from_the_update():
    assert next_run("10:00", delay=20 * MINUTE) == clock("10:20")


@pytest.mark.parametrize(
    ("attempts", "wait"),
    [
        (1, THIRTY),
        (2, MINUTE),
        (3, 2 * MINUTE),
        (4, 4 * MINUTE),
        (10, 4 * HOUR + 16 * MINUTE),
        (11, CAP),
        (12, CAP),
        (500, CAP),
        (10**9, CAP),
    ],
)
def test_exponential_backoff_of_thirty_seconds_doubles_up_to_five_hours(attempts, wait):
    assert backoff(EXPONENTIAL, THIRTY, attempts, CAP) == wait
    assert next_run("10:00", attempts) == clock("10:00") + wait


@pytest.mark.parametrize(
    ("attempts", "wait"),
    [(1, THIRTY), (2, MINUTE), (3, 90 * SECOND), (599, 599 * THIRTY), (600, CAP), (601, CAP), (10**12, CAP)],
)
def test_linear_backoff_of_thirty_seconds_grows_by_thirty_up_to_five_hours(attempts, wait):
    assert backoff(LINEAR, THIRTY, attempts, CAP) == wait


def test_a_work_that_ran_before_waits_for_its_backoff_whatever_its_initial_delay():
    assert next_run("10:05", 1, delay=2 * HOUR) == clock("10:05:30")


def test_stopped_at_ten_twenty_a_run_of_ten_o_clock_was_due_again_at_ten_and_thirty_seconds():
    """A stop keeps the moment of enqueue, so the backoff is often over already."""
    assert next_run("10:00", 1) == clock("10:00:30")


def test_a_dependent_with_a_delay_counts_it_from_the_success_of_its_prerequisite():
    assert first_run_at(clock("11:00"), 5 * MINUTE) == clock("11:05")


def test_before_the_first_attempt_there_is_no_backoff():
    assert backoff(EXPONENTIAL, THIRTY, 0, CAP) == 0
    assert backoff(LINEAR, THIRTY, -1, CAP) == 0


@given(st.sampled_from(BackoffPolicy), st.integers(0, CAP), st.integers(1, 10**6))
def test_backoff_never_shrinks_with_attempts_and_never_exceeds_the_cap(policy, delay, attempts):
    wait = backoff(policy, delay, attempts, CAP)
    assert 0 <= wait <= CAP
    assert wait <= backoff(policy, delay, attempts + 1, CAP)
    assert wait >= min(delay, CAP)


def test_the_longest_wait_still_fits_into_64_bits():
    longest = micros(timedelta(days=2_500_000))
    assert moment(datetime.max.replace(tzinfo=UTC)) + longest < 2**63
    assert backoff(EXPONENTIAL, longest, 10**9, CAP) == CAP


def test_a_delay_outside_the_limits_is_moved_into_them():
    assert clamped(1, 10, 20) == 10
    assert clamped(15, 10, 20) == 15
    assert clamped(21, 10, 20) == 20


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_moments_survive_being_counted_in_microseconds(at):
    assert as_datetime(moment(at)) == at


@given(st.timedeltas())
def test_durations_survive_being_counted_in_microseconds(duration):
    assert as_timedelta(micros(duration)) == duration


def test_no_moment_stays_no_moment():
    assert as_datetime(None) is None
