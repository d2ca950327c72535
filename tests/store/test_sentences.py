"""Statements given to the driver itself, and connections that stay ready: nobody can tell but by the time it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from random import random
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, event, func, select, text
from sqlalchemy.exc import IntegrityError

from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.planning import Step
from celery_workmanager.sentences import OURS, Sentence
from celery_workmanager.store import Store, inserting, short_ways
from celery_workmanager.store.rows import new_row
from celery_workmanager.store.upserts import Meeting, insert_many
from celery_workmanager.tables import metadata, name, work
from celery_workmanager.work import State
from tests import services
from tests.store.test_fork_gate import in_child
from tests.stores import (
    KEEP,
    QUEUE,
    REPLACE,
    enqueue,
    every,
    job,
    put,
    put_named,
    rows_of,
    sql,
    states,
    step,
    together,
    users_engine,
)

NAMES = ("a", "b")


@contextmanager
def heard(store: Store) -> Iterator[list[str]]:
    """Somebody listens to statements, so SQLAlchemy executes all of them."""
    said: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    engines = [store.database.engine(), store.database.engine(relaxed=True)]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", hear)
    try:
        yield said
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", hear)


def everything(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables, without their ids."""
    with store.database.plain() as connection:
        rows = {each: [row._asdict() for row in connection.execute(select(each))] for each in metadata.sorted_tables}
    hidden = {"id", "work"}
    return {
        table.name: sorted(str({key: value for key, value in row.items() if key not in hidden}) for row in found)
        for table, found in rows.items()
    }


ENQUEUES: dict[str, Callable[[Store], Any]] = {
    "alone": lambda store: put(store, job(input={"text": "ü “x” %s ? :n"}, priority=3)),
    "with a deadline": lambda store: put(store, job(initial_delay=60, expires=90, deadline=70)),
    "periodic": lambda store: put(store, every()),
    "tagged": lambda store: put(store, job(tags={"red"})),
    "the first of its name": lambda store: put_named(store, "new %s", KEEP, job(priority=3)),
    "the first periodic one of its name": lambda store: put_named(store, "new", KEEP, every(deadline=70)),
    "two of a name": lambda store: put_named(store, "new", KEEP, job(), job()),
    "many of several names, one after the other": lambda store: enqueue(
        store,
        *(Step((job(f"{each}1", tags={each}), job(f"{each}2")), name=each) for each in "abcd"),
        *(Step((job(f"{each}3", priority=3), job(f"{each}4")), (f"{each}1", f"{each}2"), each) for each in "abcd"),
        step(*(f"x{n}" for n in range(4)), after=("a3", "b4")),
    ),
    "turned away": lambda store: put_named(store, "held", KEEP, job()),
    "replacing": lambda store: put_named(store, "held", REPLACE, job()),
}


@pytest.mark.parametrize("enqueues", ENQUEUES.values(), ids=ENQUEUES)
def test_the_same_is_stored_whoever_listens(store: Store, enqueues: Callable[[Store], Any]):
    found = []
    for listens in (False, True):
        with store.database.transaction() as connection:
            for table in metadata.sorted_tables:
                connection.execute(table.delete())
        put_named(store, "held", KEEP, "held")
        if listens:
            with heard(store) as said:
                enqueues(store)
            assert said
        else:
            enqueues(store)
        found.append(everything(store))
    assert found[0] == found[1]


def new(store: Store) -> dict[str, Any]:
    return new_row(job(), QUEUE, State.ENQUEUED, 1, store.terms, waits_for=0, has_parents=False)


