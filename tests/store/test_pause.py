"""Pausing and resuming: what is held, by what, through everything that may happen to a work meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from celery_workmanager.lanes import lane_of
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.planning import Step
from celery_workmanager.store import Store, passage, pausing
from celery_workmanager.timing import SECOND
from celery_workmanager.upkeep import Upkeep
from celery_workmanager.work import State
from tests.stores import (
    APPEND,
    HOUR,
    KEEP,
    QUEUE,
    REPLACE,
    WORKER,
    end,
    enqueue,
    info,
    job,
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
    step,
    succeed,
    take,
    take_one,
    twin,
)

TAG, NAME, LANE, LINE = (
    PauseTarget(PauseKind.TAG, "red"),
    PauseTarget(PauseKind.NAME, "import"),
    PauseTarget(PauseKind.TAG, WORKER),
    PauseTarget(PauseKind.QUEUE, QUEUE),
)
EVERY = pytest.mark.parametrize("target", [TAG, NAME, LANE, LINE], ids=["tag", "name", "worker", "queue"])
HELD = pytest.mark.parametrize("target", [TAG, NAME], ids=["tag", "name"])


def put_red(store: Store, work_id: str, **options: Any) -> None:
    """A work that every one of the four pauses is about."""
    put_named(store, "import", APPEND, job(work_id, tags={"red"}, **options))


def claimed(store: Store) -> list[str]:
    return sorted(claim.id for claim in take(store, 100))


def open_works(store: Store) -> list[str]:
    """What nodes could claim now, by all ways they have."""
    is_ready = bool(store.ready_lanes())
    found = claimed(store)
    assert is_ready == bool(found)
    return found


# -- what is paused doesn't start --------------------------------------------------------------------------------


@EVERY
def test_what_is_paused_is_not_claimed_until_it_is_resumed(store: Store, target: PauseTarget):
    put_red(store, "a")
    assert pausing.pause(store, target) is True
    assert open_works(store) == []
    assert store.claim_one("a", "node", 1) == []
    assert info(store, "a").paused
    assert pausing.resume(store, target) is True
    assert not info(store, "a").paused
    assert open_works(store) == ["a"]


@EVERY
def test_works_that_are_enqueued_later_are_paused_too(store: Store, target: PauseTarget):
    pausing.pause(store, target)
    put_red(store, "a")
    assert info(store, "a").paused
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["a"]


@EVERY
def test_others_go_on(store: Store, target: PauseTarget):
    put_red(store, "a")
    put_named(store, "export", KEEP, job("b", "shop.sell", tags={"blue"}, queue="ovens"))
    pausing.pause(store, target)
    put_named(store, "export", APPEND, job("c", "shop.sell", tags={"blue"}, queue="ovens"))
    assert not info(store, "b").paused
    assert [claim.id for claim in take(store, queues=["ovens"], workers=["shop.sell"])] == ["b"]
    assert store.ready_lanes() == []


def test_a_node_that_looked_before_a_pause_claims_nothing_after_it(store: Store):
    put(store, "a")
    lane, seen = lane_of(QUEUE, WORKER), store.look()
    pausing.pause(store, LINE)
    assert store.claim([lane], "node", 1, 10, stamp=seen.stamp) == []
    seen = store.look()
    assert (seen.lanes, seen.stamp != 0) == ([], True)
    pausing.resume(store, LINE)
    assert [claim.id for claim in store.claim([lane], "node", 1, 10, stamp=store.look().stamp)] == ["a"]


@EVERY
def test_what_runs_goes_on_and_its_retry_waits(store: Store, target: PauseTarget):
    put_red(store, "a")
    claim = take_one(store, "a")
    start(store, claim)
    pausing.pause(store, target)
    assert info(store, "a").state is State.RUNNING
    assert end(store, claim, ending=Ending.RETRY).accepted == {"a"}
    move(store, HOUR)
    assert row(store, "a").due_at is None
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["a"]


@EVERY
def test_what_runs_ends_and_its_child_waits(store: Store, target: PauseTarget):
    put_red(store, "a")
    put_red(store, "b")
    claim = take_one(store, "a")
    pausing.pause(store, target)
    assert end(store, claim).unblocked == 1
    assert state(store, "b") is State.ENQUEUED
    assert not info(store, "a").paused
    assert row(store, "a").held is None
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["b"]


@EVERY
def test_what_becomes_due_waits(store: Store, target: PauseTarget):
    put_red(store, "a", initial_delay=60)
    pausing.pause(store, target)
    put_red_later = job("b", tags={"red"}, initial_delay=60)
    enqueue(store, Step((put_red_later,), name="import", policy=REPLACE))
    move(store, HOUR)
    assert store.next_moment() is None
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["b"]


@EVERY
def test_a_delayed_work_that_is_resumed_waits_for_its_moment(store: Store, target: PauseTarget):
    put_red(store, "a", initial_delay=60)
    pausing.pause(store, target)
    pausing.resume(store, target)
    assert open_works(store) == []
    move(store, 60 * SECOND)
    assert open_works(store) == ["a"]


@EVERY
def test_a_lost_run_waits(store: Store, target: PauseTarget):
    put_red(store, "a")
    register(store)
    start(store, take_one(store, "a"))
    pausing.pause(store, target)
    store.give_up(["node"])
    found = store.heal(store.clock.now())
    assert found is not None
    assert found[1].accepted == {"a"}
    move(store, HOUR)
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["a"]


@EVERY
def test_a_finished_work_that_is_retried_is_paused(store: Store, target: PauseTarget):
    put_red(store, "a")
    succeed(store, "a")
    pausing.pause(store, target)
    store.retry("a", "b")
    assert info(store, "b").paused
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["b"]


@EVERY
def test_run_now_ends_the_delay_and_not_the_pause(store: Store, target: PauseTarget):
    put_red(store, "a", initial_delay=3600)
    pausing.pause(store, target)
    assert store.make_due("a") is True
    assert open_works(store) == []
    pausing.resume(store, target)
    assert open_works(store) == ["a"]


@EVERY
def test_paused_works_can_be_cancelled_and_expire(store: Store, target: PauseTarget):
    put_red(store, "a")
    put(store, job("b", tags={"red"}, expires=60))
    pausing.pause(store, target)
    assert store.cancel("a") == ["a"]
    move(store, HOUR)
    assert store.expire() == ["b"]
    assert [row(store, each).held for each in "ab"] == [None, None]
    assert not info(store, "a").paused
    pausing.resume(store, target)
    assert open_works(store) == []


def test_a_paused_work_inherits_a_failure(store: Store):
    put_chain(store, "a", "b")
    sql(store, "INSERT INTO workmanager_tag (work, tag) VALUES ('b', 'red')")
    pausing.pause(store, TAG)
    assert row(store, "b").held == 1
    end(store, take_one(store, "a"), ending=Ending.FAILED)
    assert (state(store, "b"), row(store, "b").held) == (State.FAILED, None)


@EVERY
def test_paused_works_do_not_leave_for_the_broker(store: Store, target: PauseTarget):
    put_red(store, "a")
    pausing.pause(store, target)
    assert passage.leavers(store, WORKER, "", 10) == []
    pausing.resume(store, target)
    assert [each.id for each in passage.leavers(store, WORKER, "", 10)] == ["a"]


# -- updates, and works that get a label later --------------------------------------------------------------------


def test_an_update_that_takes_the_paused_tag_away_frees_a_work(store: Store):
    put(store, job("a", tags={"red"}))
    pausing.pause(store, TAG)
    store.update(job("a", tags={"blue"}), QUEUE)
    assert not info(store, "a").paused
    assert open_works(store) == ["a"]


def test_an_update_that_adds_the_paused_tag_holds_a_work(store: Store):
    put(store, "a", "b")
    pausing.pause(store, TAG)
    store.update(job("a", tags={"red"}), QUEUE)
    assert open_works(store) == ["b"]


@HELD
def test_an_update_keeps_a_work_held(store: Store, target: PauseTarget):
    put_red(store, "a")
    pausing.pause(store, target)
    store.update(job("a", tags={"red", "blue"}, input={"new": 1}), QUEUE)
    assert info(store, "a").paused
    assert open_works(store) == []


def test_an_update_during_a_run_that_adds_the_paused_tag_holds_the_next_one(store: Store):
    put(store, "a")
    claim = take_one(store, "a")
    pausing.pause(store, TAG)
    store.update(job("a", tags={"red"}), QUEUE)
    end(store, claim, ending=Ending.RETRY)
    move(store, HOUR)
    assert open_works(store) == []


@HELD
def test_a_work_that_is_enqueued_again_under_a_paused_label_is_held(store: Store, target: PauseTarget):
    put(store, "a")
    pausing.pause(store, target)
    put_named(store, "other" if target is TAG else "import", KEEP, job("a", tags={"red"}))
    assert info(store, "a").paused
    assert open_works(store) == []


def test_of_works_that_are_enqueued_together_only_the_paused_are_held(store: Store):
    pausing.pause(store, TAG)
    put(store, "a", job("b", tags={"red"}), job("c", tags={"blue"}), job("d", tags={"blue", "red"}))
    assert open_works(store) == ["a", "c"]
    pausing.resume(store, TAG)
    assert open_works(store) == ["b", "d"]


# -- several pauses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [TAG, NAME, LANE, LINE])
@pytest.mark.parametrize("second", [TAG, NAME, LANE, LINE])
def test_a_work_that_is_paused_twice_is_resumed_twice(store: Store, first: PauseTarget, second: PauseTarget):
    put_red(store, "a")
    pausing.pause(store, first)
    assert pausing.pause(store, second) is (first != second)
    assert pausing.resume(store, first)
    assert pausing.resume(store, second) is (first != second)
    assert open_works(store) == ["a"]
    if first != second:
        put_red(store, "b")
        succeed_claimed(store)
        pausing.pause(store, first)
        pausing.pause(store, second)
        pausing.resume(store, first)
        assert open_works(store) == []
        pausing.resume(store, second)
        assert open_works(store) == ["b"]


def succeed_claimed(store: Store) -> None:
    """Let "a", which a node holds, end; "b" is unblocked."""
    claim = take_one_again(store, "a")
    end(store, claim)


def take_one_again(store: Store, work_id: str) -> Any:
    sql(store, "UPDATE workmanager_work SET node = NULL, token = NULL, ready_lane = lane WHERE id = :id", id=work_id)
    return take_one(store, work_id)


def test_what_was_not_paused_is_not_resumed(store: Store):
    for target in (TAG, NAME, LANE, LINE):
        assert pausing.resume(store, target) is False
        assert pausing.pause(store, target) is True
        assert pausing.pause(store, target) is False
        assert pausing.resume(store, target) is True
    assert rows_of(store, "pause") == 0


def test_pauses_are_listed_with_their_moments(store: Store):
    for target in (TAG, LINE, NAME):
        pausing.pause(store, target)
        move(store, SECOND)
    found = pausing.paused(store)
    assert [(each.kind, each.label, each.is_complete) for each in found] == [
        ("name", "import", True),
        ("queue", QUEUE, True),
        ("tag", "red", True),
    ]
    assert found[1].since is not None
    assert found[2].since is not None
    assert (found[1].since - found[2].since).total_seconds() == 1


# -- many ---------------------------------------------------------------------------------------------------------


def put_many(store: Store, number: int) -> None:
    put(store, *(job(f"w{n:05}", tags={"red"}) for n in range(number)))


def test_many_are_paused_and_resumed_in_chunks(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pausing, "CHUNK", 7)
    put_many(store, 50)
    written: list[int] = []

    def note(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE workmanager_work"):
            written.append(cursor.rowcount)

    event.listen(store.database.engine(), "after_cursor_execute", note)
    pausing.pause(store, TAG)
    assert (sum(written), max(written)) == (50, 7)
    assert open_works(store) == []
    written.clear()
    pausing.resume(store, TAG)
    assert (sum(written), max(written)) == (50, 7)
    event.remove(store.database.engine(), "after_cursor_execute", note)
    assert len(open_works(store)) == 50


@pytest.mark.parametrize("then", [pausing.resume, pausing.pause])
def test_what_a_dead_caller_has_begun_is_carried_on_by_upkeep(store: Store, monkeypatch: pytest.MonkeyPatch, then: Any):
    monkeypatch.setattr(pausing, "CHUNK", 7)
    put_many(store, 50)
    if then is pausing.resume:
        pausing.pause(store, TAG)
    else:
        pausing.pause(store, TAG)
        pausing.resume(store, TAG)
    dies_after_chunks(monkeypatch, 2)
    with pytest.raises(Died):
        then(store, TAG)
    monkeypatch.undo()
    monkeypatch.setattr(pausing, "CHUNK", 7)
    pausing.go_on(store, {})  # too early: the caller may still be at it
    assert 0 < sum(row(store, f"w{n:05}").held or 0 for n in range(50)) < 50
    move(store, pausing.HELP_AFTER + SECOND)
    pausing.go_on(store, {})
    assert [each.is_complete for each in pausing.paused(store)] == ([] if then is pausing.resume else [True])
    assert len(open_works(store)) == (50 if then is pausing.resume else 0)


class Died(Exception):
    """The caller's process."""


