"""Content triggers: what changes start a work, when, and what its run is told (WorkManager semantics, section 4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager import Constraints, ContentUriTrigger, Limit, PeriodicWorkRequest, Result, StopReason
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance.conftest import Works
from tests.conformance.workers import act, actions, ran

SECOND = timedelta(seconds=1)
ON_IN = Constraints(content_uri_triggers=(ContentUriTrigger("/in"),))


@pytest.fixture
def told() -> list[Any]:
    """What runs of works that do "tell" were told."""
    found: list[Any] = []
    actions["tell"] = lambda run: found.append((run.triggered_content_uris, run.triggered_content_authorities))
    return found


def test_it_runs_when_what_it_is_about_has_changed_and_rests(kit: WorkManagerTestKit, works: Works, told: list[Any]):
    work = works.enqueue("tell", constraints=ON_IN)
    assert (kit.run_until_idle(), kit.run_one(work)) == (0, False)
    kit.node.change("/out/a")
    kit.node.change("/in/a", "/in/b")
    kit.clock.advance(9 * SECOND)
    kit.node.change("/in/a")
    kit.clock.advance(9 * SECOND)
    assert kit.run_until_idle() == 0
    kit.clock.advance(SECOND)
    assert kit.run_until_idle() == 1
    assert told == [(("/in/a", "/in/b"), ("/in",))]
    assert works.state(work) == "SUCCEEDED"


def test_it_waits_no_longer_than_two_minutes_for_a_rest(kit: WorkManagerTestKit, works: Works):
    works.enqueue(constraints=ON_IN)
    for _ in range(24):
        kit.node.change("/in/a")
        assert kit.run_until_idle() == 0
        kit.clock.advance(5 * SECOND)
    assert kit.run_until_idle() == 1


def test_it_is_started_once_and_another_waits_for_other_changes(kit: WorkManagerTestKit, works: Works):
    works.enqueue(n=1, constraints=ON_IN)
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    kit.run_until_idle()
    works.enqueue(n=2, constraints=ON_IN)
    kit.node.change("/out")
    kit.clock.advance(60 * SECOND)
    assert kit.run_until_idle() == 0
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    kit.run_until_idle()
    assert ran == [1, 2]


def test_changes_from_before_the_enqueue_dont_count(kit: WorkManagerTestKit, works: Works):
    kit.node.change("/in/a")
    works.enqueue(constraints=ON_IN)
    kit.clock.advance(60 * SECOND)
    assert kit.run_until_idle() == 0


def test_whatever_happens_to_the_run_the_next_one_is_told_the_same(
    kit: WorkManagerTestKit, works: Works, told: list[Any]
):
    def stopped_then_retried_then_done(run: Any) -> Any:
        told.append(run.triggered_content_uris)
        if len(told) == 1:
            kit.driver.stop_running_work_with_reason(run.work_id, StopReason.DEVICE_STATE)
        return Result.retry() if len(told) == 2 else None

    actions["struggle"] = stopped_then_retried_then_done
    work = works.enqueue("struggle", constraints=ON_IN)
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    kit.crash_after("claim")
    kit.run_until_idle()
    kit.lose_node()
    for _ in range(3):
        kit.run_until_idle()
        kit.clock.advance(timedelta(hours=1))
    assert told == [("/in/a",)] * 3
    assert works.state(work) == "SUCCEEDED"


def test_of_more_than_fifty_changes_only_the_folders_are_told(kit: WorkManagerTestKit, works: Works, told: list[Any]):
    asked = Constraints(content_uri_triggers=(ContentUriTrigger("/in", trigger_for_descendants=True),))
    works.enqueue("tell", constraints=asked)
    kit.node.change(*(f"/in/{n % 3}/{n}" for n in range(51)))
    kit.clock.advance(10 * SECOND)
    kit.run_until_idle()
    assert told == [((), ("/in/0", "/in/1", "/in/2"))]


def test_its_other_constraints_must_be_met_too(kit: WorkManagerTestKit, works: Works):
    works.enqueue(constraints=Constraints(content_uri_triggers=(ContentUriTrigger("/in"),), requires_charging=True))
    kit.node.set(charging=False)
    kit.node.change("/in/a")
    kit.clock.advance(60 * SECOND)
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    assert kit.run_until_idle() == 1


def test_a_work_of_a_chain_waits_for_changes_from_when_it_is_unblocked(
    kit: WorkManagerTestKit, works: Works, told: list[Any]
):
    first, last = works.request("tell"), works.request("tell", constraints=ON_IN)
    works.wm.begin_with(first).then(last).enqueue()
    kit.node.change("/in/before")
    kit.run_until_idle()
    kit.clock.advance(SECOND)
    kit.node.change("/in/after")
    kit.clock.advance(10 * SECOND)
    assert kit.run_until_idle() == 1
    assert told[-1] == (("/in/after",), ("/in",))


def test_a_deadline_and_a_driver_dont_wait_for_changes(kit: WorkManagerTestKit, works: Works):
    works.enqueue(n=1, constraints=ON_IN, deadline=60)
    second = works.enqueue(n=2, constraints=ON_IN)
    kit.driver.set_all_constraints_met(second)
    assert kit.run_until_idle() == 1
    kit.clock.advance(60 * SECOND)
    assert kit.run_until_idle() == 1
    assert ran == [2, 1]


def test_a_drained_node_and_a_pause_start_nothing_and_forget_nothing(kit: WorkManagerTestKit, works: Works):
    works.enqueue(constraints=ON_IN, tags={"red"})
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    works.wm.pause(node="kit")
    assert kit.run_until_idle() == 0
    works.wm.resume(node="kit")
    works.wm.pause(tag="red")
    assert kit.run_until_idle() == 0
    works.wm.resume(tag="red")
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    assert kit.run_until_idle() == 1


def test_an_update_asks_for_other_changes(kit: WorkManagerTestKit, works: Works):
    work = works.enqueue(constraints=ON_IN)
    kit.node.change("/in/a")
    works.wm.update_work(
        works.request(id=work, constraints=Constraints(content_uri_triggers=(ContentUriTrigger("/out"),)))
    )
    kit.clock.advance(60 * SECOND)
    assert kit.run_until_idle() == 0
    kit.node.change("/out")
    kit.clock.advance(10 * SECOND)
    assert kit.run_until_idle() == 1


def test_a_limit_of_the_fleet_is_kept(kit: WorkManagerTestKit, works: Works, told: list[Any]):
    for _ in range(2):
        works.enqueue("tell", constraints=ON_IN, concurrency=Limit("disk", 1))
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    kit.run_until_idle()
    kit.run_until_idle()
    assert told == [(("/in/a",), ("/in",))] * 2


def test_periodic_work_has_no_triggers():
    with pytest.raises(InvalidRequest, match="expected periodic work to be without content_uri_triggers"):
        PeriodicWorkRequest(act, repeat_interval=3600, constraints=ON_IN)


def test_a_retry_of_the_finished_work_is_told_the_same(kit: WorkManagerTestKit, works: Works, told: list[Any]):
    work = works.enqueue("tell", constraints=ON_IN)
    kit.node.change("/in/a")
    kit.clock.advance(10 * SECOND)
    kit.run_until_idle()
    works.wm.retry(work)
    assert kit.run_until_idle() == 1
    assert told[0] == told[1]
