"""update_work: what it replaces, what it keeps, and when it shows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager import (
    ArrayCreatingInputMerger,
    BackoffPolicy,
    Data,
    OneTimeWorkRequest,
    Result,
    UpdateResult,
)
from tests.conformance.workers import act, actions, other, ran

SECONDS = timedelta(seconds=1)
IMMEDIATELY, NEXT_RUN = UpdateResult.APPLIED_IMMEDIATELY, UpdateResult.APPLIED_FOR_NEXT_RUN


def test_a_delay_counts_from_the_enqueue_and_not_from_the_update(wm, works, kit):
    old = works.request(initial_delay=600)
    wm.enqueue(old)
    enqueued_at = works.now
    kit.clock.advance(300 * SECONDS)
    assert wm.update_work(works.request(id=old.id, initial_delay=1200)) is IMMEDIATELY
    info = works.info(old)
    assert info.next_schedule_time == enqueued_at + 1200 * SECONDS
    assert (info.enqueued_at, info.initial_delay, info.generation) == (enqueued_at, 1200 * SECONDS, 1)
    assert wm.update_work(works.request(id=old.id)) is IMMEDIATELY
    assert works.info(old).generation == 2
    assert kit.run_until_idle() == 1


def test_everything_but_the_state_the_names_and_the_edges_is_replaced(wm, works, kit):
    parent, old, child = works.request(), works.request(tags={"old", "both"}, priority=1), works.request()
    wm.begin_with(parent).then(old).then(child).enqueue()
    new = OneTimeWorkRequest(other, {"new": 1}, id=old.id, tags={"new", "both"}, queue="images", priority=5)
    assert wm.update_work(new) is IMMEDIATELY
    info = works.info(old)
    assert info.state.name == "BLOCKED"
    assert info.worker_name == "other"
    assert info.tags == {"other", "new", "both"}
    assert info.input_data == Data(new=1)
    assert (info.queue, info.priority, info.prerequisites) == ("images", 5, (parent.id,))
    assert [each.id for each in wm.get_work_infos_by_tag("old")] == []
    kit.run_until_idle()
    assert ran[1] == ("other", {"new": 1})
    assert works.states(parent, old, child) == ["SUCCEEDED"] * 3


def test_unique_names_and_attempts_are_kept_and_the_new_backoff_counts_for_the_wait(wm, works, kit):
    from celery_workmanager import ExistingWorkPolicy

    actions["retry"] = lambda _: Result.retry()
    old = works.request("retry")
    wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, old)
    kit.run_until_idle()
    enqueued_at = works.now
    update = works.request("retry", id=old.id, backoff_policy=BackoffPolicy.LINEAR, backoff_delay=100)
    assert wm.update_work(update) is IMMEDIATELY
    info = works.info(old)
    assert (info.run_attempt_count, info.unique_names) == (1, ("name",))
    assert info.next_schedule_time == enqueued_at + 100 * SECONDS
    kit.clock.advance(100 * SECONDS)
    kit.run_until_idle()
    assert works.info(old).next_schedule_time == works.now + 200 * SECONDS


def test_a_run_in_flight_keeps_its_old_specification_and_what_follows_has_the_new_one(wm, works, kit):
    seen: list[Any] = []

    def update(self):
        if self.generation:
            seen.append((dict(self.input_data), set(self.tags), self.run_attempt_count, self.generation))
            return None
        new = works.request(
            "update", n="new", id=self.work_id, tags={"new"}, backoff_policy=BackoffPolicy.LINEAR, backoff_delay=500
        )
        result = wm.update_work(new)
        seen.append((result, self.input_data["n"], set(self.tags), self.is_stopped, works.state(self.work_id)))
        return Result.retry()

    actions["update"] = update
    old = works.request("update", n="old", tags={"old"})
    wm.enqueue(old)
    kit.run_until_idle()
    assert seen == [(NEXT_RUN, "old", {"act", "old"}, False, "RUNNING")]
    info = works.info(old)
    assert info.next_schedule_time == works.now + 500 * SECONDS
    assert (info.generation, info.run_attempt_count, info.tags) == (1, 1, {"act", "new"})
    kit.clock.advance(500 * SECONDS)
    kit.run_until_idle()
    assert seen[1] == ({"do": "update", "n": "new"}, {"act", "new"}, 1, 1)
    assert works.state(old) == "SUCCEEDED"


def test_an_update_during_a_run_that_lowers_the_attempts_ends_the_work_at_its_next_retry(wm, works, kit):
    def update(self):
        wm.update_work(works.request("update", id=self.work_id, max_attempts=1))
        return Result.retry()

    actions["update"] = update
    work_id = works.enqueue("update")
    kit.run_until_idle()
    assert (works.state(work_id), works.info(work_id).error.exc_type) == ("FAILED", "AttemptsExhausted")


def test_a_success_during_which_an_update_came_is_a_success(wm, works, kit):
    actions["update"] = lambda self: wm.update_work(works.request(id=self.work_id, n=2)) and {"n": 1}
    work_id = works.enqueue("update")
    kit.run_until_idle()
    info = works.info(work_id)
    assert (info.state.name, info.output_data) == ("SUCCEEDED", Data(n=1))


def test_an_update_of_what_was_lost_with_its_process_decides_about_its_next_run(wm, works, kit):
    work_id = works.enqueue()
    enqueued_at = works.now
    kit.crash_after("start")
    kit.run_one()
    update = works.request(id=work_id, backoff_policy=BackoffPolicy.LINEAR, backoff_delay=77)
    assert wm.update_work(update) is NEXT_RUN
    kit.lose_node()
    assert works.info(work_id).next_schedule_time == enqueued_at + 77 * SECONDS


def test_progress_and_stop_reason_are_reset_by_an_update_that_applies_at_once(wm, works, kit):
    from celery_workmanager import StopReason

    def stop(self):
        self.set_progress(percent=1)
        kit.driver.stop_running_work_with_reason(self.work_id, StopReason.QUOTA)

    actions["stop"] = stop
    work_id = works.enqueue("stop")
    kit.run_one()
    assert works.info(work_id).stop_reason is StopReason.QUOTA
    wm.update_work(works.request("stop", id=work_id))
    info = works.info(work_id)
    assert (info.stop_reason, info.progress, info.run_attempt_count) == (StopReason.NOT_STOPPED, Data.EMPTY, 1)


def test_a_merger_can_be_changed_while_the_work_waits(wm, works, kit):
    got = []
    actions["one"] = lambda _: {"x": 1}
    actions["see"] = lambda self: got.append(self.input_data["x"])
    second = works.request("see")
    wm.begin_with(works.request("one")).then(second).enqueue()
    update = OneTimeWorkRequest(act, {"do": "see"}, id=second.id)
    wm.update_work(update)
    wm.update_work(OneTimeWorkRequest(act, {}, id=second.id, input_merger=ArrayCreatingInputMerger))
    actions["nothing"] = actions["see"]
    kit.run_until_idle()
    assert got == [[1]]


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_finished_work_is_not_updated(wm, works, kit, end):
    actions["fail"] = lambda _: Result.failure()
    work_id = works.enqueue("fail" if end == "FAILED" else "nothing")
    if end == "CANCELLED":
        wm.cancel_work_by_id(work_id)
    kit.run_until_idle()
    before = works.info(work_id)
    assert before.state.name == end
    assert wm.update_work(works.request(id=work_id, n=1, tags={"x"})) is UpdateResult.NOT_APPLIED
    assert works.info(work_id) == before


def test_an_unknown_id_is_an_error(wm, works):
    with pytest.raises(LookupError, match="expected the id of a stored work, got: "):
        wm.update_work(works.request())


def test_what_cannot_be_enqueued_cannot_be_an_update_either(wm, works):
    work_id = works.enqueue()
    with pytest.raises(LookupError, match="registered worker"):
        wm.update_work(OneTimeWorkRequest("nobody", id=work_id))
    with pytest.raises(ValueError, match="at most 10240 bytes"):
        wm.update_work(OneTimeWorkRequest(act, {"x": "y" * 11_000}, id=work_id))
    with pytest.raises(ValueError, match="expected request"):
        wm.update_work(work_id)
    assert works.info(work_id).generation == 0


def test_an_expiry_counts_from_the_first_enqueue_also_in_an_update(wm, works, kit):
    work_id = works.enqueue(initial_delay=600)
    kit.clock.advance(60 * SECONDS)
    wm.update_work(works.request(id=work_id, initial_delay=600, expires=90))
    kit.clock.advance(29 * SECONDS)
    kit.run_until_idle()
    assert works.state(work_id) == "ENQUEUED"
    kit.clock.advance(SECONDS)
    kit.run_until_idle()
    assert works.state(work_id) == "CANCELLED"