def dies_after_chunks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left = [number]
    chunk = pausing._chunk

    def dying(*args: Any) -> Any:
        if not left[0]:
            raise Died
        left[0] -= 1
        return chunk(*args)

    monkeypatch.setattr(pausing, "_chunk", dying)


def test_upkeep_carries_on(store: Store, monkeypatch: pytest.MonkeyPatch):
    from celery_workmanager.settings import Settings

    put_many(store, 3)
    dies_after_chunks(monkeypatch, 0)
    with pytest.raises(Died):
        pausing.pause(store, TAG)
    monkeypatch.undo()
    upkeep = Upkeep(store, store.clock, Settings())
    move(store, HOUR)
    upkeep.step()
    assert open_works(store) == []
    assert pausing.paused(store)[0].is_complete


def test_a_pause_that_was_begun_is_in_force_for_new_works_at_once(store: Store, monkeypatch: pytest.MonkeyPatch):
    dies_after_chunks(monkeypatch, 0)
    with pytest.raises(Died):
        pausing.pause(store, TAG)
    put_many(store, 1)
    assert open_works(store) == []
    assert not pausing.paused(store)[0].is_complete


# -- what it costs others -----------------------------------------------------------------------------------------


def statements_of(store: Store, call: Any) -> list[str]:
    found: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    event.listen(store.database.engine(), "before_cursor_execute", note)
    call()
    event.remove(store.database.engine(), "before_cursor_execute", note)
    return found


