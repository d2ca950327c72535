"""Statements that are sent ahead, before the last one is answered: what goes wrong is told as if they were not."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, Text, bindparam, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from celery_workmanager.errors import InvalidRequest, StoreBusy, StoreUnavailable
from celery_workmanager.planning import NewWork, Step
from celery_workmanager.sentences import Sentence, sending
from celery_workmanager.store import Store, inserting
from celery_workmanager.tables import name
from celery_workmanager.timing import SECOND, as_datetime
from celery_workmanager.work import State
from tests import services
from tests.store.test_sentences import heard
from tests.stores import QUEUE, START, enqueue, every, job, put, rows_of, states, step, twin, users_engine

_NAME = Sentence(insert(name))
_FEW = 4


def write(connection: Connection, *names: str) -> None:
    for each in names:
        _NAME.say(connection, {"name": each})


def pair(unique: str, *ids: str) -> tuple[Step, Step]:
    """Works under a name, and one after them, as many as make lists of their columns."""
    first = Step(tuple(map(job, ids)), name=unique)
    return first, Step(tuple(job(f"{unique}-{n}") for n in range(_FEW)), ids, unique)


@pytest.mark.postgresql
def test_the_next_statement_is_said_while_one_waits(postgresql: Store):
    with postgresql.database.transaction() as other, postgresql.database.transaction() as connection:
        write(other, "held")
        Sentence(select(func.set_config("lock_timeout", bindparam("wait", type_=Text), True))).say(
            connection, {"wait": "60s"}
        )
        with sending(connection) as is_ahead:
            write(connection, "held", "b")  # would wait for the other one, which waits for us
            other.rollback()
    assert is_ahead
    assert rows_of(postgresql, "name") == 2


@pytest.mark.postgresql
def test_an_error_is_the_one_of_the_statement_that_failed(postgresql: Store, caplog: pytest.LogCaptureFixture):
    def fails(*, is_told_inside: bool) -> None:
        with postgresql.database.transaction() as connection:
            write(connection, "a")
            with sending(connection):
                write(connection, "a", "b")
                for n in range(5_000 if is_told_inside else 0):  # by then the driver has come across its answer
                    write(connection, str(n))

    for is_told_inside in (False, True):
        with pytest.raises(IntegrityError) as caught:
            fails(is_told_inside=is_told_inside)
        assert isinstance(caught.value.orig, psycopg.errors.UniqueViolation)
        assert rows_of(postgresql, "name") == 0
    assert not caplog.records


@pytest.mark.postgresql
@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt])
def test_what_is_broken_off_leaves_nothing(postgresql: Store, kind: type[BaseException]):
    def breaks_off() -> None:
        with postgresql.database.transaction() as connection, sending(connection):
            write(connection, "a", "b")
            raise kind

    with pytest.raises(kind):
        breaks_off()
    put(postgresql, *"abcd")
    assert (rows_of(postgresql, "name"), len(states(postgresql))) == (0, 4)


@pytest.mark.postgresql
def test_a_server_that_is_lost_meanwhile_is_told_of(postgresql: Store):
    url = postgresql.database.url

    def is_thrown_out() -> None:
        with postgresql.database.transaction() as connection, sending(connection):
            write(connection, "a")
            services.throw_out(str(url.database), url.render_as_string(hide_password=False))
            write(connection, "b")

    with pytest.raises(StoreUnavailable):
        is_thrown_out()
    put(postgresql, "a")
    assert rows_of(postgresql, "name") == 0


@pytest.mark.postgresql
def test_on_a_callers_connection_or_while_somebody_listens_nothing_is(postgresql: Store):
    users = users_engine(postgresql)
    with users.connect() as connection, sending(connection) as is_ahead:
        assert not is_ahead
    with heard(postgresql), postgresql.database.transaction() as connection, sending(connection) as is_ahead:
        assert not is_ahead
    users.dispose()


# -- enqueues --------------------------------------------------------------------------------------------------


def test_of_many_works_those_that_exist_are_passed_over(store: Store):
    put(store, "b")
    stored = put(store, *(job(each, tags={"red"}) for each in "abcdef"))
    assert (stored.skipped, len(stored.works)) == (("b",), 5)
    assert (len(states(store)), rows_of(store, "tag")) == (6, 6)


@pytest.mark.postgresql
def test_what_others_hold_is_waited_for_only_so_long(postgresql: Store):
    impatient = twin(postgresql, name_wait=0.05)
    with postgresql.database.transaction() as other:
        other.execute(text("INSERT INTO workmanager_member (name, work) VALUES ('n', 'a')"))
        with pytest.raises(StoreBusy):
            enqueue(impatient, *pair("n", "a", "b", "c", "d"))
        other.rollback()
    impatient.close()
    assert (states(postgresql), rows_of(postgresql, "name")) == ({}, 0)


def test_a_label_that_a_deleted_work_has_left_behind_is_taken_over(store: Store):
    with store.database.transaction() as connection:
        connection.execute(text("INSERT INTO workmanager_member (name, work) VALUES ('n', 'a')"))
    stored = enqueue(store, *pair("n", "a", "b", "c", "d"))
    assert len(stored.works) == 2 * _FEW
    assert rows_of(store, "member") == 2 * _FEW


def test_a_request_that_is_refused_has_no_labels_in_a_callers_transaction(store: Store):
    users: Engine = users_engine(store)
    past: dict[str, Any] = {"end_at": as_datetime(START - SECOND)}
    with users.begin() as connection, pytest.raises(InvalidRequest, match="late enough for one run"):
        enqueue(store, step(*(job(each, tags={"red"}) for each in "abcd"), every(**past)), connection=connection)
    users.dispose()
    assert (rows_of(store, "tag"), states(store)) == (0, {})


_OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {}, {"worker": "shop.sell"}, {"queue": "other"}, {"expires": 90}, {"deadline": 70}, {"priority": 3},
    {"tags": {"red"}}, {"initial_delay": 60}, {},
)  # fmt: skip
_BEGINNINGS = (
    (State.ENQUEUED, (), 0),
    (State.BLOCKED, ("a",), 1),
    (State.BLOCKED, ("a", "b"), 2),
    (State.FAILED, ("a",), 0),
)


def test_works_that_are_alike_have_the_rows_that_each_alone_has(store: Store):
    works = [
        NewWork(job(input={"n": n}, **options), state, parents, unfinished, None)
        for state, parents, unfinished in _BEGINNINGS
        for n, options in enumerate(_OPTIONS)
    ]
    made = inserting._rows(works, lambda each: each.queue or QUEUE, START, store.terms)
    assert made == [
        inserting._row(each, each.request.queue or QUEUE, START, store.terms) | {"has_children": 0} for each in works
    ]
