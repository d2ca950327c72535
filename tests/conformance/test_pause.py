"""Pausing and resuming (ours; WorkManager has nothing like it), as a project's own tests see it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager import (
    CatchUp,
    ExistingPeriodicWorkPolicy,
    ExistingWorkPolicy,
    Operation,
    PauseKind,
    PeriodicWorkRequest,
    Result,
)
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance import workers
from tests.conformance.conftest import Works

APPLIED, NOT_APPLIED = Operation(applied=True), Operation(applied=False)


@pytest.mark.parametrize("which", [{"queue": "celery"}, {"tag": "red"}, {"name": "import"}, {"tag": "worker"}])
def test_nothing_paused_runs_until_it_is_resumed(kit: WorkManagerTestKit, works: Works, which: dict[str, str]):
    early, late = works.request(tags={"red"}), works.request(tags={"red"})
    if which == {"tag": "worker"}:
        which = {"tag": early.worker_name}
    works.wm.enqueue_unique_work("import", ExistingWorkPolicy.KEEP, early)
    assert works.wm.pause(**which) == APPLIED
    assert works.wm.pause(**which) == NOT_APPLIED
    works.wm.enqueue_unique_work("import", ExistingWorkPolicy.APPEND, late)
    assert kit.run_until_idle() == 0
    assert kit.run_one(early.id) is False
    assert works.states(early, late) == ["ENQUEUED", "BLOCKED"]
    assert [works.info(each).paused for each in (early, late)] == [True, True]
    assert [(each.kind.value, each.label) for each in works.wm.paused()] == list(which.items())
    assert works.wm.resume(**which) == APPLIED
    assert works.wm.resume(**which) == NOT_APPLIED
    assert works.wm.paused() == []
    assert kit.run_until_idle() == 2
    assert not works.info(early).paused


def test_run_now_and_a_delay_that_is_met_do_not_start_paused_work(kit: WorkManagerTestKit, works: Works):
    first = works.enqueue(initial_delay=3600, tags={"red"})
    second = works.enqueue(initial_delay=3600, tags={"red"})
    works.wm.pause(tag="red")
    assert works.wm.run_now(first).applied
    kit.driver.set_initial_delay_met(second)
    kit.clock.advance(timedelta(hours=2))
    kit.keep_up()
    assert kit.run_until_idle() == 0
    works.wm.resume(tag="red")
    assert kit.run_until_idle() == 2


def test_a_run_that_pauses_itself_ends_and_its_retry_waits(kit: WorkManagerTestKit, works: Works):
    def pause_and_retry(_: object) -> Result:
        works.wm.pause(tag="red")
        return Result.retry(after=1)

    workers.actions["answer"] = pause_and_retry
    work_id = works.enqueue("answer", tags={"red"})
    assert kit.run_until_idle() == 1
    kit.clock.advance(timedelta(minutes=1))
    assert kit.run_until_idle() == 0
    workers.actions["answer"] = lambda _: Result.success()
    works.wm.resume(tag="red")
    assert kit.run_until_idle() == 1
    assert works.state(work_id) == "SUCCEEDED"


def test_what_a_crashed_node_held_waits(kit: WorkManagerTestKit, works: Works):
    work_id = works.enqueue(tags={"red"})
    kit.crash_after("start")
    kit.run_one()
    works.wm.pause(tag="red")
    kit.lose_node()
    kit.clock.advance(timedelta(hours=1))
    assert kit.run_until_idle() == 0
    assert works.state(work_id) == "ENQUEUED"
    works.wm.resume(tag="red")
    assert kit.run_until_idle() == 1


def test_paused_work_can_be_cancelled(kit: WorkManagerTestKit, works: Works):
    work_id = works.enqueue(tags={"red"})
    works.wm.pause(tag="red")
    assert works.wm.cancel_work_by_id(work_id).ids == (work_id,)
    assert not works.info(work_id).paused
    works.wm.resume(tag="red")
    assert kit.run_until_idle() == 0


def test_a_pause_is_of_exactly_one_thing(works: Works):
    for call in (works.wm.pause, works.wm.resume):
        with pytest.raises(InvalidRequest, match="expected pause to be of exactly one of queue, tag, name and node"):
            call()
        with pytest.raises(InvalidRequest, match="'tag and name'"):
            call(tag="a", name="b")
        with pytest.raises(InvalidRequest, match="expected queue to be a non-empty str"):
            call(queue="")
    assert works.wm.paused() == []


def test_an_observer_sees_a_work_being_held_and_freed(works: Works):
    work_id = works.enqueue(tags={"red"})
    seen = works.wm.observe_work_info_by_id(work_id)
    assert not next(seen).paused
    works.wm.pause(tag="red")
    assert next(seen).paused
    works.wm.resume(tag="red")
    assert not next(seen).paused


def test_pauses_say_of_what_they_are(works: Works):
    works.wm.pause(name="import")
    (found,) = works.wm.paused()
    assert (found.kind, found.label, found.since) == (PauseKind.NAME, "import", works.wm.clock.today())  # type: ignore[attr-defined]


# -- periodic work ------------------------------------------------------------------------------------------------

HOUR = timedelta(hours=1)
BY = pytest.mark.parametrize("which", [{"name": "tick"}, {"tag": "red"}])


def ticking(works: Works, **options: Any) -> str:
    """A unique periodic work of one hour."""
    options.setdefault("repeat_interval", HOUR)
    request = PeriodicWorkRequest(workers.act, {"do": "nothing"}, tags={"red"}, **options)
    return works.wm.enqueue_unique_periodic_work("tick", ExistingPeriodicWorkPolicy.UPDATE, request).id


@BY
def test_a_paused_periodic_work_skips_no_period_it_only_waits(
    kit: WorkManagerTestKit, works: Works, which: dict[str, str]
):
    work_id = ticking(works)
    assert kit.run_until_idle() == 1
    works.wm.pause(**which)
    kit.clock.advance(5 * HOUR)
    assert kit.run_until_idle() == 0
    assert works.info(work_id).paused
    works.wm.resume(**which)
    assert kit.run_until_idle() == 1
    # Fixed delay: the next period begins at the end of the late run.
    assert works.info(work_id).next_schedule_time == works.now + HOUR


@BY
@pytest.mark.parametrize(("catch_up", "runs"), [(CatchUp.SKIP, 0), (CatchUp.ONCE, 1), (CatchUp.ALL, 5)])
def test_what_a_pause_let_pass_is_caught_up_as_the_work_says(
    kit: WorkManagerTestKit, works: Works, which: dict[str, str], catch_up: CatchUp, runs: int
):
    ticking(works, fixed_rate=True, catch_up=catch_up)
    assert kit.run_until_idle() == 1
    works.wm.pause(**which)
    kit.clock.advance(5 * HOUR + timedelta(minutes=1))
    assert kit.run_until_idle() == 0
    works.wm.resume(**which)
    # The occurrence whose following one has not come yet is not missed: it runs in any case.
    assert kit.run_until_idle() == runs


@BY
def test_an_update_run_now_and_the_end_of_a_period_start_nothing_paused(
    kit: WorkManagerTestKit, works: Works, which: dict[str, str]
):
    work_id = ticking(works)
    kit.run_until_idle()
    works.wm.pause(**which)
    works.wm.run_now(work_id)
    assert ticking(works, repeat_interval=2 * HOUR) == work_id
    kit.clock.advance(5 * HOUR)
    assert kit.run_until_idle() == 0
    works.wm.resume(**which)
    assert kit.run_until_idle() == 1


def test_a_periodic_run_that_pauses_its_name_ends_its_period_and_waits(kit: WorkManagerTestKit, works: Works):
    def pause(_: object) -> Result:
        works.wm.pause(name="tick")
        return Result.success()

    workers.actions["answer"] = pause
    request = PeriodicWorkRequest(workers.act, {"do": "answer"}, repeat_interval=HOUR)
    work_id = works.wm.enqueue_unique_periodic_work("tick", ExistingPeriodicWorkPolicy.KEEP, request).id
    assert kit.run_until_idle() == 1
    assert works.info(work_id).period_count == 1
    kit.clock.advance(5 * HOUR)
    assert kit.run_until_idle() == 0
    works.wm.resume(name="tick")
    assert kit.run_until_idle() == 1