def test_works_without_tags_and_names_never_look_at_pauses(store: Store):
    pausing.pause(store, TAG)
    found = statements_of(store, lambda: put(store, "a", "b"))
    assert not any("workmanager_pause" in each for each in found)
    assert "held" not in next(each for each in found if each.startswith("INSERT INTO workmanager_work"))
    claims = take(store)
    found = statements_of(store, lambda: end(store, *claims))
    assert not any("workmanager_pause" in each for each in found)


def test_works_with_labels_look_once(store: Store):
    found = statements_of(store, lambda: put_named(store, "n", KEEP, *(job(tags={f"t{n}"}) for n in range(100))))
    assert sum("workmanager_pause" in each for each in found) == 1


def test_a_work_with_labels_looks_with_its_own_insert(store: Store):
    found = statements_of(store, lambda: put_named(store, "n", KEEP, job(tags={"blue"})))
    asking = [each.split()[0] for each in found if "workmanager_pause" in each]
    assert asking == ["SELECT" if store.database.is_mysql else "INSERT"]  # it has no INSERT that answers
    pausing.pause(store, TAG)
    put_named(store, "m", KEEP, job("other", tags={"blue"}))
    assert open_works(store)[-1:] == ["other"]  # another label's pause is none of its own


def test_two_processes_see_each_other(store: Store):
    other = twin(store)
    put(store, "a")
    pausing.pause(other, LINE)
    assert open_works(store) == []
    pausing.resume(other, LINE)
    assert open_works(store) == ["a"]
    other.close()


def test_chains_are_paused_by_the_name_of_a_later_step(store: Store):
    pausing.pause(store, NAME)
    put(store, "a")
    enqueue(store, step("a"), Step((job("b"),), ("a",), "import"))
    succeed(store, "a")
    assert state(store, "b") is State.ENQUEUED
    assert open_works(store) == []
