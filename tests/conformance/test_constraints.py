"""Constraints: who waits for what, what stops a run, and with which reason (WorkManager semantics, section 4)."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import pytest

from celery_workmanager import (
    Constraints,
    ExistingPeriodicWorkPolicy,
    ExistingWorkPolicy,
    NetworkType,
    OutOfQuotaPolicy,
    PeriodicWorkRequest,
    Result,
    StopReason,
    TimeWindow,
    UpdateResult,
)
from celery_workmanager.errors import ConstraintsWarning, InvalidRequest, WorkNotFound
from tests.conformance.workers import act, actions, ran

MINUTE = timedelta(minutes=1)
CHARGING = Constraints(requires_charging=True)
CONNECTED = Constraints(required_network_type=NetworkType.CONNECTED)
STORAGE = Constraints(requires_storage_not_low=True)


# -- waiting -------------------------------------------------------------------------------------------------


def test_everything_is_met_until_a_test_says_less(kit, works):
    for constraints in (
        CHARGING,
        Constraints(required_network_type=NetworkType.METERED),
        Constraints(required_network_type=NetworkType.UNMETERED, requires_device_idle=True),
        Constraints(node_labels=("gpu=a100", "!slow", "cpus>=64")),
        Constraints(reachable=("tcp://nowhere:1",), custom=("licence",), requires_memory_not_low=True),
    ):
        works.enqueue(constraints=constraints)
    assert kit.run_until_idle() == 5


@pytest.mark.parametrize(
    ("constraints", "lost", "met"),
    [
        (CHARGING, {"charging": False}, {"charging": True}),
        (Constraints(requires_battery_not_low=True), {"battery_percent": 15}, {"battery_percent": 60}),
        (STORAGE, {"storage_free_percent": 1}, {"storage_free_percent": 50}),
        (CONNECTED, {"connected": True, "validated": False}, {"validated": True}),
        (
            Constraints(required_network_type=NetworkType.UNMETERED),
            {"network": NetworkType.METERED},
            {"network": NetworkType.UNMETERED},
        ),
        (Constraints(required_network_type=NetworkType.NOT_ROAMING), {"roaming": True}, {"network": "NOT_ROAMING"}),
        (Constraints(required_network_type=NetworkType.METERED), {"network": "UNMETERED"}, {"network": "METERED"}),
        (Constraints(requires_device_idle=True), {"idle": False}, {"idle": True}),
        (Constraints(requires_memory_not_low=True), {"memory_free_percent": 0}, {"memory_free_percent": 80}),
        (Constraints(node_labels=("gpu=a100",)), {"labels": {"gpu": "t4"}}, {"labels": {"gpu": "a100"}}),
        (Constraints(custom=("licence",)), {"custom": {"licence": False}}, {"custom": {"licence": True}}),
        (CHARGING, {"unknown": ["power"]}, {"charging": True}),
    ],
)
def test_a_work_waits_until_its_node_meets_it(kit, works, constraints, lost, met):
    kit.node.set(**lost)
    work_id, free = works.enqueue(constraints=constraints), works.enqueue()
    assert (kit.run_until_idle(), kit.run_one(work_id)) == (1, False)
    assert (works.state(free), works.state(work_id)) == ("SUCCEEDED", "ENQUEUED")
    assert (works.info(work_id).run_attempt_count, works.wm.get_stops(work_id)) == (0, [])
    kit.node.set(**met)
    assert kit.run_until_idle() == 1
    assert works.state(work_id) == "SUCCEEDED"


def test_all_of_them_must_hold(kit, works):
    kit.node.set(charging=True, connected=False)
    both = works.enqueue(constraints=Constraints(requires_charging=True, required_network_type=NetworkType.CONNECTED))
    assert kit.run_until_idle() == 0
    kit.node.set(charging=False, network="CONNECTED")
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert (kit.run_until_idle(), works.state(both)) == (1, "SUCCEEDED")


def test_hours_are_those_of_the_clock(kit, works):
    now = kit.clock.today()
    later = now + 2 * timedelta(hours=1)
    window = TimeWindow(f"{later:%H:%M}", f"{later + timedelta(hours=3):%H:%M}", "UTC")
    work_id = works.enqueue(constraints=Constraints(time_windows=(window,)))
    assert kit.run_until_idle() == 0
    kit.clock.advance(timedelta(hours=2))
    assert kit.run_until_idle() == 1
    started_at = works.info(work_id).started_at
    assert started_at is not None
    assert started_at.astimezone(UTC) == now + timedelta(hours=2)


def test_each_work_of_a_chain_waits_for_its_own(kit, works):
    kit.node.set(charging=False, connected=False)
    first, second, third = works.request(), works.request(constraints=CHARGING), works.request(constraints=CONNECTED)
    works.wm.begin_with(first).then(second).then(third).enqueue()
    assert kit.run_until_idle() == 1
    assert works.states(first, second, third) == ["SUCCEEDED", "ENQUEUED", "BLOCKED"]
    kit.node.set(network="CONNECTED")  # of no use to a blocked work
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert kit.run_until_idle() == 2
    assert works.states(second, third) == ["SUCCEEDED", "SUCCEEDED"]


def test_a_work_that_is_unblocked_waits_for_its_delay_and_then_for_its_constraints(kit, works):
    kit.node.set(charging=False)
    first, second = works.request(), works.request(constraints=CHARGING, initial_delay=60)
    works.wm.begin_with(first).then(second).enqueue()
    assert kit.run_until_idle() == 1
    kit.node.set(charging=True)
    assert kit.run_until_idle() == 0
    kit.node.set(charging=False)
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert kit.run_until_idle() == 1


def test_expedited_works_wait_too(kit, works):
    kit.node.set(connected=False)
    policy = OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST
    work_id = works.enqueue(constraints=CONNECTED, expedited=policy)
    assert kit.run_until_idle() == 0
    kit.node.set(network="CONNECTED")
    assert (kit.run_until_idle(), works.state(work_id)) == (1, "SUCCEEDED")
    with pytest.raises(InvalidRequest):
        works.request(constraints=CHARGING, expedited=policy)


# -- changing ------------------------------------------------------------------------------------------------


def test_keep_does_not_refresh_constraints(kit, works):
    kit.node.set(charging=False)
    old, new = works.request(constraints=CHARGING), works.request()
    works.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, old)
    works.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, new)
    assert (kit.run_until_idle(), works.state(old), works.find(new)) == (0, "ENQUEUED", None)
    assert works.info(old).constraints == CHARGING


def test_an_update_does_and_at_once(kit, works):
    kit.node.set(charging=False, network="CONNECTED")
    work_id = works.enqueue(constraints=CHARGING)
    assert kit.run_until_idle() == 0
    assert works.wm.update_work(works.request(id=work_id, constraints=CONNECTED)) is UpdateResult.APPLIED_IMMEDIATELY
    assert works.info(work_id).constraints == CONNECTED
    assert kit.run_until_idle() == 1
    waits = works.enqueue()
    works.wm.update_work(works.request(id=waits, constraints=CHARGING))
    assert kit.run_until_idle() == 0
    works.wm.update_work(works.request(id=waits))
    assert kit.run_until_idle() == 1


def test_an_update_of_a_running_work_is_for_its_next_run(kit, works):
    kit.node.set(charging=False)
    results: list[Any] = []

    def update(worker: Any) -> Result:
        if worker.run_attempt_count:
            return Result.success()
        request = works.request("update", id=worker.work_id, constraints=CHARGING, backoff_delay=60)
        results.append(works.wm.update_work(request))
        results.append(worker.is_stopped)
        return Result.retry()

    actions["update"] = update
    work_id = works.enqueue("update")
    assert kit.run_until_idle() == 1
    assert results == [UpdateResult.APPLIED_FOR_NEXT_RUN, False]
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert (kit.run_until_idle(), works.state(work_id)) == (1, "SUCCEEDED")


def test_update_of_a_periodic_work_and_of_a_blocked_one(kit, works):
    kit.node.set(charging=False)
    periodic = PeriodicWorkRequest(act, {"n": "p"}, repeat_interval=timedelta(hours=1), constraints=CHARGING)
    works.wm.enqueue_unique_periodic_work("tick", ExistingPeriodicWorkPolicy.KEEP, periodic)
    first, second = works.request(n=1, initial_delay=60), works.request(n=2, constraints=CHARGING)
    works.wm.begin_with(first).then(second).enqueue()
    assert kit.run_until_idle() == 0
    works.wm.update_work(works.request(n=2, id=second.id))
    kit.clock.advance(MINUTE)
    kit.run_until_idle()
    assert ran == [1, 2]
    free = PeriodicWorkRequest(act, {"n": "p"}, repeat_interval=timedelta(hours=1))
    works.wm.enqueue_unique_periodic_work("tick", ExistingPeriodicWorkPolicy.UPDATE, free)
    kit.run_until_idle()
    assert ran == [1, 2, "p"]


def test_a_retry_of_a_finished_work_waits_again(kit, works):
    work_id = works.enqueue(constraints=CHARGING)
    kit.run_until_idle()
    kit.node.set(charging=False)
    again = works.wm.retry(work_id).id
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert (kit.run_until_idle(), works.state(again)) == (1, "SUCCEEDED")


def test_the_periods_of_a_work_wait_each(kit, works):
    periodic = PeriodicWorkRequest(act, repeat_interval=timedelta(hours=1), constraints=CHARGING)
    works.wm.enqueue(periodic)
    assert kit.run_until_idle() == 1
    kit.node.set(charging=False)
    kit.clock.advance(timedelta(hours=1))
    assert kit.run_until_idle() == 0
    kit.node.set(charging=True)
    assert kit.run_until_idle() == 1


# -- lost while running --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraints", "lost", "reason"),
    [
        (CHARGING, {"charging": False}, StopReason.CONSTRAINT_CHARGING),
        (Constraints(requires_battery_not_low=True), {"battery_percent": 3}, StopReason.CONSTRAINT_BATTERY_NOT_LOW),
        (STORAGE, {"storage_free_percent": 0}, StopReason.CONSTRAINT_STORAGE_NOT_LOW),
        (CONNECTED, {"network": "NOT_REQUIRED"}, StopReason.CONSTRAINT_CONNECTIVITY),
        (Constraints(requires_device_idle=True), {"idle": False}, StopReason.CONSTRAINT_DEVICE_IDLE),
        (Constraints(node_labels=("zone=a",)), {"labels": {"zone": "b"}}, StopReason.DEVICE_STATE),
        # Several at once: the first in Android's order of evaluation is told.
        (
            Constraints(requires_charging=True, requires_battery_not_low=True, requires_storage_not_low=True),
            {"storage_free_percent": 0, "battery_percent": 3, "charging": False},
            StopReason.CONSTRAINT_CHARGING,
        ),
        (
            Constraints(requires_storage_not_low=True, requires_battery_not_low=True),
            {"storage_free_percent": 0, "battery_percent": 3},
            StopReason.CONSTRAINT_BATTERY_NOT_LOW,
        ),
        (
            Constraints(required_network_type=NetworkType.CONNECTED, requires_storage_not_low=True),
            {"connected": False, "storage_free_percent": 0},
            StopReason.CONSTRAINT_STORAGE_NOT_LOW,
        ),
        (
            Constraints(required_network_type=NetworkType.CONNECTED, node_labels=("zone=a",), custom=("licence",)),
            {"labels": {}, "custom": {"licence": False}, "connected": False},
            StopReason.CONSTRAINT_CONNECTIVITY,
        ),
    ],
)
def test_a_run_that_loses_one_is_stopped_with_its_reason(server_kit, constraints, lost, reason):
    seen: list[Any] = []

    def lose(worker: Any) -> Result:
        worker.set_progress(half=True)
        server_kit.node.set(**lost)
        seen.append((worker.is_stopped, worker.stop_reason))
        return Result.success(late=True)

    actions["lose"] = lose
    wm = server_kit.work_manager
    work_id = wm.enqueue(act_request("lose", constraints=constraints)).id
    # It goes back, and isn't begun again where it would be lost at once.
    assert server_kit.run_until_idle() == 1
    assert seen == [(True, reason)]
    info = wm.get_work_info_by_id(work_id)
    assert (info.state.name, info.stop_reason, info.run_attempt_count) == ("ENQUEUED", reason, 0)
    assert (info.progress["half"], dict(info.output_data)) == (True, {})
    (stop,) = wm.get_stops(work_id)
    assert (stop.number, stop.reason, stop.run_attempt_count) == (1, reason, 1)
    assert stop.started_at == stop.stopped_at == server_kit.clock.today()
    actions.clear()
    server_kit.node.reset()
    assert server_kit.run_until_idle() == 1
    info = wm.get_work_info_by_id(work_id)
    assert (info.state.name, info.run_attempt_count) == ("SUCCEEDED", 1)
    assert len(wm.get_stops(work_id)) == 1


def act_request(do: str, **options: Any) -> Any:
    from celery_workmanager import OneTimeWorkRequest

    return OneTimeWorkRequest(act, {"do": do}, **options)


def test_on_android_a_stop_spends_the_attempt(kit, works):
    def lose(_: Any) -> None:
        kit.node.set(charging=False)

    actions["lose"] = lose
    work_id = works.enqueue("lose", constraints=CHARGING)
    assert kit.run_until_idle() == 1
    assert (works.state(work_id), works.info(work_id).run_attempt_count) == ("ENQUEUED", 1)
    actions.clear()
    kit.node.set(charging=True)
    kit.clock.advance(timedelta(hours=5))
    kit.run_until_idle()
    assert works.info(work_id).run_attempt_count == 2
    assert [each.run_attempt_count for each in works.wm.get_stops(work_id)] == [1]


def test_a_run_stays_when_what_it_loses_is_not_its_own(kit, works):
    seen: list[bool] = []

    def lose(worker: Any) -> None:
        kit.node.set(battery_percent=1, connected=False)
        seen.append(worker.is_stopped)

    actions["lose"] = lose
    work_id = works.enqueue("lose", constraints=CHARGING)
    free = works.enqueue("lose")
    kit.run_until_idle()
    assert (works.state(work_id), works.state(free), seen) == ("SUCCEEDED", "SUCCEEDED", [False, False])


def test_a_lost_run_of_periodic_work_is_made_up_for(kit, works):
    def lose(_: Any) -> None:
        kit.node.set(charging=False)

    actions["lose"] = lose
    request = PeriodicWorkRequest(act, {"do": "lose"}, repeat_interval=timedelta(hours=1), constraints=CHARGING)
    works.wm.enqueue(request)
    assert kit.run_until_idle() == 1
    assert [run.outcome.name for run in works.wm.get_runs(request.id)] == ["STOPPED"]
    assert [stop.reason for stop in works.wm.get_stops(request.id)] == [StopReason.CONSTRAINT_CHARGING]
    actions.clear()
    kit.node.set(charging=True)
    kit.clock.advance(MINUTE)
    kit.run_until_idle()
    assert [run.outcome.name for run in works.wm.get_runs(request.id)] == ["SUCCEEDED", "STOPPED"]


# -- the ledger ----------------------------------------------------------------------------------------------


def test_other_stops_stand_in_the_ledger_too(server_kit):
    kit, wm = server_kit, server_kit.work_manager
    reasons = [StopReason.QUOTA, StopReason.TIMEOUT]

    def stop(worker: Any) -> None:
        if reasons:
            kit.driver.stop_running_work_with_reason(worker.work_id, reasons.pop(0))
        else:
            wm.cancel_work_by_id(worker.work_id)

    actions["stop"] = stop
    work_id = wm.enqueue(act_request("stop")).id
    kit.crash_after("start")
    kit.run_until_idle()
    kit.lose_node()
    assert kit.run_until_idle() == 3
    stops = wm.get_stops(work_id)
    assert [each.reason.name for each in stops] == ["CANCELLED_BY_APP", "TIMEOUT", "QUOTA", "UNKNOWN"]
    assert [each.number for each in stops] == [4, 3, 2, 1]
    assert {each.run_attempt_count for each in stops} == {1}
    wm.prune_work()
    assert wm.get_stops(work_id) == []


# -- deadline ------------------------------------------------------------------------------------------------


def test_from_its_deadline_on_a_work_runs_whatever_its_node_reads(kit, works):
    kit.node.set(charging=False)
    told: list[bool] = []
    actions["tell"] = lambda worker: told.append(worker.deadline_expired)
    late = works.enqueue("tell", constraints=CHARGING, deadline=60)
    at = works.enqueue("tell", constraints=CHARGING, deadline=kit.clock.today() + 2 * MINUTE)
    assert kit.run_until_idle() == 0
    kit.clock.advance(MINUTE)
    assert (kit.run_until_idle(), works.state(late), works.state(at)) == (1, "SUCCEEDED", "ENQUEUED")
    kit.node.set(charging=True)
    assert (kit.run_until_idle(), works.state(at)) == (1, "SUCCEEDED")
    assert told == [True, False]


def test_it_counts_from_the_enqueue_also_for_a_blocked_work(kit, works):
    kit.node.set(charging=False)
    first = works.request(initial_delay=120)
    second = works.request(constraints=CHARGING, deadline=60)
    works.wm.begin_with(first).then(second).enqueue()
    kit.clock.advance(2 * MINUTE)
    assert kit.run_until_idle() == 2


def test_a_delay_comes_before_it_and_it_does_not_expedite(kit, works):
    kit.node.set(charging=False)
    with pytest.warns(ConstraintsWarning, match="comes before the initial delay"):
        work_id = works.enqueue(constraints=CHARGING, deadline=60, initial_delay=120)
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 0
    kit.clock.advance(MINUTE)
    assert (kit.run_until_idle(), works.state(work_id)) == (1, "SUCCEEDED")


def test_a_work_that_expires_first_never_runs(kit, works):
    kit.node.set(charging=False)
    first = works.enqueue(constraints=CHARGING, deadline=120, expires=60)
    second = works.enqueue(constraints=CHARGING, deadline=60, expires=120)
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 1
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 0
    assert (works.state(first), works.state(second)) == ("CANCELLED", "SUCCEEDED")


def test_a_run_past_its_deadline_is_not_stopped(kit, works):
    seen: list[bool] = []

    def lose(worker: Any) -> None:
        kit.clock.advance(MINUTE)
        kit.node.set(charging=False)
        seen.append(worker.is_stopped)

    actions["lose"] = lose
    work_id = works.enqueue("lose", constraints=CHARGING, deadline=60)
    kit.run_until_idle()
    assert (seen, works.state(work_id)) == ([False], "SUCCEEDED")


def test_an_update_may_move_or_take_away_a_deadline(kit, works):
    kit.node.set(charging=False)
    moved, without = (works.enqueue(constraints=CHARGING, deadline=60) for _ in range(2))
    works.wm.update_work(works.request(id=moved, constraints=CHARGING, deadline=120))
    works.wm.update_work(works.request(id=without, constraints=CHARGING))
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 0
    kit.clock.advance(MINUTE)
    assert (kit.run_until_idle(), works.state(moved), works.state(without)) == (1, "SUCCEEDED", "ENQUEUED")


def test_a_periodic_work_has_one_in_each_period(kit, works):
    kit.node.set(charging=False)
    told: list[bool] = []
    actions["tell"] = lambda worker: told.append(worker.deadline_expired)
    request = PeriodicWorkRequest(
        act, {"do": "tell"}, repeat_interval=timedelta(hours=1), constraints=CHARGING, deadline=60
    )
    works.wm.enqueue(request)
    for _ in range(2):
        assert kit.run_until_idle() == 0
        kit.clock.advance(MINUTE)
        assert kit.run_until_idle() == 1
        kit.clock.advance(timedelta(hours=1))
    kit.node.set(charging=True)
    assert kit.run_until_idle() == 1
    assert told == [True, True, False]


# -- the test driver -----------------------------------------------------------------------------------------


def test_the_driver_lets_constraints_be_met_for_the_next_run(kit, works):
    kit.node.set(charging=False)
    seen: list[bool] = []

    def look(worker: Any) -> Result:
        kit.node.set(charging=False)  # it counts as met to the end of the run
        seen.append(worker.is_stopped)
        return Result.retry() if worker.run_attempt_count == 0 else Result.success()

    actions["look"] = look
    work_id = works.enqueue("look", constraints=CHARGING)
    kit.driver.set_all_constraints_met(work_id)
    assert (kit.run_until_idle(), seen) == (1, [False])
    kit.clock.advance(timedelta(minutes=5))
    assert (kit.run_until_idle(), works.info(work_id).run_attempt_count) == (0, 1)
    kit.driver.set_all_constraints_met(work_id)
    assert kit.run_one(work_id)
    assert works.state(work_id) == "SUCCEEDED"


def test_the_driver_waits_with_a_work_for_everything_else(kit, works):
    kit.node.set(charging=False)
    first, second = works.request(initial_delay=60), works.request(constraints=CHARGING)
    works.wm.begin_with(first).then(second).enqueue()
    kit.driver.set_all_constraints_met(second.id)
    assert kit.run_until_idle() == 0
    kit.clock.advance(MINUTE)
    assert kit.run_until_idle() == 2
    with pytest.raises(WorkNotFound):
        kit.driver.set_all_constraints_met("nobody")


def test_bad_words_are_refused(kit):
    with pytest.raises(InvalidRequest, match="did you mean 'charging'"):
        kit.node.set(chargin=False)
    with pytest.raises(InvalidRequest, match="battery_percent"):
        kit.node.set(battery_percent=101)
