"""What time does: leases and healing, pruning, sweeping."""

from __future__ import annotations

import pytest

from celery_workmanager.outcome import Ending
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import HEAL_CHUNK, NodeRow
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason
from tests.stores import (
    HOUR,
    KEEP,
    START,
    end,
    enqueue,
    fail,
    info,
    job,
    make_store,
    move,
    put,
    put_chain,
    put_named,
    register,
    row,
    rows_of,
    sql,
    start,
    state,
    states,
    step,
    succeed,
    take,
    take_one,
)

DAY = 24 * HOUR


def heal_all(store: Store) -> list[str]:
    """Heal until there is nothing left to heal; returns the works put back."""
    healed: list[str] = []
    while (found := store.heal(store.clock.now())) is not None:
        healed += sorted(found[1].accepted)
        assert not found[1].held
    return healed


# -- leases --------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_and_known(store: Store):
    register(store)
    assert store.renew("node", START + 30 * SECOND, '{"n": 1}') is True
    (found,) = store.nodes()
    assert (found.id, found.lease_until, found.facts) == ("node", START + 30 * SECOND, '{"n": 1}')


def test_works_of_a_live_node_are_left_alone(store: Store):
    put(store, "a")
    register(store)
    take(store)
    move(store, 15 * SECOND)
    assert store.heal(store.clock.now()) is None
    assert store.owned("node").keys() == {"a"}


def test_one_look_tells_of_a_machines_nodes_and_of_lost_ones_anywhere(store: Store):
    assert store.look_for_lost("host", store.clock.now()) == ([], False)
    register(store)
    register(store, "second", lease=30 * SECOND)
    store.register(NodeRow("elsewhere", "w@other", "other", 1, 1, START, START + 20 * SECOND, "{}"))
    here, has_lost = store.look_for_lost("host", store.clock.now())
    assert sorted(here, key=lambda each: each.id) == [each for each in store.nodes() if each.host == "host"]
    assert not has_lost
    assert [each.id for each in store.look_for_lost("other", START)[0]] == ["elsewhere"]
    assert store.look_for_lost("host", START + 15 * SECOND + 1)[1]
    assert store.look_for_lost("nowhere", START + 15 * SECOND + 1) == ([], True)


def test_works_in_the_hands_of_nobody_are_lost_too(store: Store):
    put(store, "a")
    register(store, lease=HOUR)
    take(store)
    assert not store.look_for_lost("host", store.clock.now())[1]
    sql(store, "DELETE FROM workmanager_node")
    assert store.look_for_lost("host", store.clock.now()) == ([], True)


def test_a_lost_nodes_works_go_back_and_the_node_goes(store: Store):
    put(store, "started", "claimed")
    register(store)
    register(store, "other", lease=HOUR)
    first, second = take_one(store, "started"), take_one(store, "claimed")
    start(store, first)
    move(store, 15 * SECOND + 1)
    assert heal_all(store) == ["claimed", "started"]
    assert [each.id for each in store.nodes()] == ["other"]
    assert states(store) == {"started": "ENQUEUED", "claimed": "ENQUEUED"}
    assert store.renew("node", START + HOUR, "{}") is False
    assert end(store, first, second).stale == {"started", "claimed"}
    assert len(take(store, node="other")) == 2


def test_only_a_run_that_was_written_counts_as_interrupted(store: Store):
    put(store, "started", "claimed")
    register(store)
    start(store, take_one(store, "started"))
    take_one(store, "claimed")
    move(store, HOUR)
    heal_all(store)
    assert (info(store, "started").interruptions, info(store, "claimed").interruptions) == (1, 0)
    assert info(store, "started").stop_reason is StopReason.UNKNOWN
    assert (info(store, "started").run_attempt_count, info(store, "started").runs) == (0, 1)
    assert (info(store, "claimed").run_attempt_count, info(store, "claimed").runs) == (0, 0)


def test_a_lost_run_is_an_attempt_on_android_and_keeps_its_moment_of_enqueue(store_address: str):
    store = make_store(store_address, profile="android")
    put(store, "a")
    register(store)
    start(store, take_one(store, "a"))
    move(store, HOUR)
    heal_all(store)
    assert info(store, "a").run_attempt_count == 1
    assert row(store, "a").enqueued_at == START
    store.close()


