"""What the ends of runs do: success, failure, retries, stops, lost processes, attempts and progress."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager import BackoffPolicy, Data, OneTimeWorkRequest, Result, State, StopReason
from tests.conformance.workers import act, actions, boom, ran

SECONDS = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def endings():
    actions["fail"] = lambda _: Result.failure({"why": "x"})
    actions["retry"] = lambda _: Result.retry()
    actions["raise"] = lambda _: 1 / 0


def test_success_stores_the_output_and_the_times(wm, works, kit):
    actions["out"] = lambda _: Result.success(a=1)
    work_id = works.enqueue("out")
    began = works.now
    kit.run_until_idle()
    info = works.info(work_id)
    assert (info.state, info.output_data, info.error) == (State.SUCCEEDED, Data(a=1), None)
    assert (info.run_attempt_count, info.runs, info.stop_reason) == (1, 1, StopReason.NOT_STOPPED)
    assert info.started_at == info.finished_at == began
    assert info.next_schedule_time is None
    assert info.state.is_finished


def test_a_work_is_running_while_it_runs(wm, works, kit):
    seen = []
    actions["look"] = lambda self: seen.append((works.info(self.work_id), self.run_attempt_count))
    work_id = works.enqueue("look")
    kit.run_until_idle()
    [(info, count)] = seen
    assert (info.id, info.state, info.run_attempt_count, count) == (work_id, State.RUNNING, 1, 0)
    assert info.started_at == works.now
    assert info.next_schedule_time is None
    assert info.node


@pytest.mark.parametrize("how", ["fail", "raise"])
def test_failure_goes_down_to_everything_that_waits(wm, works, kit, how):
    a, b, c, d = works.request(how), works.request(), works.request(), works.request()
    wm.begin_with(a).then([b, c]).then(d).enqueue()
    kit.run_until_idle()
    assert works.states(a, b, c, d) == ["FAILED"] * 4
    assert len(ran) == 1
    assert works.info(a).output_data == (Data(why="x") if how == "fail" else Data.EMPTY)
    assert works.info(d).output_data == Data.EMPTY
    assert works.info(d).run_attempt_count == 0
    assert works.info(d).finished_at == works.now


def test_failure_walks_through_cancelled_works_and_leaves_them_cancelled(wm, works, kit):
    a, b, c = works.request("fail"), works.request(), works.request()
    wm.begin_with(a).then(b).then(c).enqueue()
    wm.cancel_work_by_id(b.id)
    assert works.states(b, c) == ["CANCELLED", "CANCELLED"]
    kit.run_until_idle()
    assert works.states(a, b, c) == ["FAILED", "CANCELLED", "CANCELLED"]


def test_an_exception_is_kept_with_its_traceback(wm, kit, works):
    operation = wm.enqueue(OneTimeWorkRequest(boom))
    kit.run_until_idle()
    error = works.info(operation.id).error
    assert (error.exc_type, error.message, error.module) == ("ValueError", "the boiler is cold", "builtins")
    assert str(error) == "ValueError: the boiler is cold"
    assert 'raise ValueError("the boiler is cold")' in error.traceback


@pytest.mark.parametrize(
    ("policy", "delay", "waits"),
    [
        (BackoffPolicy.EXPONENTIAL, 30, [30, 60, 120, 240]),
        (BackoffPolicy.LINEAR, 30, [30, 60, 90, 120]),
        (BackoffPolicy.LINEAR, 1, [10, 20, 30]),
        (BackoffPolicy.EXPONENTIAL, timedelta(hours=9), [18000, 18000]),
    ],
)
def test_a_retry_waits_for_its_backoff_and_runs_then(wm, works, kit, policy, delay, waits):
    work_id = works.enqueue("retry", backoff_policy=policy, backoff_delay=delay)
    kit.run_until_idle()
    for attempts, wait in enumerate(waits, 1):
        info = works.info(work_id)
        assert (info.state.name, info.run_attempt_count) == ("ENQUEUED", attempts)
        assert info.enqueued_at == works.now
        assert info.next_schedule_time == works.now + wait * SECONDS
        kit.clock.advance((wait - 1) * SECONDS)
        assert kit.run_until_idle() == 0
        kit.clock.advance(SECONDS)
        assert kit.run_until_idle() == 1


def test_a_retry_may_name_its_own_wait(wm, works, kit):
    actions["later"] = lambda self: Result.retry(after=timedelta(minutes=7)) if not self.run_attempt_count else None
    work_id = works.enqueue("later")
    kit.run_until_idle()
    assert works.info(work_id).next_schedule_time == works.now + timedelta(minutes=7)
    kit.clock.advance(timedelta(minutes=7))
    kit.run_until_idle()
    assert works.state(work_id) == "SUCCEEDED"


def test_the_worker_sees_how_often_it_was_run_before(wm, works, kit):
    def count(self):
        ran.append(self.run_attempt_count)
        return Result.retry(after=0)

    actions["count"] = count
    work_id = works.enqueue("count", max_attempts=3)
    kit.run_until_idle()
    assert [each for each in ran if isinstance(each, int)] == [0, 1, 2]
    info = works.info(work_id)
    assert (info.state.name, info.run_attempt_count) == ("FAILED", 3)
    assert info.error.exc_type == "AttemptsExhausted"


def test_an_initial_delay_is_waited_for_and_counts_from_the_unblocking_in_a_chain(wm, works, kit):
    a, b = works.request(initial_delay=60), works.request(initial_delay=timedelta(minutes=5))
    wm.begin_with(a).then(b).enqueue()
    assert works.info(a).next_schedule_time == works.now + 60 * SECONDS
    assert works.info(a).initial_delay == 60 * SECONDS
    assert kit.run_until_idle() == 0
    kit.clock.advance(60 * SECONDS)
    assert kit.run_until_idle() == 1
    assert works.info(b).next_schedule_time == works.now + timedelta(minutes=5)
    kit.clock.advance(timedelta(minutes=5))
    kit.run_until_idle()
    assert works.state(b) == "SUCCEEDED"


def test_what_has_not_started_when_it_expires_never_starts(wm, works, kit):
    late, early = works.request(initial_delay=20, expires=10), works.request(expires=works.now + 10 * SECONDS)
    child = works.request()
    wm.begin_with(late).then(child).enqueue()
    wm.enqueue(early)
    assert kit.run_until_idle() == 1
    kit.clock.advance(10 * SECONDS)
    assert kit.run_until_idle() == 0
    assert works.states(late, child, early) == ["CANCELLED", "CANCELLED", "SUCCEEDED"]
    assert works.info(late).error.exc_type == "Expired"


# -- stops and lost processes -------------------------------------------------------------------------------------


def stop_with(kit, reason=StopReason.DEVICE_STATE):
    def action(self):
        if self.run_attempt_count or self.input_data.get("stopped") or ran.count(self.work_id) > 1:
            return {"done": True}
        assert not self.is_stopped
        assert self.stop_reason is StopReason.NOT_STOPPED
        self.set_progress(percent=40)
        kit.driver.stop_running_work_with_reason(self.work_id, reason)
        assert self.is_stopped
        assert self.stop_reason is reason
        return {"ignored": True}

    return action


def test_on_android_a_stop_costs_an_attempt_and_keeps_enqueue_time_and_progress(wm, works, kit):
    actions["stop"] = stop_with(kit)
    work_id = works.enqueue("stop")
    enqueued_at = works.now
    kit.clock.advance(20 * SECONDS)
    kit.run_until_idle()
    info = works.info(work_id)
    assert (info.state.name, info.stop_reason.name, info.run_attempt_count) == ("ENQUEUED", "DEVICE_STATE", 1)
    assert info.enqueued_at == enqueued_at
    assert info.next_schedule_time == enqueued_at + 30 * SECONDS
    assert info.progress == Data(percent=40)
    assert info.output_data == Data.EMPTY
    kit.clock.advance(10 * SECONDS)
    kit.run_until_idle()
    info = works.info(work_id)
    assert (info.state.name, info.stop_reason.name, info.progress) == ("SUCCEEDED", "NOT_STOPPED", Data.EMPTY)


def test_on_a_server_a_stop_costs_no_attempt_and_the_work_runs_again_at_once(server_kit):
    kit, wm = server_kit, server_kit.work_manager
    actions["stop"] = stop_with(kit, StopReason.SYSTEM_PROCESSING)
    work_id = wm.enqueue(OneTimeWorkRequest(act, {"do": "stop"})).id
    kit.run_one()
    info = wm.get_work_info_by_id(work_id)
    assert (info.state.name, info.run_attempt_count, info.runs) == ("ENQUEUED", 0, 1)
    assert info.stop_reason is StopReason.SYSTEM_PROCESSING
    assert kit.run_until_idle() == 1
    info = wm.get_work_info_by_id(work_id)
    assert (info.state.name, info.run_attempt_count, info.runs) == ("SUCCEEDED", 1, 2)


@pytest.mark.parametrize("profile", ["android", None])
def test_a_lost_process_costs_an_attempt_on_android_only_and_deletes_progress(kit_url, profile):
    from celery_workmanager.testing import WorkManagerTestKit
    from tests.conformance.workers import app

    actions["work"] = lambda self: self.set_progress(percent=40)
    with WorkManagerTestKit(app, kit_url, profile) as kit:
        wm = kit.work_manager
        work_id = wm.enqueue(OneTimeWorkRequest(act, {"do": "work"})).id
        kit.crash_after("run")
        kit.run_until_idle()
        assert wm.get_work_info_by_id(work_id).state is State.RUNNING
        kit.lose_node()
        info = wm.get_work_info_by_id(work_id)
        assert (info.state, info.stop_reason, info.interruptions) == (State.ENQUEUED, StopReason.UNKNOWN, 1)
        assert info.run_attempt_count == (1 if profile else 0)
        assert info.progress == Data.EMPTY
        assert info.enqueued_at is not None
        assert info.next_schedule_time == info.enqueued_at + (30 * SECONDS if profile else timedelta(0))


# -- progress -----------------------------------------------------------------------------------------------------


def test_progress_is_seen_while_running_the_latest_wins_and_a_result_deletes_it(wm, works, kit):
    seen = []

    def work(self):
        for percent in (10, 20):
            self.set_progress(percent=percent)
            seen.append(works.info(self.work_id).progress)
        self.set_progress({"percent": 30, "step": "end"})
        seen.append(works.info(self.work_id).progress)
        return {"in": self.input_data["n"]}

    actions["work"] = work
    work_id = works.enqueue("work", n=1)
    kit.run_until_idle()
    assert seen == [Data(percent=10), Data(percent=20), Data(percent=30, step="end")]
    assert works.info(work_id).progress == Data.EMPTY


@pytest.mark.parametrize(
    ("end", "kept"), [("success", False), ("failure", False), ("retry", False), ("raise", True), ("cancel", True)]
)
def test_a_returned_result_deletes_progress_and_an_exception_or_cancellation_keeps_it(wm, works, kit, end, kept):
    ends: dict[str, Any] = {
        "success": Result.success,
        "failure": Result.failure,
        "retry": Result.retry,
        "raise": lambda: 1 / 0,
    }

    def work(self):
        self.set_progress(percent=50)
        if end == "cancel":
            wm.cancel_work_by_id(self.work_id)
            return None
        return ends[end]()

    actions["work"] = work
    work_id = works.enqueue("work")
    kit.run_until_idle()
    assert works.info(work_id).progress == (Data(percent=50) if kept else Data.EMPTY)


def test_progress_that_is_too_large_or_no_json_is_an_error_in_the_worker(wm, works, kit):
    actions["large"] = lambda self: self.set_progress(x="y" * 10_240)
    actions["odd"] = lambda self: self.set_progress(x=object())
    large, odd = works.enqueue("large"), works.enqueue("odd")
    kit.run_until_idle()
    assert works.info(large).error.exc_type == "DataTooLarge"
    assert works.info(odd).error.exc_type == "DataNotStorable"
