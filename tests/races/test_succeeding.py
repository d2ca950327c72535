"""PostgreSQL ends a run and releases its children by one statement: against what is committed while that is under way.

It reads its edges through a view that waits in the middle: after the moment at which it looks at everything, before it
locks anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.store import Settled, Store, Taker, succeeding
from celery_workmanager.work import State
from tests.stores import (
    APPEND,
    end,
    info,
    is_blocked,
    meanwhile,
    put_chain,
    put_named,
    row,
    state,
    take_one,
    twin,
    users_engine,
    verdicts,
    wait_until,
)

_LOCK = 4711
_VIEW = (
    "ALTER TABLE workmanager_edge RENAME TO real_edge",
    (
        "CREATE FUNCTION waits() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$"
        f" BEGIN PERFORM pg_advisory_xact_lock_shared({_LOCK}); RETURN true; END $$"
    ),
    "CREATE VIEW workmanager_edge AS SELECT * FROM real_edge WHERE waits()",
)
_NO_VIEW = (
    "DROP VIEW workmanager_edge",
    "DROP FUNCTION waits",
    "ALTER TABLE real_edge RENAME TO workmanager_edge",
)


@contextmanager
def under_way(store: Store, *claims: Claim) -> Iterator[tuple[Any, Callable[[], Settled]]]:
    """The statement on these runs has looked and not yet locked: a connection of others', and a way to go on."""
    others = users_engine(store)
    with others.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, others.connect() as gate:
        for statement in _VIEW:
            connection.execute(text(statement))
        gate.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        ends, taker = verdicts(store, claims, Ending.SUCCEEDED, output='{"n": 1}'), Taker("node", 77, [], 0)
        try:
            write = partial(succeeding.write, verdicts=ends, now=store.clock.now(), taker=taker)
            with meanwhile(lambda: store.database.run_single(write)) as settled:
                wait_until(lambda: is_blocked(store))

                def go_on() -> Settled:
                    gate.rollback()
                    return settled.result(30)

                yield connection, go_on
                gate.rollback()
        finally:
            gate.rollback()
            for statement in _NO_VIEW:
                connection.execute(text(statement))
    others.dispose()


def test_undisturbed_it_ends_the_run_and_releases_the_child(postgresql: Store):
    put_chain(postgresql, "a", "b")
    with under_way(postgresql, take_one(postgresql, "a")) as (_, go_on):
        settled = go_on()
    assert (settled.accepted, settled.unblocked) == ({"a"}, 1)
    assert state(postgresql, "b") is State.ENQUEUED


def test_a_child_that_is_added_meanwhile_is_not_missed(postgresql: Store):
    put_named(postgresql, "line", APPEND, "a")
    put_named(postgresql, "line", APPEND, "b")
    claim = take_one(postgresql, "a")
    with under_way(postgresql, claim) as (connection, go_on):
        # As an enqueue does: the parent's row, the work, the edge.
        connection.execute(text("UPDATE workmanager_work SET has_children = 1 WHERE id = 'a'"))
        connection.execute(text("INSERT INTO real_edge (parent, child, position) VALUES ('a', 'c', 0)"))
        settled = go_on()
    assert (settled.accepted, settled.unblocked) == (set(), 0)
    assert (state(postgresql, "a"), state(postgresql, "b")) == (State.ENQUEUED, State.BLOCKED)


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_work_or_a_child_that_has_changed_is_left_to_the_usual_way(postgresql: Store, who: str):
    put_chain(postgresql, "a", "b")
    claim = take_one(postgresql, "a")
    with under_way(postgresql, claim) as (connection, go_on):
        connection.execute(text("UPDATE workmanager_work SET version = version + 1 WHERE id = :id"), {"id": who})
        settled = go_on()
    assert (settled.accepted, settled.unblocked) == (set(), 0)
    assert state(postgresql, "b") is State.BLOCKED
    assert end(postgresql, claim).unblocked == 1


def test_the_other_parent_that_ends_meanwhile_is_counted_once(postgresql: Store):
    put_chain(postgresql, ["a", "b"], "join")
    first, second = take_one(postgresql, "a"), take_one(postgresql, "b")
    other = twin(postgresql)
    with under_way(postgresql, first) as (connection, go_on):
        connection.execute(text("UPDATE workmanager_work SET waits_for = 1 WHERE id = 'join'"))
        connection.execute(text("UPDATE workmanager_work SET state = 2, token = NULL WHERE id = 'b'"))
        settled = go_on()
    assert second.id == "b"
    assert (settled.accepted, settled.unblocked) == (set(), 0)
    assert row(postgresql, "join").waits_for == 1
    assert end(other, first).unblocked == 1
    assert info(postgresql, "join").version == 2
    other.close()


def test_a_row_that_somebody_holds_stops_nobody(postgresql: Store):
    put_chain(postgresql, "a", "b")
    put_chain(postgresql, "x", "y")
    claims = [take_one(postgresql, "a"), take_one(postgresql, "x")]
    others = users_engine(postgresql)
    with others.connect() as connection, connection.begin():
        connection.execute(text("SELECT id FROM workmanager_work WHERE id = 'b' FOR UPDATE"))
        settled = postgresql.settle(verdicts(postgresql, claims, Ending.SUCCEEDED))
        assert settled.accepted == {"x"}
        assert settled.held == {"a"}
    others.dispose()
    assert end(postgresql, claims[0]).unblocked == 1
