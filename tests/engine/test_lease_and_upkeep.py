"""Proof of life and what happens without it: leases, healing, forgotten claims, and the duties of time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from sqlalchemy import select, update

from celery_workmanager import lease as lease_module
from celery_workmanager import upkeep as upkeep_module
from celery_workmanager.constraints import Constraints
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.lease import END, SOON, WARN, this_host
from celery_workmanager.settings import Settings
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.tables import work
from celery_workmanager.timing import SECOND
from celery_workmanager.upkeep import SWEEP_INTERVAL, Upkeep
from celery_workmanager.work import State, StopReason
from tests.engine.scripted import GRACE, LEASE

HOUR = 3600.0


def away(*_args, **_kwargs):
    raise StoreUnavailable("sqlite://", "gone")


def nodes(world):
    return {row.id: row for row in world.store.nodes()}


def test_a_lease_is_renewed_four_times_in_its_length(world):
    node = world.node().join()
    first = nodes(world)[node.lease.node].lease_until
    assert first == world.clock.now() + LEASE * SECOND
    world.advance(LEASE / 4 - 0.1)
    node.lease.step()
    assert nodes(world)[node.lease.node].lease_until == first
    world.advance(0.1)
    node.lease.step()
    assert nodes(world)[node.lease.node].lease_until == world.clock.now() + LEASE * SECOND


def test_an_idle_lease_rests_until_it_is_renewed_or_has_something_new_to_tell(world):
    node = world.node()
    assert node.lease.until_next() < 0.01
    node.join()
    assert node.lease.until_next() == SOON
    world.advance(LEASE / 4 - 0.2)
    assert node.lease.until_next() == pytest.approx(0.2, abs=0.01)
    world.advance(0.2)
    assert 0 < node.lease.until_next() < 0.01
    node.lease.step()
    node.lease.facts_changed()
    world.advance(0.3)
    assert node.lease.until_next() == pytest.approx(SOON - 0.3, abs=0.01)
    world.advance(SOON - 0.3)
    node.lease.step()
    assert node.lease.until_next() == SOON
    world.enqueue()
    node.dispatcher.step()
    assert node.running
    assert node.lease.until_next() == 0.25


def test_runs_may_begin_until_shortly_before_the_lease_ends(world):
    node = world.node().join()
    now = world.clock.monotonic()
    assert now + LEASE * 0.5 < node.engine.deadline < now + LEASE
    world.advance(LEASE / 4)
    node.lease.step()
    assert node.engine.deadline > now + LEASE


def test_a_node_that_cannot_renew_stops_its_runs_before_the_lease_ends(world, monkeypatch):
    [work_id] = world.enqueue()
    node = world.node().join()
    monkeypatch.setattr(world.store, "renew", away)
    world.advance(LEASE * WARN - 0.1)
    with pytest.raises(StoreUnavailable):
        node.lease.step()
    assert (node.engine.stops, node.dispatcher.accepting) == ([], True)
    world.advance(0.1)
    with pytest.raises(StoreUnavailable):
        node.lease.step()
    [(stopped, reason, grace)] = node.engine.stops
    assert (stopped, reason) == (work_id, StopReason.UNKNOWN)
    assert grace is not None
    assert LEASE * WARN + grace <= LEASE * END + 1e-6 < LEASE
    assert not node.dispatcher.accepting


def test_a_renewal_that_is_never_answered_keeps_no_run_from_being_stopped_in_time(world, monkeypatch):
    """A cut cable says nothing: the thread that asked for the renewal waits, and another one sees to the runs."""
    [work_id] = world.enqueue()
    node = world.node().join()
    asked, answer = threading.Event(), threading.Event()

    def hang(*_args):
        asked.set()
        assert answer.wait(60)
        return True

    monkeypatch.setattr(world.store, "renew", hang)
    world.advance(LEASE * WARN)
    thread = threading.Thread(target=node.lease.step)
    thread.start()
    try:
        assert asked.wait(60)
        node.lease.watch()
        assert node.engine.stops == []  # it may just have woken up, and be about to renew
        node.lease.watch()
        [(stopped, reason, grace)] = node.engine.stops
    finally:
        answer.set()
        thread.join(60)
    assert (stopped, reason) == (work_id, StopReason.UNKNOWN)
    assert LEASE * WARN + grace <= LEASE * END + 1e-6


def test_a_step_that_is_over_is_not_taken_for_one_that_hangs(world):
    world.enqueue()
    node = world.node().join()
    for _ in range(3):
        node.lease.watch()
        world.advance(LEASE * WARN / 2)
        node.lease.step()
    world.advance(LEASE * WARN)
    node.lease.watch()
    node.lease.watch()
    assert node.engine.stops == []


def test_a_renewed_lease_lets_it_claim_again(world, monkeypatch):
    node = world.node().join()
    renew = world.store.renew
    monkeypatch.setattr(world.store, "renew", away)
    world.advance(LEASE * WARN)
    with pytest.raises(StoreUnavailable):
        node.lease.step()
    monkeypatch.setattr(world.store, "renew", renew)
    node.lease.step()
    assert node.dispatcher.accepting


def test_a_node_that_was_declared_lost_goes_on_as_a_new_one_and_stops_its_runs(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    before = node.lease.node
    world.advance(LEASE * 2)
    assert world.node().upkeep.heal(trust_leases=True) == 1
    node.lease.step()
    assert node.lease.node != before
    assert node.dispatcher.node == node.lease.node
    assert node.engine.stops[0][:2] == (work_id, StopReason.UNKNOWN)
    node.ended(work_id, output='{"too":"late"}')
    node.dispatcher.accepting = False
    node.settle()
    assert world.states(work_id) == ["ENQUEUED"]


def test_a_work_that_was_healed_and_taken_by_another_node_is_stopped_here(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    world.advance(1)
    world.store.put_back(node.lease.node, [work_id])
    other = world.node().join()
    assert other.running == [work_id]
    node.lease.step()
    assert node.engine.stops == [(work_id, StopReason.UNKNOWN, GRACE)]


def test_a_run_whose_work_this_very_node_has_claimed_anew_is_stopped(world):
    """The node's name is the same; the token isn't."""
    [work_id] = world.enqueue()
    node = world.node().join()
    world.advance(1)
    world.store.put_back(node.lease.node, [work_id])
    (again,) = world.store.claim_one(work_id, node.lease.node, 1)
    node.lease.step()
    assert world.store.owned(node.lease.node) == {work_id: again.token}
    assert node.engine.stops == [(work_id, StopReason.UNKNOWN, GRACE)]


def test_an_idle_node_says_goodbye_and_a_busy_one_is_healed(world):
    idle = world.node().join()
    idle.lease.release()
    world.enqueue()
    busy = world.node().join()
    busy.lease.release()
    assert set(nodes(world)) == {busy.lease.node}


# -- forgotten claims -----------------------------------------------------------------------------------------------


def test_a_claim_whose_answer_was_lost_is_put_back_after_one_lease(world, monkeypatch):
    """The node lives and renews, so nobody else would ever heal what it doesn't know it holds."""
    [work_id] = world.enqueue()
    node = world.node()
    node.lease.step()
    claim = world.store.claim

    def lost(*args, **options):
        claim(*args, **options)
        away()

    monkeypatch.setattr(world.store, "claim", lost)
    node.dispatcher.guarded_step()
    monkeypatch.setattr(world.store, "claim", claim)
    node.settle()
    assert node.running == []
    node.wait(HOUR)  # nothing rings
    node.settle()
    for _ in range(6):
        world.advance(LEASE / 4)
        node.lease.step()
        node.settle()
    assert node.running == [work_id]
    assert world.info(work_id).interruptions == 0