SENTENCES: dict[str, Callable[[Store], tuple[Sentence, dict[str, Any]]]] = {
    "held": lambda store: (short_ways._HELD_OF_NAME[store.database.dialect == "postgresql"], {"name": "n"}),
    "members": lambda store: (inserting._OF_NAME_ALONE[not store.database.is_sqlite], {"name": "n"}),
    "insert": lambda store: (inserting._INSERT, new(store)),
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_the_words_are_sqlalchemys(store: Store, kind: str):
    sentence, values = SENTENCES[kind](store)
    with heard(store) as said, store.database.transaction() as connection:
        sentence.say(connection, values)
    with store.database.transaction() as connection:
        sentence.say(connection, values | ({"id": "another"} if "id" in values else {}))
    # But for values that stand in the statement itself, which are words on PostgreSQL.
    words = re.sub(r"%\\\((\w+)\\\)s", lambda found: found[0] if found[1] in values else ".+?", re.escape(said[-1]))
    assert any(re.fullmatch(words, each.text, re.DOTALL) for each in sentence._spoken.values())


def test_values_in_the_statement_itself_are_said_too(store: Store):
    found = Sentence(select(func.count()).select_from(name).where(name.c.name == "a", name.c.name == bindparam("name")))
    sql(store, "INSERT INTO workmanager_name (name) VALUES ('a'), ('b')")
    with store.database.plain() as connection:
        said = [found.say(connection, {"name": each})[0][0] for each in NAMES]
    assert said == [1, 0]


def test_a_statement_with_a_list_is_none_of_them(store: Store):
    sentence = Sentence(select(work.c.id).where(work.c.id.in_(bindparam("ids", expanding=True))))
    with store.database.plain() as connection, pytest.raises(TypeError, match="expected a statement without lists"):
        sentence.say(connection, {"ids": ["a"]})


def test_an_error_is_sqlalchemys_and_tells_no_values(store: Store):
    def twice() -> None:
        with store.database.transaction() as connection:
            for _ in range(2):
                insert_many(connection, name, [{"name": "secret"}], Meeting.REFUSED)

    with pytest.raises(IntegrityError) as caught:
        twice()
    assert "secret" not in str(caught.value).replace(str(caught.value.orig), "")
    assert rows_of(store, "name") == 0


def test_a_callers_connection_is_sqlalchemys_to_execute_on(server: Store):
    """So that it begins, and is rolled back, as the caller's own statements are."""
    users = users_engine(server)
    with users.connect() as connection:
        assert OURS not in connection.get_execution_options()
        put(server, "a", connection=connection)
        assert connection.in_transaction()
        connection.rollback()
    users.dispose()
    assert states(server) == {}


# -- connections that stay ready ---------------------------------------------------------------------------------


def session(connection: Connection) -> int:
    asked = "SELECT pg_backend_pid()" if connection.dialect.name == "postgresql" else "SELECT connection_id()"
    return int(connection.execute(text(asked)).scalar_one())


def fails(opened: AbstractContextManager[Connection]) -> int:
    """Write a name on a connection and fail; returns its session."""
    with suppress(KeyError), opened as connection:
        number = session(connection)
        connection.execute(text("INSERT INTO workmanager_name VALUES (:name)"), {"name": str(random())})
        raise KeyError
    return number


@pytest.mark.postgresql
def test_a_connection_serves_statements_and_transactions_in_turn(postgresql: Store):
    database = postgresql.database
    seen = set()
    for _ in range(2):
        with database.plain() as connection:
            seen.add(session(connection))
        with database.transaction() as connection:
            seen.add(session(connection))
    assert len(seen) == 1
    assert fails(database.transaction()) in seen
    assert rows_of(postgresql, "name") == 0


@pytest.mark.postgresql
def test_what_goes_back_to_the_pool_begins_transactions_again(postgresql: Store):
    """A statement that fails gives its connection back as it was: without transactions."""
    number = fails(postgresql.database.plain())
    with postgresql.database.engine().connect() as connection:
        assert session(connection) == number
        connection.execute(text("INSERT INTO workmanager_name VALUES ('rolled back')"))
        connection.rollback()
    assert rows_of(postgresql, "name") == 1  # what the failing one wrote was a transaction of its own


@pytest.mark.parametrize("opened", ["plain", "transaction"])
def test_a_connection_that_is_lost_at_work_says_so_and_is_replaced(server: Store, opened: str):
    url = server.database.url.render_as_string(hide_password=False)

    def is_thrown_out() -> None:
        with getattr(server.database, opened)() as connection:
            services.throw_out(str(server.database.url.database), url)
            short_ways._HELD_OF_NAME[server.database.dialect == "postgresql"].say(connection, {"name": "n"})

    with pytest.raises(StoreUnavailable):
        is_thrown_out()
    put(server, "a")
    assert states(server) == {"a": "ENQUEUED"}


def test_a_child_leaves_its_parents_connections_alone(store: Store):
    def writes_and_closes() -> None:
        put(store, f"of {os.getpid()}")
        store.close()

    put(store, "before")
    assert in_child(writes_and_closes)
    put(store, "after")
    assert len(states(store)) == 3


def test_many_threads_take_and_give_back(store: Store):
    def several(number: int) -> None:
        for each in range(10):
            put(store, f"{number}.{each}")
            put_named(store, f"{number}.{each}", KEEP, f"n{number}.{each}")

    together(*(lambda number=number: several(number) for number in range(8)))
    assert len(states(store)) == 160
