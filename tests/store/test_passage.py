"""Works that come in as messages and leave as such: never lost in between, and once as long as their id is known."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import text

from celery_workmanager.errors import DuplicateWorkId
from celery_workmanager.planning import Step
from celery_workmanager.store import Store, passage
from celery_workmanager.store.passage import Arrival
from celery_workmanager.work import State
from tests.stores import (
    HOUR,
    QUEUE,
    WORKER,
    enqueue,
    info,
    is_blocked,
    job,
    meanwhile,
    move,
    put,
    put_chain,
    register,
    state,
    states,
    step,
    succeed,
    take_one,
    together,
    twin,
    wait_until,
)


def arrival(work_id: str, *following: str, **facts: Any) -> Arrival:
    """A message, and the works that follow it."""
    steps: list[Step] = [step(work_id)]
    if following:
        steps.append(step(*following, after=[work_id]))
    return Arrival(work_id, steps, **facts)


def take_in(store: Store, *arrivals: Arrival) -> set[str]:
    return passage.take_in(store, arrivals, lambda request: request.queue or QUEUE)


def release(store: Store) -> list[str]:
    """All that may leave leaves."""
    leavers = passage.leavers(store, WORKER, "", 100)
    return passage.depart(store, WORKER, leavers, "tell")


class TestTakingIn:
    def test_messages_become_works(self, store: Store):
        assert take_in(store, arrival("a"), arrival("b", "c")) == set()
        assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED", "c": "BLOCKED"}

    def test_a_known_id_changes_nothing(self, store: Store):
        put(store, "a", "done")
        register(store)
        succeed(store, "done")
        versions = {each: info(store, each).version for each in ("a", "done")}
        assert take_in(store, arrival("done"), arrival("b"), arrival("a")) == {"a", "done"}
        assert {each: info(store, each).version for each in ("a", "done")} == versions
        assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED", "done": "SUCCEEDED"}

    def test_what_follows_a_known_id_is_not_stored_again(self, store: Store):
        take_in(store, arrival("a", "callback"))
        take_in(store, arrival("a", "callback under another id"))
        assert sorted(states(store)) == ["a", "callback"]

    def test_one_message_twice_at_once(self, store: Store):
        take_in(store, arrival("a", "callback"), arrival("a", "callback under another id"))
        assert sorted(states(store)) == ["a", "callback"]

    def test_two_workers_with_the_same_message(self, store: Store):
        with closing(twin(store)) as other:
            for n in range(8):
                together(
                    lambda n=n: take_in(store, arrival(f"{n}", f"{n} left"), arrival(f"{n} own")),
                    lambda n=n: take_in(other, arrival(f"{n} more"), arrival(f"{n}", f"{n} right")),
                )
                found = {each for each in states(store) if each.startswith(f"{n}")}
                both = {f"{n}", f"{n} own", f"{n} more"}
                assert found in (both | {f"{n} left"}, both | {f"{n} right"})

    def test_earlier_attempts_count(self, store: Store):
        take_in(store, arrival("a", attempts=2), arrival("b"))
        assert (info(store, "a").run_attempt_count, info(store, "b").run_attempt_count) == (2, 0)

    def test_what_was_revoked_never_runs_nor_does_what_follows(self, store: Store):
        take_in(store, arrival("a", "b", revoked=True), arrival("c"))
        assert states(store) == {"a": "CANCELLED", "b": "CANCELLED", "c": "ENQUEUED"}

    def test_one_that_cannot_be_written_leaves_all_unwritten(self, store: Store):
        put(store, job("taken", "another worker"))
        with pytest.raises(DuplicateWorkId):
            take_in(store, arrival("a"), arrival("b", "taken"))
        assert states(store) == {"taken": "ENQUEUED"}


class TestRefusing:
    def test_it_is_kept_as_failed(self, store: Store):
        error = '{"exc_type": "ValueError", "message": "no", "module": "builtins"}'
        passage.put_failed(store, job("a"), QUEUE, error)
        found = info(store, "a")
        assert (found.state, found.error.message, found.runs) == (State.FAILED, "no", 0)
        move(store, 48 * HOUR)
        assert store.prune(only_expired=True) == 1

    def test_a_known_work_is_left_alone(self, store: Store):
        put(store, "a")
        passage.put_failed(store, job("a"), QUEUE, "{}")
        assert state(store, "a") is State.ENQUEUED


class TestLeaving:
    def test_what_waits_may_leave(self, store: Store):
        put(store, "a", job("later", initial_delay=60), job("other", "another worker"))
        assert release(store) == ["a", "later"]
        assert states(store) == {"other": "ENQUEUED"}

    def test_members_of_chains_stay(self, store: Store):
        put_chain(store, "a", "b")
        assert release(store) == []

    def test_what_is_only_told_of_leaves_with_that(self, store: Store):
        steps = [
            step("a"),
            step(job("told", "tell"), after=["a"]),
            step("b"),
            step(job("too", "tell"), "c", after=["b"]),
        ]
        enqueue(store, *steps)
        assert passage.followers(store, ["a", "b", "c"]) == {
            "a": {"told": "tell"}, "b": {"too": "tell", "c": WORKER}, "c": {},
        }  # fmt: skip
        assert release(store) == ["a"]
        assert sorted(states(store)) == ["b", "c", "too"]

    def test_what_has_expired_stays(self, store: Store):
        put(store, job("a", expires=60))
        move(store, HOUR)
        assert release(store) == []

    @pytest.mark.parametrize("what", ["claimed", "finished", "got a child", "come back"])
    def test_what_changes_between_its_message_and_its_end_stays(self, store: Store, what: str):
        put(store, "a")
        register(store)
        leavers = passage.leavers(store, WORKER, "", 100)
        if what == "claimed":
            take_one(store, "a")
        elif what == "finished":
            succeed(store, "a")
        elif what == "got a child":
            put_chain(store, "a", "b")
        else:
            assert take_in(store, arrival("a", released=True)) == {"a"}
        assert passage.depart(store, WORKER, leavers, "tell") == []
        assert "a" in states(store)

    def test_what_comes_back_after_its_end_is_a_new_work(self, store: Store):
        put(store, "a")
        assert release(store) == ["a"]
        assert take_in(store, arrival("a", released=True)) == set()
        assert states(store) == {"a": "ENQUEUED"}

    @pytest.mark.postgresql
    def test_what_comes_back_while_it_is_being_deleted(self, server: Store):
        """The delete is not committed yet: who brings the message waits, and then stores it."""
        put(server, "a")
        with closing(twin(server)) as other, server.database.engine().connect() as leaving:
            leaving.execute(text("DELETE FROM workmanager_work WHERE id = 'a'"))
            with meanwhile(lambda: take_in(other, arrival("a", released=True))) as known:
                wait_until(lambda: is_blocked(server))
                leaving.commit()
                assert known.result() == set()
        assert states(server) == {"a": "ENQUEUED"}

    def test_in_pages(self, store: Store):
        put(store, *(f"{n}" for n in range(5)))
        first = passage.leavers(store, WORKER, "", 3)
        assert [each.id for each in first] == ["0", "1", "2"]
        assert [each.id for each in passage.leavers(store, WORKER, "2", 3)] == ["3", "4"]


def test_names_of_all_workers(store: Store):
    assert passage.worker_names(store) == []
    put(store, job("a", "x"), job("b", "y"), job("c", "x"), job("d", "z"))
    assert passage.worker_names(store) == ["x", "y", "z"]
    assert passage.unfinished(store, "x", 10) == ["a", "c"]
    assert passage.unfinished(store, "x", 1) == ["a"]
