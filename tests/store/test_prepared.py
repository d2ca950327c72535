"""Statements that are said to libpq on connections of ours: what a cursor of the driver's answers, they answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Connection, Text, bindparam, func, insert, literal, literal_column, select, text
from sqlalchemy.exc import DataError, IntegrityError

from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.outcome import Ending
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import Store, Taker
from celery_workmanager.tables import name
from tests import services
from tests.stores import (
    KEEP,
    end,
    enqueue,
    is_blocked,
    job,
    make_store,
    put,
    put_named,
    rows_of,
    states,
    step,
    verdicts,
    wait_until,
)

pytestmark = [pytest.mark.postgresql]

_NAMES = text("SELECT name FROM pg_prepared_statements WHERE name LIKE 'workmanager%'")


def echo(kind: Any = Text) -> Sentence:
    return Sentence(select(bindparam("value", type_=kind).label("value"), literal_column("'100%'").label("share")))


def said(store: Store, sentence: Sentence, value: Any) -> Any:
    """What is answered at first, when a cursor says it, and afterwards: always the same."""
    with store.database.plain() as connection:
        answers = [sentence.say(connection, {"value": value}) for _ in range(3)]
    assert all(isinstance(each, list) and list(map(tuple, each)) == answers[0] for each in answers)
    return answers[0][0][0]


def prepared(connection: Connection) -> int:
    return len(connection.execute(_NAMES).all())


@pytest.mark.parametrize("value", ["", "a", "ü “x” \U0001f370", "\t\n\r\\ \\N ' \" % %s %(value)s $1 {a,b}", None])
def test_texts_come_back_as_they_are(postgresql: Store, value: str | None):
    assert said(postgresql, echo(), value) == value


@pytest.mark.parametrize("value", [0, -1, 1 << 62, None])
def test_numbers_too(postgresql: Store, value: int | None):
    assert said(postgresql, echo(BigInteger), value) == value


def test_a_text_that_is_longer_than_what_the_socket_takes_at_once(postgresql: Store):
    assert said(postgresql, Sentence(select(func.length(bindparam("value", type_=Text)))), "ü" * (1 << 24)) == 1 << 24


def test_it_is_prepared_when_it_is_said_again(postgresql: Store):
    sentence, found = echo(), []
    with postgresql.database.plain() as connection:
        before = prepared(connection)
        for _ in range(3):
            sentence.say(connection, {"value": "a"})
            found.append(prepared(connection) - before)
    assert found == [0, 1, 1]


@pytest.mark.parametrize("others", [0, 3000], ids=["alone", "beside others"])
def test_what_nodes_and_producers_say_often_is_planned_once(postgresql: Store, others: int):
    """PostgreSQL plans five times for the values it is given; then it must not think that this is better."""
    put(postgresql, *(job(f"other-{each}", priority=0) for each in range(others)))
    with postgresql.database.plain() as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    put_named(postgresql, "n", KEEP, "kept")
    for each in range(12):
        put(postgresql, job(f"alone-{each}", priority=9))
        enqueue(postgresql, step(job(f"first-{each}", priority=9)), step(f"second-{each}", after=[f"first-{each}"]))
        seen = postgresql.look()
        claims = postgresql.claim(seen.lanes, "node", each, 2, stamp=seen.stamp)
        taker = Taker("node", 100 + each, dict.fromkeys(seen.lanes, "w"), 1)
        followed = postgresql.settle(verdicts(postgresql, claims, Ending.SUCCEEDED), taker).claims
        promptly, _ = postgresql.claim_promptly(seen.lanes, "node", 200 + each, 1)
        end(postgresql, *followed, *promptly)
        put_named(postgresql, "n", KEEP, f"turned-away-{each}")
    counted = text("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements WHERE name LIKE :ours")
    found: list[Any] = []
    for relaxed in (False, True):
        with postgresql.database.plain(relaxed=relaxed) as connection:
            found += connection.execute(counted, {"ours": "workmanager%"}).all()
    assert len(found) >= 7
    assert [each.statement for each in found if each.custom_plans > 5 or not each.generic_plans] == []


def test_values_in_the_statement_itself_become_words(postgresql: Store):
    odd = "50% of 'it' \\ %(value)s $1"
    sentence = Sentence(select(bindparam("value", type_=Text), literal(odd), literal(-7)).where(literal(3) > 2))
    with postgresql.database.plain() as connection:
        answers = {tuple(sentence.say(connection, {"value": "a"})[0]) for _ in range(3)}
    assert answers == {("a", odd, -7)}


def test_a_value_or_a_result_of_another_type_is_the_drivers(postgresql: Store):
    assert said(postgresql, Sentence(select(literal_column("1.50"))), None) == Decimal("1.50")
    assert said(postgresql, Sentence(select(literal_column("ARRAY[1, 2]"))), None) == [1, 2]
    with postgresql.database.plain() as connection:
        sentence = echo()
        assert [sentence.say(connection, {"value": each})[0][0] for each in ("a", "b", 1.5, True, 2)] == [
            "a", "b", "1.5", "true", "2",
        ]  # fmt: skip


def test_a_zero_in_a_text_is_refused_and_not_cut(postgresql: Store):
    with postgresql.database.plain() as connection:
        sentence = echo()
        for _ in range(2):
            sentence.say(connection, {"value": "a"})
        with pytest.raises(DataError):
            sentence.say(connection, {"value": "a\0b"})


def test_an_error_is_the_drivers_own(postgresql: Store):
    stored = Sentence(insert(name))
    with postgresql.database.plain() as connection:
        for each in "abc":
            stored.say(connection, {"name": each})
        with pytest.raises(IntegrityError) as caught:
            stored.say(connection, {"name": "c"})
    assert isinstance(caught.value.orig, psycopg.errors.UniqueViolation)
    assert (caught.value.orig.sqlstate, caught.value.orig.diag.table_name) == ("23505", name.name)
    assert rows_of(postgresql, "name") == 3


def test_what_a_session_has_forgotten_is_prepared_again(postgresql: Store):
    sentence = echo()
    with postgresql.database.plain() as connection:
        for each in ("a", "b", "c", "d"):
            assert sentence.say(connection, {"value": each})[0][0] == each
            connection.connection.driver_connection.execute("DEALLOCATE ALL", prepare=False)
        for _ in range(2):
            sentence.say(connection, {"value": "e"})
        assert prepared(connection) == 1


def test_a_result_that_has_another_type_since_a_migration(postgresql: Store):
    sentence = Sentence(select(literal_column("n")).select_from(text("some_numbers")))
    with postgresql.database.plain() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE some_numbers AS SELECT 1 AS n"))
        before = [sentence.say(connection, {})[0][0] for _ in range(3)]
        connection.execute(text("ALTER TABLE some_numbers ALTER n TYPE text"))
        assert (before, [sentence.say(connection, {})[0][0] for _ in range(2)]) == ([1, 1, 1], ["1", "1"])


def test_a_connection_that_is_lost_says_so_and_is_replaced(postgresql: Store):
    sentence = echo()

    def is_thrown_out() -> None:
        with postgresql.database.plain() as connection:
            for _ in range(2):
                sentence.say(connection, {"value": "a"})
            url = postgresql.database.url
            services.throw_out(str(url.database), url.render_as_string(hide_password=False))
            sentence.say(connection, {"value": "a"})

    with pytest.raises(StoreUnavailable):
        is_thrown_out()
    assert said(postgresql, sentence, "b") == "b"


class Interrupted(Exception):
    pass


@contextmanager
def interrupting() -> Iterator[None]:
    """A signal raises `Interrupted` in this thread."""

    def interrupt(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_who_is_interrupted_while_waiting_leaves_no_answer_for_the_next(postgresql: Store):
    """It may wait for a lock; a signal is heard meanwhile."""
    waiting = Sentence(select(func.pg_advisory_xact_lock(bindparam("value", type_=BigInteger))))
    url = postgresql.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    beside = make_store(postgresql.database.url.render_as_string(hide_password=False))

    def interrupt() -> None:
        wait_until(lambda: is_blocked(beside))
        os.kill(os.getpid(), signal.SIGUSR1)

    with postgresql.database.plain() as connection:
        for _ in range(2):
            waiting.say(connection, {"value": 7})
    with psycopg.connect(url) as other, closing(beside), interrupting():
        other.execute("SELECT pg_advisory_xact_lock(7)")
        thread = threading.Thread(target=interrupt)
        thread.start()
        with postgresql.database.plain() as connection:
            with pytest.raises(Interrupted):
                waiting.say(connection, {"value": 7})
            assert connection.invalidated
        thread.join()
        assert said(postgresql, echo(), "next") == "next"


def test_in_a_transaction_and_behind_a_pooler_nothing_is_left_in_the_session(postgresql: Store):
    pooled = make_store(postgresql.database.url.render_as_string(hide_password=False))
    pooled.database.route.is_shared = True
    put_named(pooled, "order", KEEP, "a")
    for _ in range(5):
        assert put_named(pooled, "order", KEEP, job()).works == ()
    sentence = echo()
    with pooled.database.transaction() as connection:
        for _ in range(3):
            sentence.say(connection, {"value": "a"})
        assert prepared(connection) == 0
    pooled.close()
    with postgresql.database.transaction() as connection:
        before = prepared(connection)
        for _ in range(3):
            sentence.say(connection, {"value": "a"})
        assert prepared(connection) == before
    assert states(postgresql) == {"a": "ENQUEUED"}