def test_what_runs_or_waits_to_be_written_is_never_put_back(world, monkeypatch):
    running, unwritten = world.enqueue(2)
    node = world.node().join()
    settle = world.store.settle
    monkeypatch.setattr(world.store, "settle", away)
    node.ended(unwritten)
    for _ in range(12):
        world.advance(LEASE / 4)
        node.lease.step()
        node.dispatcher.guarded_step()
    assert dict(world.store.owned(node.lease.node)).keys() == {running, unwritten}
    monkeypatch.setattr(world.store, "settle", settle)
    node.settle()
    assert world.states(running, unwritten) == ["ENQUEUED", "SUCCEEDED"]


# -- upkeep -------------------------------------------------------------------------------------------------------


def test_a_silent_node_is_healed_once_its_lease_has_run_out(world):
    first, second = world.enqueue(2)
    silent, keeper = world.node().join(), world.node()
    silent.began(first)
    world.advance(1)
    silent.dispatcher.step()
    for _ in range(int(LEASE)):
        world.advance(1)
        keeper.upkeep.step()
    world.advance(LEASE / 5 * 1.3)
    keeper.upkeep.step()
    one, two = world.info(first), world.info(second)
    assert (one.state.name, one.stop_reason, one.interruptions) == ("ENQUEUED", StopReason.UNKNOWN, 1)
    assert (two.state.name, two.stop_reason, two.interruptions) == ("ENQUEUED", StopReason.NOT_STOPPED, 0)
    assert silent.lease.node not in nodes(world)


