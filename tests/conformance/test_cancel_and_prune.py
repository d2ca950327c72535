"""Cancelling four ways, and what becomes of finished works."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest

from celery_workmanager import Data, ExistingWorkPolicy, Result, StopReason, WorkContinuation, WorkQuery
from tests.conformance.workers import actions, ran

KEEP = ExistingWorkPolicy.KEEP


@pytest.fixture
def graph(wm, works):
    """a → b → c, and d → e, joined with b into f."""
    a, b, c, d, e, f = (works.request(n=n, tags={f"tag-{n}"}) for n in "abcdef")
    ab = wm.begin_unique_work("ab", KEEP, a).then(b)
    de = wm.begin_unique_work("de", KEEP, d).then(e)
    ab.then(c).enqueue()
    WorkContinuation.combine([ab, de]).then(f).enqueue()
    return a, b, c, d, e, f


def test_by_id_it_takes_everything_downstream_and_no_sibling(wm, works, graph):
    a, b, c, d, e, f = graph
    operation = wm.cancel_work_by_id(uuid.UUID(b.id))
    assert operation.applied
    assert {b.id, c.id, f.id} <= set(operation.ids)
    assert len(operation.ids) == 4
    assert works.states(a, b, c, d, e, f) == [
        "ENQUEUED", "CANCELLED", "CANCELLED", "ENQUEUED", "BLOCKED", "CANCELLED",
    ]  # fmt: skip
    info = works.info(c)
    assert (info.stop_reason, info.finished_at, info.output_data) == (StopReason.NOT_STOPPED, works.now, Data.EMPTY)


def test_by_id_a_finished_work_stays_and_what_it_unblocked_is_cancelled(wm, works, kit, graph):
    a, b, c, *_ = graph
    kit.run_one(a.id)
    wm.cancel_work_by_id(a.id)
    assert works.states(a, b, c) == ["SUCCEEDED", "CANCELLED", "CANCELLED"]


def test_by_tag_it_takes_unfinished_works_and_their_descendants(wm, works, kit, graph):
    a, b, c, d, e, f = graph
    kit.run_one(a.id)
    wm.cancel_all_work_by_tag("tag-a")
    assert works.states(a, b, c) == ["SUCCEEDED", "ENQUEUED", "BLOCKED"]
    wm.cancel_all_work_by_tag("tag-e")
    assert works.states(d, e, f) == ["ENQUEUED", "CANCELLED", "CANCELLED"]


def test_the_workers_name_is_a_tag_to_cancel_by(wm, works, graph):
    wm.cancel_all_work_by_tag("act")
    assert works.states(*graph) == ["CANCELLED"] * 6


def test_by_name_it_takes_the_name_and_descendants_outside_it(wm, works, graph):
    a, b, c, d, e, f = graph
    wm.cancel_unique_work("de")
    assert works.states(a, b, c, d, e, f) == [
        "ENQUEUED", "BLOCKED", "BLOCKED", "CANCELLED", "CANCELLED", "CANCELLED",
    ]  # fmt: skip


def test_all_work_is_cancelled_and_the_time_remembered(wm, works, kit, graph):
    assert wm.get_last_cancel_all_time() is None
    kit.run_one(graph[0].id)
    kit.clock.advance(timedelta(minutes=1))
    wm.cancel_all_work()
    assert works.states(*graph) == ["SUCCEEDED"] + ["CANCELLED"] * 5
    assert wm.get_last_cancel_all_time() == works.now
    assert kit.run_until_idle() == 0


def test_a_running_work_is_cancelled_at_once_and_told_to_stop(wm, works, kit):
    seen, child = [], works.request()

    def cancel(self):
        seen.append(self.is_stopped)
        wm.cancel_work_by_id(self.work_id)
        seen.append((self.is_stopped, self.stop_reason, works.state(self.work_id)))
        return {"too": "late"}

    actions["cancel"] = cancel
    running = works.request("cancel")
    wm.begin_with(running).then(child).enqueue()
    kit.run_until_idle()
    assert seen == [False, (True, StopReason.CANCELLED_BY_APP, "CANCELLED")]
    info = works.info(running)
    assert (info.stop_reason, info.output_data, info.run_attempt_count) == (
        StopReason.CANCELLED_BY_APP,
        Data.EMPTY,
        1,
    )
    assert works.info(child).stop_reason is StopReason.NOT_STOPPED
    assert works.states(running, child) == ["CANCELLED", "CANCELLED"]


def test_a_running_dependent_of_a_cancelled_ancestor_is_told_to_stop_too(wm, works, kit):
    """Upstream, it is marked and runs on."""
    seen = []

    def cancel(self):
        wm.cancel_work_by_id(works.info(self.work_id).prerequisites[0])
        seen.append(self.is_stopped)

    actions["cancel"] = cancel
    a, b = works.request(), works.request("cancel")
    wm.begin_with(a).then(b).enqueue()
    kit.run_until_idle()
    assert seen == [True]
    assert works.states(a, b) == ["SUCCEEDED", "CANCELLED"]


def test_cancelled_before_it_ran_it_never_runs_and_again_changes_nothing(wm, works, kit):
    work_id = works.enqueue()
    wm.cancel_work_by_id(work_id)
    before = works.info(work_id)
    assert wm.cancel_work_by_id(work_id).applied is False
    assert works.info(work_id) == before
    assert kit.run_until_idle() == 0
    assert ran == []


def test_cancelling_what_is_not_there_does_nothing(wm):
    assert wm.cancel_work_by_id(uuid.uuid4()).applied is False
    assert wm.cancel_all_work_by_tag("nobody").applied is False
    assert wm.cancel_unique_work("nobody").applied is False
    assert wm.cancel_all_work().applied is False


# -- pruning ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(wm, works, kit):
    actions["fail"] = lambda _: Result.failure()
    ok, failed, cancelled = works.request(), works.request("fail"), works.request(initial_delay=5)
    wm.enqueue([ok, failed, cancelled])
    wm.cancel_work_by_id(cancelled.id)
    kit.run_until_idle()
    return ok, failed, cancelled


def test_prune_deletes_all_finished_works_whatever_their_retention(wm, works, kit, finished):
    kept = works.request(keep_results_for_at_least=timedelta(days=9))
    waiting = works.request(initial_delay=60)
    wm.enqueue([kept, waiting])
    kit.run_until_idle()
    assert wm.prune_work().applied
    assert [info.id for info in wm.get_work_infos(WorkQuery())] == [waiting.id]
    assert works.find(kept) is None
    assert not wm.prune_work().applied


def test_prune_leaves_what_an_unfinished_work_depends_on_directly(wm, works, kit):
    a, b, c, d = works.request(), works.request(), works.request(initial_delay=60), works.request()
    wm.begin_with(a).then(b).then(c).then(d).enqueue()
    kit.run_until_idle()
    wm.prune_work()
    assert works.find(a) is None
    assert works.states(b, c, d) == ["SUCCEEDED", "ENQUEUED", "BLOCKED"]
    kit.clock.advance(timedelta(minutes=1))
    kit.run_until_idle()
    assert works.states(c, d) == ["SUCCEEDED", "SUCCEEDED"]


def test_after_pruning_append_finds_nothing_to_append_to(wm, works, kit):
    wm.enqueue_unique_work("name", ExistingWorkPolicy.APPEND, works.request())
    kit.run_until_idle()
    wm.prune_work()
    new = works.request()
    wm.enqueue_unique_work("name", ExistingWorkPolicy.APPEND, new)
    assert works.info(new).prerequisites == ()


def test_on_android_results_are_kept_for_a_day_from_the_last_enqueue(wm, works, kit):
    soon, late = works.request(initial_delay=86_000), works.request(keep_results_for_at_least=timedelta(days=1))
    wm.enqueue([soon, late])
    kit.clock.advance(timedelta(seconds=86_000))
    kit.run_until_idle()
    kit.keep_up()
    assert works.states(soon, late) == ["SUCCEEDED", "SUCCEEDED"]
    kit.clock.advance(timedelta(seconds=401))
    kit.keep_up()
    assert works.find(soon) is None
    assert works.state(late) == "SUCCEEDED"
    kit.clock.advance(timedelta(days=1))
    kit.keep_up()
    assert works.find(late) is None


def test_on_android_what_was_never_enqueued_goes_at_once(wm, works, kit):
    a, b = works.request(), works.request()
    wm.begin_with(a).then(b).enqueue()
    wm.cancel_work_by_id(a.id)
    kit.keep_up()
    assert works.find(b) is None
    assert works.state(a) == "CANCELLED"


def test_on_a_server_results_are_kept_for_a_day_from_the_finish(server_kit):
    from celery_workmanager import OneTimeWorkRequest
    from tests.conformance.workers import act

    kit, wm = server_kit, server_kit.work_manager
    work_id = wm.enqueue(OneTimeWorkRequest(act, initial_delay=timedelta(days=2))).id
    kit.clock.advance(timedelta(days=2))
    kit.run_until_idle()
    kit.clock.advance(timedelta(hours=23))
    kit.keep_up()
    assert wm.get_work_info_by_id(work_id) is not None
    kit.clock.advance(timedelta(hours=2))
    kit.keep_up()
    assert wm.get_work_info_by_id(work_id) is None


# -- again --------------------------------------------------------------------------------------------------------


def test_a_finished_work_can_be_run_again_as_a_new_one_that_remembers_it(wm, works, kit):
    actions["flaky"] = lambda self: {"ok": 1} if ran.count("x") > 1 else Result.failure()
    old = works.request("flaky", n="x", tags={"tag"})
    wm.enqueue_unique_work("name", KEEP, old)
    kit.run_until_idle()
    operation = wm.retry(old.id)
    info = works.info(operation.id)
    assert info.id != old.id
    assert (info.retry_of, info.state.name, info.tags, info.unique_names) == (
        old.id,
        "ENQUEUED",
        {"act", "tag"},
        ("name",),
    )
    kit.run_until_idle()
    assert works.states(old, info.id) == ["FAILED", "SUCCEEDED"]


def test_only_what_is_finished_can_be_run_again(wm, works):
    with pytest.raises(ValueError, match="finished, got: 'ENQUEUED'"):
        wm.retry(works.enqueue())
    with pytest.raises(LookupError):
        wm.retry(uuid.uuid4())
