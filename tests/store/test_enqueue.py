"""Enqueue: what is stored, in which state, and what a repeated or joined enqueue does."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from celery_workmanager.errors import DuplicateWorkId
from celery_workmanager.ids import new_id
from celery_workmanager.planning import Step
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.work import State
from tests.stores import (
    HOUR,
    KEEP,
    START,
    enqueue,
    fail,
    info,
    job,
    move,
    put,
    put_chain,
    put_named,
    row,
    rows_of,
    state,
    states,
    step,
    succeed,
    take,
    users_engine,
)


def test_a_graph_begins_enqueued_at_its_roots_and_blocked_below(store: Store):
    inserted = put_chain(store, ["a", "b"], "c", ["d", "e"])
    assert [each.request.id for each in inserted.works] == ["a", "b", "c", "d", "e"]
    assert inserted.skipped == ()
    assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED", "c": "BLOCKED", "d": "BLOCKED", "e": "BLOCKED"}
    assert info(store, "c").prerequisites == ("a", "b")
    assert (row(store, "c").waits_for, row(store, "e").waits_for, row(store, "a").waits_for) == (2, 1, None)


def test_a_blocked_work_has_no_moment_of_enqueue_until_it_is_unblocked(store: Store):
    put_chain(store, "a", "b")
    assert info(store, "a").enqueued_at is not None
    assert info(store, "b").enqueued_at is None
    assert info(store, "b").next_schedule_time is None
    succeed(store, "a")
    assert info(store, "b").enqueued_at is not None


def test_everything_a_request_says_is_found_again(store: Store):
    request = job(
        "full",
        input={"flour": 500, "kind": "spelt"},
        tags={"sweet", "früh"},
        initial_delay=3600,
        queue="ovens",
        priority=7,
        keep_results_for_at_least=60,
        max_attempts=4,
        expires=7200,
    )
    put_named(store, "order 1", KEEP, request)
    found = info(store, "full")
    assert found.state is State.ENQUEUED
    assert found.tags == request.tags == {"sweet", "früh", "shop.bake"}
    assert found.input_data == request.input_data
    assert found.unique_names == ("order 1",)
    assert (found.queue, found.priority, found.worker_name) == ("ovens", 7, "shop.bake")
    assert found.initial_delay == request.initial_delay
    assert (row(store, "full").run_at, row(store, "full").expires_at) == (START + HOUR, START + 2 * HOUR)
    assert row(store, "full").ready_lane is None


def test_the_whole_graph_is_of_the_name_of_its_chain(store: Store):
    first = Step((job("a"),), name="order", policy=KEEP)
    rest = Step((job("b"),), parents=("a",), name="order", policy=KEEP)
    enqueue(store, first, rest)
    assert [each.id for each in store.work_infos(WorkQuery.from_unique_names("order"))] == ["a", "b"]


def test_a_work_that_is_enqueued_again_is_neither_restarted_nor_changed(store: Store):
    put(store, job("a", input={"n": 1}))
    succeed(store, "a")
    before = row(store, "a")
    inserted = put(store, job("a", input={"n": 2}, priority=9))
    assert (inserted.works, inserted.skipped) == ((), ("a",))
    assert row(store, "a") == before


def test_a_work_that_is_enqueued_again_gets_the_tags_and_the_name_of_the_second_call(store: Store):
    put(store, job("a", tags={"one"}))
    put_named(store, "order", KEEP, job("a", tags={"two"}), "b")
    assert info(store, "a").tags == {"shop.bake", "one", "two"}
    assert info(store, "a").unique_names == ("order",)
    assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED"}


def test_an_id_that_another_worker_has_is_refused_and_nothing_is_stored(store: Store):
    put(store, "a")
    with pytest.raises(DuplicateWorkId):
        put(store, "b", job("a", worker="shop.sell"))
    assert states(store) == {"a": "ENQUEUED"}


def test_a_step_may_follow_a_work_that_was_enqueued_before(store: Store):
    """``first.enqueue()`` and later ``first.then(more).enqueue()``: the finish of the first must know of its child."""
    put(store, "a")
    inserted = enqueue(store, step("a"), step("b", after=("a",)))
    assert inserted.skipped == ("a",)
    assert states(store) == {"a": "ENQUEUED", "b": "BLOCKED"}
    succeed(store, "a", output='{"n": 1}')
    assert state(store, "b") is State.ENQUEUED
    assert take(store)[0].inputs == ["{}", '{"n": 1}']


@pytest.mark.parametrize(("finish", "expected"), [(succeed, State.ENQUEUED), (fail, State.FAILED)])
def test_a_step_after_a_finished_work_begins_as_that_one_ended(store: Store, finish, expected):
    put(store, "a")
    finish(store, "a")
    enqueue(store, step("a"), step("b", after=("a",)), step("c", after=("b",)))
    assert state(store, "b") is expected
    assert state(store, "c") is (State.BLOCKED if expected is State.ENQUEUED else State.FAILED)


def test_a_step_after_a_cancelled_work_is_cancelled_at_once(store: Store):
    put(store, "a")
    store.cancel("a")
    enqueue(store, step("a"), step("b", after=("a",)))
    assert state(store, "b") is State.CANCELLED
    assert info(store, "b").enqueued_at is None


def test_a_step_whose_prerequisite_is_unknown_is_left_out_with_all_that_follows(store: Store):
    inserted = enqueue(store, step("b", after=("a",)), step("c", after=("b",)))
    assert inserted.skipped == ("b", "c")
    assert states(store) == {}


def test_a_chain_of_two_thousand_works_is_stored_at_once(store: Store):
    ids = sorted(new_id() for _ in range(2000))
    put_chain(store, *ids)
    assert rows_of(store, "work") == 2000
    assert rows_of(store, "edge") == 1999


# -- in the caller's transaction -----------------------------------------------------------------------------


def plain_engine(store: Store) -> Engine:
    """An engine as users have it: none of our pragmas, none of our transactions."""
    return users_engine(store)


@pytest.fixture
def users(store: Store):
    engine = plain_engine(store)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS orders (id integer)"))
        connection.execute(text("DELETE FROM orders"))
    yield engine
    engine.dispose()


def orders(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM orders")).scalar_one())


def test_an_enqueue_in_the_callers_transaction_commits_with_it(store: Store, users: Engine):
    with users.begin() as connection:
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        put_named(store, "order", KEEP, job("a", tags={"x"}), connection=connection)
        if store.database.dialect == "postgresql":
            assert states(store) == {}
    assert states(store) == {"a": "ENQUEUED"}
    assert orders(users) == 1


def test_an_enqueue_in_the_callers_transaction_rolls_back_with_it(store: Store, users: Engine):
    with pytest.raises(ZeroDivisionError), users.begin() as connection:  # noqa: PT012
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        put_named(store, "order", KEEP, job("a", tags={"x"}), connection=connection)
        raise ZeroDivisionError
    assert states(store) == {}
    assert (rows_of(store, "tag"), rows_of(store, "member"), rows_of(store, "name"), orders(users)) == (0, 0, 0, 0)


def test_an_enqueue_goes_with_the_savepoint_it_was_made_in(store: Store, users: Engine):
    with users.begin() as connection:
        connection.execute(text("INSERT INTO orders VALUES (1)"))
        put(store, "kept", connection=connection)
        with pytest.raises(ZeroDivisionError), connection.begin_nested():  # noqa: PT012
            put_named(store, "order", KEEP, "gone", connection=connection)
            raise ZeroDivisionError
        put_named(store, "order", KEEP, "later", connection=connection)
    assert states(store) == {"kept": "ENQUEUED", "later": "ENQUEUED"}


def test_the_callers_transaction_goes_on_after_an_id_that_exists(store: Store, users: Engine):
    """A clash of keys would spoil the transaction of a server; it is looked for first."""
    put(store, "a")
    with users.begin() as connection:
        assert put(store, "a", connection=connection).skipped == ("a",)
        with pytest.raises(DuplicateWorkId):
            put(store, job("a", worker="shop.sell"), connection=connection)
        put(store, "b", connection=connection)
    assert states(store) == {"a": "ENQUEUED", "b": "ENQUEUED"}


def test_every_change_of_a_producer_can_be_rolled_back(store: Store, users: Engine):
    put(store, "a", job("b", initial_delay=60))
    put_chain(store, "c", "d")
    fail(store, "a")
    before = {each: row(store, each) for each in "abcd"}
    with users.connect() as connection, connection.begin() as transaction:
        store.cancel("c", connection)
        store.update(job("b", priority=5), "celery", connection)
        store.retry("a", "again", connection)
        store.prune(only_expired=False, connection=connection)
        store.cancel_all(connection)
        transaction.rollback()
    assert {each: row(store, each) for each in "abcd"} == before
    assert store.last_cancel_all() == 0
    assert set(states(store)) == set("abcd")


def test_a_joined_sqlite_transaction_holds_the_write_lock_before_it_reads(store: Store):
    """The driver begins no transaction for a SELECT: what was read could be changed before we write."""
    if not store.database.is_sqlite:
        pytest.skip("a server locks rows")
    put(store, "a")
    users = plain_engine(store)
    seen: list[str] = []
    other = sqlite3.connect(str(store.database.url.database), timeout=0)

    @event.listens_for(users, "after_cursor_execute")
    def try_to_write(_connection, _cursor, statement, _parameters, _context, _many):
        try:
            other.execute("UPDATE workmanager_work SET version = version + 100")
            other.rollback()
            seen.append(statement)
        except sqlite3.OperationalError:
            pass

    with users.begin() as connection:
        store.update(job("a", priority=3), "celery", connection)
    other.close()
    users.dispose()
    assert seen == []


def test_time_is_the_stores_and_not_the_databases(store: Store):
    put(store, "a")
    move(store, HOUR)
    put(store, "b")
    assert row(store, "b").created_at - row(store, "a").created_at == HOUR