def test_after_an_outage_it_waits_one_lease_before_it_heals(world, monkeypatch):
    [work_id] = world.enqueue()
    fleet, keeper = world.node().join(), world.node()
    world.advance(1)
    keeper.upkeep.step()
    nodes_of = world.store.next_moment
    monkeypatch.setattr(world.store, "next_moment", away)
    for _ in range(30):
        world.advance(2)
        with pytest.raises(StoreUnavailable):
            keeper.upkeep.step()
    monkeypatch.setattr(world.store, "next_moment", nodes_of)
    keeper.upkeep.step()
    world.advance(LEASE / 3)
    keeper.upkeep.step()
    assert world.store.owned(fleet.lease.node) == {work_id: fleet.engine.claims[work_id].token}
    fleet.lease._dispatcher.closed = True
    for _ in range(12):
        world.advance(LEASE / 8)
        keeper.upkeep.step()
    assert world.store.owned(fleet.lease.node) == {}


def test_an_upkeep_that_begins_in_an_outage_waits_one_lease_from_its_end(world, monkeypatch):
    [work_id] = world.enqueue()
    fleet = world.node().join()
    fleet.dispatcher.step()
    monkeypatch.setattr(world.store, "next_moment", away)
    world.advance(LEASE / 2)
    keeper = world.node()
    world.advance(LEASE / 4)
    with pytest.raises(StoreUnavailable):
        keeper.upkeep.step()
    monkeypatch.undo()
    for _ in range(7):  # the lease has run out by now, but nobody could renew it so far
        world.advance(LEASE / 8)
        keeper.upkeep.step()
    assert work_id in world.store.owned(fleet.lease.node)
    world.advance(LEASE / 2)
    keeper.upkeep.step()
    assert world.store.owned(fleet.lease.node) == {}


def test_the_works_of_a_process_of_this_machine_that_has_died_are_healed_at_once(world):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=30)
    [work_id] = world.enqueue()
    node = world.node().join()
    row = nodes(world)[node.lease.node]
    world.store.unregister(row.id)
    world.store.give_up([])
    dead = NodeRow(
        id="dead", name="n", host=this_host(), pid=process.pid, pid_started_at=1, started_at=0,
        lease_until=world.clock.now() + 3600 * SECOND, facts="{}",
    )  # fmt: skip
    world.store.register(dead)
    node.dispatcher.node = "dead"
    [other] = world.enqueue()
    node.dispatcher.step()
    assert set(world.store.owned("dead")) == {other}
    keeper = world.node()
    world.advance(0.1)
    keeper.upkeep.step()
    assert world.store.owned("dead") == {}
    assert "dead" not in nodes(world)
    assert world.info(work_id).node == node.lease.node


def test_healing_reads_no_nodes_of_other_machines(world, monkeypatch):
    """Each node of a large fleet would otherwise read all the others, every few seconds."""
    node = world.node().join()
    elsewhere = NodeRow("elsewhere", "n", "other/boot/pid", 1, 1, 0, world.clock.now() + 3600 * SECOND, "{}")
    world.store.register(elsewhere)
    seen = []

    def look(rows):
        seen.append([row.id for row in rows])
        return []

    monkeypatch.setattr(upkeep_module, "dead_nodes", look)
    world.node().upkeep.step()
    assert seen == [[node.lease.node]]
    assert set(nodes(world)) == {node.lease.node, "elsewhere"}


