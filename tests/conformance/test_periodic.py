"""Periodic work as on Android: first runs, ends of periods, retries, stops, overrides."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_workmanager import (
    Data,
    PeriodicWorkRequest,
    PeriodicWorkRequestBuilder,
    Result,
    RunOutcome,
    StopReason,
)
from tests.conformance import workers
from tests.conformance.periods import HOUR, IMMEDIATELY, MINUTE, NEXT_RUN, Periods
from tests.conformance.workers import act, actions

# -- section 3: the worked examples ------------------------------------------------------------------------------------


def test_the_first_run_is_at_once_and_the_next_an_hour_after_its_end(periods):
    actions["work"] = periods.takes(7)
    work_id = periods.enqueue("work")
    assert periods.run_at(0) == 1
    info = periods.info(work_id)
    assert (info.state.name, info.run_attempt_count, info.period_count) == ("ENQUEUED", 0, 1)
    assert periods.next(work_id) == 67
    assert periods.run_at(66.9) == 0
    assert periods.run_at(67) == 1
    assert periods.next(work_id) == 67 + 7 + 60


def test_flex_delays_the_first_run_and_no_other(periods):
    actions["work"] = periods.takes(1)
    work_id = periods.enqueue("work", flex_interval=15 * MINUTE)
    assert periods.next(work_id) == 45
    assert periods.run_at(45) == 1
    assert periods.next(work_id) == 106


def test_an_initial_delay_comes_before_the_flex(periods):
    assert periods.next(periods.enqueue(flex_interval=15 * MINUTE, initial_delay=20 * MINUTE)) == 65


def test_retries_keep_the_period_open(periods):
    answers = [periods.takes(5, lambda _: Result.retry()), periods.takes(1 / 6, lambda _: Result.retry())]
    actions["work"] = lambda worker: answers.pop(0)(worker) if answers else None
    work_id = periods.enqueue("work", backoff_delay=30)
    periods.run_at(0)
    assert periods.next(work_id) == 5.5
    assert (periods.info(work_id).period_count, periods.info(work_id).run_attempt_count) == (0, 1)
    periods.run_at(5.5)
    assert periods.next(work_id) == pytest.approx(6 + 2 / 3)
    periods.run_at(7)
    assert periods.next(work_id) == 67
    assert (periods.info(work_id).period_count, periods.info(work_id).run_attempt_count) == (1, 0)
    assert [run.outcome.name for run in periods.wm.get_runs(work_id)] == ["SUCCEEDED", "RETRIED", "RETRIED"]


def test_an_override_of_the_first_run_beats_every_delay_and_the_hour_counts_from_its_end(periods):
    actions["work"] = periods.takes(3)
    work_id = periods.enqueue("work", initial_delay=timedelta(days=2), next_schedule_time_override=periods.at(240))
    assert periods.next(work_id) == 240
    assert periods.info(work_id).next_schedule_time_override == periods.at(240)
    periods.run_at(240)
    assert periods.next(work_id) == 243 + 60
    assert periods.info(work_id).next_schedule_time_override is None


def test_after_the_first_period_an_override_comes_a_quarter_after_the_last_end_at_the_soonest(periods):
    actions["work"] = periods.takes(7)
    work_id = periods.enqueue("work")
    periods.run_at(0)
    periods.update(work_id, next_schedule_time_override=periods.at(10))
    assert periods.next(work_id) == 22


def test_a_run_of_an_override_that_asks_for_another_waits_for_its_backoff(periods):
    actions["work"] = periods.takes(3, lambda _: Result.retry())
    work_id = periods.enqueue("work", backoff_delay=30 * MINUTE, next_schedule_time_override=periods.at(240))
    periods.run_at(240)
    assert periods.next(work_id) == 243 + 30
    assert periods.info(work_id).next_schedule_time_override is None


def test_a_stopped_run_keeps_its_moment_of_enqueue_and_is_due_at_once(periods, kit):
    def stop(worker):
        if not worker.run_attempt_count:
            kit.clock.advance(20 * MINUTE)
            kit.driver.stop_running_work_with_reason(worker.work_id, StopReason.CONSTRAINT_CONNECTIVITY)
            assert worker.is_stopped

    actions["work"] = stop
    work_id = periods.enqueue("work", backoff_delay=30)
    kit.run_one()
    info = periods.info(work_id)
    assert (info.state.name, info.stop_reason) == ("ENQUEUED", StopReason.CONSTRAINT_CONNECTIVITY)
    assert (periods.next(work_id), info.run_attempt_count, info.period_count) == (0.5, 1, 0)
    assert periods.run_at(20) == 1
    assert periods.info(work_id).period_count == 1


@pytest.mark.parametrize("point", ["start", "run"])
def test_a_run_whose_process_was_killed_is_due_as_a_stopped_one(periods, kit, point):
    work_id = periods.enqueue(backoff_delay=30)
    kit.crash_after(point)
    kit.run_one()
    kit.clock.advance(MINUTE)
    kit.lose_node()
    assert (periods.next(work_id), periods.info(work_id).run_attempt_count) == (0.5, 1)
    assert periods.info(work_id).interruptions == 1
    assert kit.run_until_idle() == 1
    assert (periods.info(work_id).period_count, periods.info(work_id).interruptions) == (1, 0)
    assert [run.outcome.name for run in periods.wm.get_runs(work_id)] == ["SUCCEEDED", "LOST"]


def test_a_clock_that_is_set_back_during_the_run_loses_nothing(periods, kit):
    actions["work"] = lambda _: kit.clock.step(-3 * 3600 * 1_000_000)
    work_id = periods.enqueue("work")
    periods.run_at(0)
    assert periods.next(work_id) == -180 + 60


# -- the end of a period -----------------------------------------------------------------------------------------------


ENDS = {
    "success": (lambda _: Result.success(n=1), Data(n=1), None),
    "failure": (lambda _: Result.failure(why="x"), Data(why="x"), None),
    "exception": (lambda _: 1 / 0, Data.EMPTY, "ZeroDivisionError"),
}


@pytest.mark.parametrize("end", ENDS)
def test_success_failure_and_exception_alike_end_a_period_and_the_output_is_kept(periods, end):
    actions["work"], output, error = ENDS[end]
    work_id = periods.enqueue("work")
    periods.run_at(0)
    info = periods.info(work_id)
    assert (info.state.name, info.period_count, info.run_attempt_count, info.runs) == ("ENQUEUED", 1, 0, 1)
    assert (info.output_data, info.error and info.error.exc_type) == (output, error)
    assert periods.next(work_id) == 60
    (run,) = periods.wm.get_runs(work_id)
    assert run.outcome is (RunOutcome.SUCCEEDED if end == "success" else RunOutcome.FAILED)
    assert (run.output_data, run.error and run.error.exc_type) == (output, error)


def test_progress_goes_with_a_result_and_stays_after_an_exception(periods):
    actions["return"] = lambda worker: worker.set_progress(percent=10)
    actions["raise"] = lambda worker: (worker.set_progress(percent=10), 1 / 0)
    returned, raised = periods.enqueue("return"), periods.enqueue("raise")
    periods.run_at(0)
    assert periods.info(returned).progress == Data.EMPTY
    assert periods.info(raised).progress == Data(percent=10)


def test_the_output_of_the_last_period_is_shown_while_the_next_one_is_tried(periods):
    answers = [Result.success(n=1), Result.retry(), Result.failure(n=2)]
    actions["work"] = lambda _: answers.pop(0)
    work_id = periods.enqueue("work", backoff_delay=30)
    periods.run_at(0)
    periods.run_at(60)
    assert periods.info(work_id).output_data == Data(n=1)
    periods.run_at(61)
    assert periods.info(work_id).output_data == Data(n=2)


def test_attempts_that_are_exhausted_fail_the_period_and_not_the_work(periods):
    actions["work"] = lambda _: Result.retry(after=0)
    work_id = periods.enqueue("work", max_attempts=3)
    assert periods.run_at(0) == 3
    info = periods.info(work_id)
    assert (info.state.name, info.period_count, info.run_attempt_count) == ("ENQUEUED", 1, 0)
    assert info.error.exc_type == "AttemptsExhausted"
    assert periods.run_at(60) == 3


def test_a_worker_that_cannot_be_given_its_input_ends_a_period(periods):
    work_id = periods.wm.enqueue(PeriodicWorkRequest(workers.blur, {"level": 1}, repeat_interval=HOUR)).id
    periods.run_at(0)
    info = periods.info(work_id)
    assert (info.state.name, info.period_count, info.error.exc_type) == ("ENQUEUED", 1, "TypeError")


def test_a_process_that_is_lost_too_often_fails_the_period_and_not_the_work(kit_url):
    from celery_workmanager.testing import WorkManagerTestKit

    workers.app.conf.workmanager_max_interruptions = 2
    try:
        with WorkManagerTestKit(workers.app, store_url=kit_url) as kit:
            periods = Periods(kit)
            work_id = periods.enqueue()
            for _ in range(2):
                kit.crash_after("start")
                kit.run_one()
                kit.lose_node()
            info = periods.info(work_id)
            assert (info.state.name, info.period_count, info.interruptions) == ("ENQUEUED", 1, 0)
            assert info.error.exc_type == "WorkerLost"
            assert periods.next(work_id) == 60
            assert [run.outcome.name for run in periods.wm.get_runs(work_id)] == ["FAILED", "LOST"]
    finally:
        workers.app.conf.workmanager_max_interruptions = 10


def test_a_cancelled_periodic_work_ends(periods, kit):
    work_id = periods.enqueue()
    kit.run_until_idle()
    assert periods.wm.cancel_work_by_id(work_id).ids == (work_id,)
    assert periods.info(work_id).state.name == "CANCELLED"
    assert periods.run_at(1000) == 0
    assert periods.wm.next_run_times(work_id) == []


def test_a_run_that_is_cancelled_tells_nothing_any_more(periods):
    def cancel(worker):
        periods.wm.cancel_work_by_id(worker.work_id)
        return Result.success(n=1)

    actions["work"] = cancel
    work_id = periods.enqueue("work")
    periods.run_at(0)
    info = periods.info(work_id)
    assert (info.state.name, info.stop_reason, info.output_data) == (
        "CANCELLED",
        StopReason.CANCELLED_BY_APP,
        Data.EMPTY,
    )
    assert [run.outcome.name for run in periods.wm.get_runs(work_id)] == ["CANCELLED"]


# -- an override that is set during a run ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, Result.retry()], ids=["end", "retry"])
def test_an_override_that_is_set_during_the_run_survives_it(periods, answer):
    def change(worker):
        if periods.kit.clock.today() == periods.began:
            override = periods.at(200)
            assert periods.update(worker.work_id, "work", next_schedule_time_override=override) is NEXT_RUN
            return answer
        return None

    actions["work"] = change
    work_id = periods.enqueue("work", next_schedule_time_override=periods.began)
    periods.run_at(0)
    assert periods.next(work_id) == 200
    periods.run_at(200)
    assert periods.info(work_id).next_schedule_time_override is None
    assert periods.next(work_id) == 260


def test_an_update_during_the_run_that_says_nothing_of_the_override_lets_it_be_used_up(periods):
    actions["work"] = lambda worker: periods.update(worker.work_id, repeat_interval=2 * HOUR) and None
    work_id = periods.enqueue("work", next_schedule_time_override=periods.at(5))
    periods.run_at(5)
    assert periods.next(work_id) == 125
    assert periods.info(work_id).next_schedule_time_override is None


def test_an_override_can_be_cleared(periods):
    work_id = periods.enqueue(next_schedule_time_override=periods.at(500))
    builder = PeriodicWorkRequestBuilder(act, HOUR).set_id(work_id)
    periods.wm.update_work(builder.clear_next_schedule_time_override().build())
    assert periods.next(work_id) == 0
    assert periods.info(work_id).next_schedule_time_override is None


def test_an_update_that_says_nothing_of_it_keeps_the_override(periods):
    work_id = periods.enqueue(next_schedule_time_override=periods.at(500))
    assert periods.update(work_id, repeat_interval=3 * HOUR) is IMMEDIATELY
    assert periods.next(work_id) == 500