def test_a_work_that_kills_its_process_is_given_up_when_healed(store_address: str):
    store = make_store(store_address, max_interruptions=2)
    put_chain(store, "a", "b")
    for node in ("one", "two"):
        register(store, node)
        start(store, take_one(store, "a", node))
        move(store, HOUR)
        heal_all(store)
    assert states(store) == {"a": "FAILED", "b": "FAILED"}
    store.close()


def test_a_node_with_many_works_is_healed_in_chunks(store: Store):
    put(store, *(job() for _ in range(HEAL_CHUNK + 50)))
    register(store)
    take(store, 1000)
    move(store, HOUR)
    found = store.heal(store.clock.now())
    assert found is not None
    assert len(found[1].accepted) == HEAL_CHUNK
    assert [each.id for each in store.nodes()] == ["node"]
    assert len(heal_all(store)) == 50
    assert store.nodes() == []


def test_a_finish_is_accepted_as_long_as_nobody_has_healed(store: Store):
    put(store, "a")
    register(store)
    claim = take_one(store, "a")
    move(store, HOUR)
    assert end(store, claim).accepted == {"a"}
    assert heal_all(store) == []
    assert state(store, "a") is State.SUCCEEDED


def test_the_lease_of_a_node_that_is_known_to_be_dead_is_ended(store: Store):
    put(store, "a")
    register(store)
    take(store)
    store.give_up(["node"])
    found = store.heal(1)
    assert found is not None
    assert (found[0], found[1].accepted) == ("node", {"a"})


def test_what_a_node_claimed_after_it_was_declared_lost_is_healed_too(store: Store):
    """It slept, was declared lost, woke up, claimed before it noticed, and died: no lease speaks for its works."""
    put(store, "a")
    register(store)
    move(store, HOUR)
    assert heal_all(store) == []
    assert store.nodes() == []
    start(store, take_one(store, "a"))
    assert heal_all(store) == ["a"]
    assert [claim.id for claim in take(store)] == ["a"]


def test_only_an_idle_node_says_goodbye(store: Store):
    put(store, "a")
    register(store)
    claim = take_one(store, "a")
    store.unregister("node")
    assert len(store.nodes()) == 1
    end(store, claim)
    store.unregister("node")
    assert store.nodes() == []


# -- pruning -------------------------------------------------------------------------------------------------


def prune_expired(store: Store) -> int:
    return store.prune(only_expired=True)


def test_a_finished_work_is_kept_for_its_retention_from_its_finish(store: Store):
    put(store, "plain", job("kept", keep_results_for_at_least=3600), "unfinished")
    move(store, 2 * DAY)
    succeed(store, "plain", "kept")
    move(store, DAY - 1)
    assert prune_expired(store) == 0
    move(store, 1)
    assert prune_expired(store) == 1
    move(store, HOUR)
    assert prune_expired(store) == 1
    assert states(store) == {"unfinished": "ENQUEUED"}


def test_on_android_retention_counts_from_the_enqueue(store_address: str):
    store = make_store(store_address, profile="android")
    put(store, "a", job("kept", keep_results_for_at_least=3600))
    move(store, DAY)
    succeed(store, "a", "kept")
    assert prune_expired(store) == 1
    assert states(store) == {"kept": "SUCCEEDED"}
    move(store, HOUR)
    assert prune_expired(store) == 1
    store.close()


def test_on_android_a_work_that_was_never_enqueued_goes_at_once(store_address: str):
    store = make_store(store_address, profile="android")
    put(store, "a")
    fail(store, "a")
    enqueue(store, step("a"), step("b", after=("a",)))
    assert state(store, "b") is State.FAILED
    assert prune_expired(store) == 1
    assert states(store) == {"a": "FAILED"}
    store.close()


def test_a_work_is_kept_while_a_direct_dependent_is_unfinished(store: Store):
    put_chain(store, "a", "b", "c")
    succeed(store, "a", "b")
    move(store, 2 * DAY)
    assert prune_expired(store) == 1
    assert states(store) == {"b": "SUCCEEDED", "c": "ENQUEUED"}
    (claim,) = take(store)
    assert len(claim.inputs) == 2
    end(store, claim)
    move(store, 2 * DAY)
    assert prune_expired(store) == 2