def test_a_living_process_is_not_gone_and_one_that_took_its_number_is_not_it():
    mine = lease_module.process_started_at(os.getpid())
    assert not lease_module.is_gone(os.getpid(), mine)
    assert lease_module.is_gone(os.getpid(), mine + 1) is bool(mine)


def test_due_works_are_promoted_and_expired_ones_cancelled(world):
    [due], [late] = world.enqueue(initial_delay=10), world.enqueue(initial_delay=60, expires=20)
    node = world.node().join()
    assert node.upkeep.until_next(3600) == 3600
    node.upkeep.step()
    assert node.upkeep.until_next(3600) == 10
    assert node.upkeep.until_next(1) == 1
    world.advance(10)
    node.upkeep.step()
    node.dispatcher.step()
    assert node.running == [due]
    world.advance(10)
    node.upkeep.step()
    assert world.states(late) == ["CANCELLED"]


def test_who_asks_is_told_when_time_has_made_works_claimable(world):
    """A node needn't wait for its own ring."""
    told: list[str] = []
    upkeep = Upkeep(world.store, world.clock, Settings(lease=LEASE), lambda: told.append("promoted"))
    world.enqueue(initial_delay=10)
    world.enqueue(initial_delay=10)
    world.enqueue(constraints=Constraints(node_labels=("zone=elsewhere",)), deadline=30)
    upkeep.step()
    assert told == []
    world.advance(10)
    upkeep.step()
    assert told == ["promoted"]
    upkeep.step()
    assert told == ["promoted"]
    world.advance(20)
    upkeep.step()
    assert told == ["promoted"] * 2


def test_who_hears_rings_need_not_ask_at_each_step(world, monkeypatch: pytest.MonkeyPatch):
    """What is due is promoted in time all the same, and a question that failed is asked again at once."""
    upkeep = Upkeep(world.store, world.clock, Settings(lease=LEASE))
    [due] = world.enqueue(initial_delay=4)
    upkeep.step(5)
    [sooner] = world.enqueue(initial_delay=1)
    world.advance(1)
    upkeep.step(5)
    assert (world.states(sooner), _ready(world)) == (["ENQUEUED"], [])
    assert upkeep.until_asked(5) == 4
    monkeypatch.setattr(world.store, "next_moment", _unavailable)
    with pytest.raises(OSError, match="away"):
        upkeep.step()  # as after a ring
    monkeypatch.undo()
    upkeep.step(5)
    assert _ready(world) == [sooner]
    world.advance(3)
    upkeep.step(5)
    assert _ready(world) == sorted([sooner, due])


def _ready(world) -> list[str]:
    with world.database.plain() as connection:
        return list(
            connection.execute(select(work.c.id).where(work.c.ready_lane.is_not(None)).order_by(work.c.id)).scalars()
        )


def _unavailable() -> int:
    raise OSError("away")


def test_a_wake_up_that_was_lost_is_made_up_for(world):
    parent, child = world.chain()
    with world.database.transaction() as connection:
        connection.execute(update(work).where(work.c.id == parent).values(state=int(State.SUCCEEDED), ready_lane=None))
    node = world.node().join()
    node.upkeep.step()
    assert world.states(child) == ["BLOCKED"]
    node.wait(HOUR)
    world.advance(2 * SWEEP_INTERVAL)
    node.lease.step()
    node.settle()
    node.upkeep.step()
    assert world.states(child) == ["ENQUEUED"]
    node.settle()
    assert node.running == [child]


def test_what_a_lost_node_held_is_taken_at_once_by_the_one_that_healed_it(world):
    lost, healer = world.node(), world.node().join()
    healer.wait(HOUR)
    [work_id] = world.enqueue()
    lost.join()
    healer.upkeep.step()
    for _ in range(10):
        world.advance(LEASE / 5)
        healer.lease.step()
        healer.settle()
        healer.upkeep.step()
    healer.settle()
    assert healer.running == [work_id]


def test_results_whose_retention_has_ended_are_pruned(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    node.ended(work_id)
    node.settle()
    world.advance(86_399)
    node.upkeep.step()
    assert world.states(work_id) == ["SUCCEEDED"]
    world.advance(80)
    node.upkeep.step()
    with pytest.raises(ValueError, match="not enough values"):
        world.info(work_id)