def test_prune_work_takes_all_that_has_finished_whatever_its_age(store: Store):
    put_named(store, "order", KEEP, job("a", tags={"x"}, keep_results_for_at_least=3600))
    put_chain(store, "p", "q")
    succeed(store, "a", "p")
    store.cancel("q")
    put(store, "unfinished")
    assert store.prune(only_expired=False) == 3
    assert states(store) == {"unfinished": "ENQUEUED"}
    assert (rows_of(store, "edge"), rows_of(store, "tag"), rows_of(store, "member")) == (0, 0, 0)


def test_pruning_goes_on_in_chunks(store: Store):
    put(store, *(job() for _ in range(1100)))
    store.cancel_all()
    assert store.prune(only_expired=False) == 1100
    assert rows_of(store, "work") == 0


def test_every_finished_work_can_be_pruned_and_no_other(store: Store):
    put(store, job("expired", expires=1), "lost", "failed", "cancelled", "succeeded", "retried")
    put_chain(store, "p", "inherits")
    move(store, SECOND)
    store.expire()
    fail(store, "failed", "p")
    store.cancel("cancelled")
    succeed(store, "succeeded")
    end(store, take_one(store, "retried"), ending=Ending.RETRY)
    with store.database.plain() as connection:
        found = connection.exec_driver_sql("SELECT id FROM workmanager_work WHERE prune_at IS NOT NULL").scalars()
        assert set(found) == {"expired", "failed", "p", "inherits", "cancelled", "succeeded"}


# -- sweeping ------------------------------------------------------------------------------------------------


def sweep_all(store: Store) -> int:
    after, repaired = "", 0
    while True:
        after, some = store.sweep(after)
        repaired += some
        if not after:
            return repaired


def test_a_sweep_finds_nothing_in_a_sound_store(store: Store):
    put_chain(store, ["a", "b"], "c", "d")
    assert sweep_all(store) == 0
    succeed(store, "a")
    assert sweep_all(store) == 0
    assert states(store) == {"a": "SUCCEEDED", "b": "ENQUEUED", "c": "BLOCKED", "d": "BLOCKED"}


def test_a_sweep_repairs_a_wake_up_that_was_lost(store: Store):
    """As if two parents had finished together without the lock: each counted the other one as unfinished."""
    put_chain(store, ["a", "b"], job("c", initial_delay=0).id, "d")
    succeed(store, "a", "b")
    sql(store, "UPDATE workmanager_work SET state = 4, waits_for = 1, ready_lane = NULL WHERE id = 'c'")
    assert take(store) == []
    assert sweep_all(store) == 1
    assert states(store)["c"] == "ENQUEUED"
    assert row(store, "c").waits_for is None
    assert [claim.id for claim in take(store)] == ["c"]
    assert sweep_all(store) == 0


@pytest.mark.parametrize(("number", "name"), [(State.FAILED, "FAILED"), (State.CANCELLED, "CANCELLED")])
def test_a_sweep_hands_a_broken_end_down_that_was_lost(store: Store, number: State, name: str):
    put_chain(store, "a", "b", "c")
    sql(store, "UPDATE workmanager_work SET state = :state, ready_lane = NULL WHERE id = 'a'", state=int(number))
    assert sweep_all(store) == 2
    assert states(store) == {"a": name, "b": name, "c": name}


def test_a_sweep_unblocks_a_work_whose_prerequisites_are_gone(store: Store):
    """Prerequisites that are no longer in the database count as done."""
    put_chain(store, "a", "b")
    sql(store, "DELETE FROM workmanager_work WHERE id = 'a'")
    assert sweep_all(store) == 1
    assert state(store, "b") is State.ENQUEUED


def test_a_sweep_goes_on_where_it_stopped(store: Store):
    put(store, "root")
    enqueue(store, step("root"), step(*(f"c{n:04}" for n in range(700)), after=("root",)))
    sql(store, "UPDATE workmanager_work SET state = 2, ready_lane = NULL WHERE id = 'root'")
    after, repaired = store.sweep("")
    assert (after, repaired) == ("c0499", 500)
    assert store.sweep(after) == ("", 200)
