"""What takes one statement where others take a transaction, and what many rows take: the same is stored either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import DBAPIError

from celery_workmanager.errors import UniqueNameBusy
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.planning import Step
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store import Store, finishing
from celery_workmanager.tables import NAME_LENGTH, work
from celery_workmanager.timing import SECOND
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State, WorkError
from tests import services
from tests.stores import (
    APPEND,
    KEEP,
    REPLACE,
    end,
    enqueue,
    holding,
    info,
    job,
    put,
    put_named,
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
    together,
    twin,
    users_engine,
    verdicts,
    wait_until,
)


@contextmanager
def said(store: Store) -> Iterator[list[str]]:
    """The first words of the statements that are run meanwhile."""
    found: list[str] = []
    with heard(store) as statements:
        yield found
        found += [each.split(maxsplit=1)[0] for each in statements]


@contextmanager
def heard(store: Store) -> Iterator[list[str]]:
    """The statements that are run meanwhile."""
    found: list[str] = []
    engines = [store.database.engine(), store.database.engine(relaxed=True)]

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    for engine in engines:
        event.listen(engine, "before_cursor_execute", hear)
    try:
        yield found
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", hear)


# -- a work by itself --------------------------------------------------------------------------------------------


def test_a_work_by_itself_is_one_statement(store: Store):
    put(store, "warm-up")
    with said(store) as statements:
        inserted = put(store, job("a", initial_delay=60, priority=3))
    assert statements == ["INSERT"]
    assert ([each.request.id for each in inserted.works], inserted.skipped) == (["a"], ())
    assert state(store, "a") is State.ENQUEUED


def test_it_is_stored_as_it_is_beside_others(store: Store):
    request: dict[str, Any] = {"input": {"n": 1}, "initial_delay": 60, "expires": 90, "deadline": 70}
    put(store, job("alone", **request))
    put(store, *(job(each, **request) for each in ("one", "two", "three", "four", "five")))
    alone = row(store, "alone")._asdict() | {"id": ""}
    assert alone["input"] == '{"n":1}'
    assert [row(store, each)._asdict() | {"id": ""} for each in ("one", "five")] == [alone, alone]


def test_an_id_that_is_there_is_skipped_with_one_statement_too(store: Store):
    put(store, "a")
    succeed(store, "a")
    again = put(store, "a")
    assert ([each.request.id for each in again.works], again.skipped) == ([], ("a",))
    assert state(store, "a") is State.SUCCEEDED


def test_a_connection_that_the_server_has_closed_is_replaced_before_anything_is_said_on_it(server: Store):
    put(server, "a")
    url, name = server.database.url.render_as_string(hide_password=False), str(server.database.url.database)
    services.throw_out(name, url)
    if not services.is_mariadb(url):
        wait_until(lambda: _connections(name) == 0)
    put(server, "b")
    assert states(server) == {"a": "ENQUEUED", "b": "ENQUEUED"}


def _connections(database: str) -> int:
    with psycopg.connect(services.POSTGRESQL_URL.replace("+psycopg", "")) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database]).fetchone()
    assert found is not None
    return int(found[0])


# -- what KEEP turns away ------------------------------------------------------------------------------------------


def test_what_keep_turns_away_is_one_question_that_waits_for_nobody(server: Store):
    """Neither for the name's row nor for the work's, and nothing is written."""
    put_named(server, "order", KEEP, "x")
    with holding(server, "x") as connection:
        connection.execute(text("UPDATE workmanager_name SET name = name"))
        with said(server) as statements:
            turned_away = put_named(server, "order", KEEP, "y", "z")
    assert statements == ["SELECT"]
    assert (turned_away.works, turned_away.skipped) == ((), ("y", "z"))
    assert states(server) == {"x": "ENQUEUED"}


@pytest.mark.parametrize("moment", ["claimed", "running", "finished"])
def test_keep_turns_away_as_long_as_the_work_is_under_way(store: Store, moment: str):
    put_named(store, "order", KEEP, "x")
    claim = take_one(store, "x")
    if moment == "running":
        start(store, claim)
    if moment == "finished":
        end(store, claim)
    done = put_named(store, "order", KEEP, "y")
    assert [each.request.id for each in done.works] == (["y"] if moment == "finished" else [])


def test_a_chain_that_is_merely_blocked_holds_no_name(store: Store):
    """As before: behind works of others it is replaced."""
    put(store, "other")
    sql(store, "INSERT INTO workmanager_name (name) VALUES ('order')")
    enqueue(store, Step((job("x"),), ("other",), name="order"))
    assert state(store, "x") is State.BLOCKED
    assert [each.request.id for each in put_named(store, "order", KEEP, "y").works] == ["y"]


def test_of_several_names_all_must_be_in_use(store: Store):
    put_named(store, "one", KEEP, "a")
    both = [Step((job("b"),), name="one"), Step((job("c"),), name="two")]
    assert [each.request.id for each in enqueue(store, *both).works] == ["c"]
    assert enqueue(store, *both).works == ()


# -- the first work under a name -----------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_the_first_work_under_a_name_is_a_question_and_a_statement(postgresql: Store):
    put(postgresql, "warm-up")
    with said(postgresql) as statements:
        done = put_named(postgresql, "order", KEEP, job("a", initial_delay=60, deadline=70, input={"n": 1}))
    assert statements == ["SELECT", "WITH"]
    assert [(each.request.id, each.name) for each in done.works] == [("a", "order")]
    put_named(postgresql, "other", APPEND, job("b", initial_delay=60, deadline=70, input={"n": 1}))
    assert row(postgresql, "a")._asdict() == row(postgresql, "b")._asdict() | {"id": "a"}
    assert (rows_of(postgresql, "name"), rows_of(postgresql, "member")) == (2, 2)
    assert put_named(postgresql, "order", KEEP, "c").skipped == ("c",)


def test_of_many_that_are_the_first_under_a_name_one_is(store: Store):
    stores = [store, *(twin(store) for _ in range(3))]
    for unique in "abcde":
        calls = [lambda own=own, unique=unique: put_named(own, unique, KEEP, job()) for own in stores]
        assert sorted(len(done.works) for done in together(*calls)) == [0, 0, 0, 1]
    assert len(states(store)) == 5
    for each in stores[1:]:
        each.close()


def test_the_first_work_under_a_name_waits_in_bounds_for_another_one(server: Store):
    impatient = twin(server, name_wait=0.2)
    with holding(server) as connection:
        put_named(server, "order", KEEP, "a", connection=connection)
        with pytest.raises(UniqueNameBusy, match="order"):
            put_named(impatient, "order", KEEP, "b")
        connection.commit()
    assert put_named(impatient, "order", KEEP, "b").skipped == ("b",)
    impatient.close()


def test_an_id_that_is_there_is_skipped_under_a_new_name_too(store: Store):
    put(store, "a")
    done = put_named(store, "order", KEEP, "a")
    assert (done.works, done.skipped) == ((), ("a",))
    assert (states(store), rows_of(store, "member")) == ({"a": "ENQUEUED"}, 1)


# -- the end of a run ------------------------------------------------------------------------------------------------


def test_ends_of_works_that_nothing_depends_on_are_one_statement_a_batch(store: Store):
    put(store, *(f"w{n}" for n in range(20)))
    claims = take(store, 20)
    with said(store) as statements:
        assert end(store, *claims, output='{"n":1}').accepted == {f"w{n}" for n in range(20)}
    assert statements == ONE_STATEMENT.get(store.database.dialect, ["SELECT", "UPDATE"])
    assert info(store, "w7").output_data == {"n": 1}


ONE_STATEMENT = {"postgresql": ["WITH"], "sqlite": ["UPDATE"]}


def settled_alike(store: Store, claims: Sequence[Claim]) -> list[Verdict]:
    return verdicts(store, claims, Ending.SUCCEEDED, output='{"text":"ü \\u0000 \\"%s\\" ?"}')


def settled_unlike(store: Store, claims: Sequence[Claim]) -> list[Verdict]:
    first, second, *others = claims
    error = WorkError("ValueError", "“no”", traceback="%s ?").to_json()
    return [
        *verdicts(store, [first], Ending.SUCCEEDED, output="{}"),
        *verdicts(store, [second], Ending.FAILED, error=error),
        *verdicts(store, others, Ending.FAILED, output='{"n":[1,null]}', started_at=None),
    ]


def step_by_step(store: Store, ends: Sequence[Verdict], connection: Connection) -> object:
    return finishing.settle(connection, ends, store.clock.now(), store.terms)


@pytest.mark.parametrize("settled", [settled_alike, settled_unlike])
@pytest.mark.parametrize("listens", [False, True])
def test_an_end_is_the_same_however_it_is_written(
    store: Store, settled: Callable[[Store, Sequence[Claim]], list[Verdict]], listens: bool
):
    found = []
    for is_short in (True, False):
        sql(store, "DELETE FROM workmanager_work")
        put(store, "a", job("b", expires=90, expedited=OutOfQuotaPolicy.DROP_WORK_REQUEST), "c", "d")
        claims = take(store, 4)
        start(store, claims[2])
        ends = settled(store, claims)
        with heard(store) if listens else nullcontext():
            if is_short:
                assert store.settle(ends).accepted == {"a", "b", "c", "d"}
            else:
                store.database.run(partial(step_by_step, store, ends))
        with store.database.plain() as connection:
            found.append([row._asdict() | {"token": 0} for row in connection.execute(select(work).order_by(work.c.id))])
    assert found[0] == found[1]


def test_an_end_sees_what_was_done_to_its_work_since_it_was_claimed(store: Store):
    put(store, "plain", "parent", "updated", "held", "cancelled", "taken")
    claims = take(store, 10)
    enqueue(store, step("child", after=["parent"]))
    store.update(job("updated", priority=9), "celery")
    sql(store, "UPDATE workmanager_work SET held = 1 WHERE id = 'held'")
    store.cancel("cancelled")
    sql(store, "UPDATE workmanager_work SET token = token + 1 WHERE id = 'taken'")
    settled = end(store, *claims)
    assert settled.accepted == {"plain", "parent", "updated", "held"}
    assert settled.stale == {"cancelled", "taken"}
    assert (state(store, "child"), settled.unblocked) == (State.ENQUEUED, 1)
    assert row(store, "held").held is None
    assert state(store, "taken") is State.ENQUEUED


def test_an_end_is_kept_as_long_as_an_update_during_the_run_says(store: Store):
    put(store, "a", "b")
    claims = take(store, 2)
    store.update(job("a", keep_results_for_at_least=timedelta(days=3)), "celery")
    assert end(store, *claims).accepted == {"a", "b"}
    assert row(store, "a").prune_at - row(store, "b").prune_at == 3 * 86_400 * SECOND


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.FAILED])
def test_an_end_whose_row_others_hold_is_told_so_and_written_later(server: Store, ending: Ending):
    put(server, "a", "b")
    claims = take(server)
    with holding(server, "a"):
        settled = end(server, *claims, ending=ending)
        assert (settled.accepted, settled.held) == ({"b"}, {"a"})
    assert end(server, *claims, ending=ending).accepted == {"a", "b"}


# -- many at once ------------------------------------------------------------------------------------------------------


def test_many_names_and_edges_are_stored_by_as_many_statements_as_few(store: Store):
    def pairs(prefix: str, count: int) -> list[Step]:
        firsts = [Step((job(f"{prefix}a{n}"),), name=f"{prefix}{n}", policy=REPLACE) for n in range(count)]
        return firsts + [Step((job(f"{prefix}b{n}"),), (f"{prefix}a{n}",), f"{prefix}{n}") for n in range(count)]

    put(store, "warm-up")
    succeed(store, "warm-up")
    with said(store) as few:
        enqueue(store, *pairs("few", 4))
    with said(store) as many:
        enqueue(store, *pairs("many", 40))
    assert few == many
    assert rows_of(store, "edge") == 44
    assert info(store, "manyb39").prerequisites == ("manya39",)
    assert {each.id for each in take(store, 100)} == {f"fewa{n}" for n in range(4)} | {f"manya{n}" for n in range(40)}


def test_many_names_each_have_their_own_policy(store: Store):
    put_named(store, "kept", KEEP, "k")
    put_named(store, "replaced", KEEP, "r")
    put_named(store, "followed", KEEP, "f")
    policies = {"kept": KEEP, "replaced": REPLACE, "followed": APPEND, "new": KEEP, "newer": APPEND}
    done = enqueue(store, *(Step((job(f"{name}2"),), name=name, policy=each) for name, each in policies.items()))
    assert done.skipped == ("kept2",)
    assert states(store) == {
        "k": "ENQUEUED", "f": "ENQUEUED", "followed2": "BLOCKED", "new2": "ENQUEUED", "newer2": "ENQUEUED",
        "replaced2": "ENQUEUED",
    }  # fmt: skip


def test_a_name_whose_works_went_with_those_of_another_is_read_again(store: Store):
    """The first name's replacement cancels what depends on it, of whatever name it is."""
    put_named(store, "a", KEEP, "first")
    enqueue(store, Step((job("second"),), ("first",), name="a"))
    sql(store, "INSERT INTO workmanager_name (name) VALUES ('b')")
    sql(store, "UPDATE workmanager_member SET name = 'b' WHERE work = 'second'")
    enqueue(store, Step((job("new"),), name="a", policy=REPLACE), Step((job("after"),), name="b", policy=APPEND))
    assert states(store) == {"new": "ENQUEUED", "second": "CANCELLED", "after": "CANCELLED"}


def test_a_text_that_is_too_long_is_refused_and_not_cut(server: Store):
    """Also in a list of many: PostgreSQL would cut it where it is cast."""
    requests: list[OneTimeWorkRequest] = [job(f"w{n}") for n in range(10)]
    with pytest.raises(DBAPIError):
        server.enqueue([Step(tuple(requests))], lambda _: "q" * (NAME_LENGTH + 1))
    assert states(server) == {}


@pytest.mark.parametrize("count", [1, 5])
def test_texts_of_every_alphabet_are_stored_as_they_are(store: Store, count: int):
    given = {"text": "ü “x” \\ {a,b} \"NULL\" NULL '' \U0001f370", "none": None, "list": [1, [2.5, True]]}
    put(store, *(job(f"w{n}", input=given, tags={'{,"\\', "ü"}) for n in range(count)))
    with store.database.plain() as connection:
        stored = set(connection.execute(select(work.c.input)).scalars())
    assert stored == set(take_one(store, "w0").inputs)
    assert info(store, f"w{count - 1}").tags == {"shop.bake", '{,"\\', "ü"}


@pytest.mark.postgresql
def test_new_names_among_many_read_no_members_of_others(postgresql: Store):
    """Without statistics PostgreSQL would read all members of all names, and all edges, to find none."""
    steps = [Step((job(f"{n}"),), name=f"name {n}", policy=APPEND) for n in range(5)]
    with heard(postgresql) as new:
        enqueue(postgresql, *steps[:4])
    with heard(postgresql) as some:
        enqueue(postgresql, *(Step((job(),), name=each.name, policy=APPEND) for each in steps))
    joins = [[each for each in statements if "JOIN workmanager_member" in each] for statements in (new, some)]
    assert (len(joins[0]), len(joins[1])) == (0, 1)
    assert sorted(states(postgresql).values()) == ["BLOCKED"] * 4 + ["ENQUEUED"] * 5


@pytest.mark.postgresql
def test_a_leaf_is_told_by_one_edge_and_not_by_reading_all(postgresql: Store):
    """Of several names, too: a set of all parents would be made for them."""
    for each in "abc":
        put_named(postgresql, each, KEEP, f"{each}1")
        enqueue(postgresql, Step((job(f"{each}2"),), (f"{each}1",), each))
    enqueue(postgresql, *(Step((job(f"{each}3"),), name=each, policy=APPEND) for each in "abc"))
    assert [info(postgresql, f"{each}3").prerequisites for each in "abc"] == [("a2",), ("b2",), ("c2",)]


@pytest.mark.parametrize("count", [1, 6])
def test_several_that_fail_leave_nothing(store: Store, count: int):
    """Names, labels, works and edges are one transaction, whichever of them is refused."""
    firsts = [Step((job(f"a{n}", tags={"red"}),), name=f"n{n}") for n in range(count)]
    following = [Step((job(f"b{n}", worker="shop.sell"),), (f"a{n}",), f"n{n}") for n in range(count)]
    if store.database.is_sqlite:  # which stores what is too long
        refuse = "BEFORE INSERT ON workmanager_edge BEGIN SELECT RAISE(ABORT, 'refused'); END"
        sql(store, f"CREATE TRIGGER refuse {refuse}")
    with pytest.raises(DBAPIError):
        store.enqueue([*firsts, *following], lambda each: "q" * (300 if each.worker_name == "shop.sell" else 10))
    assert [rows_of(store, each) for each in ("name", "member", "tag", "work", "edge")] == [0] * 5


def test_a_callers_transaction_takes_all_of_a_bulk_with_it(server: Store):
    def pairs(prefix: str) -> list[Step]:
        firsts = [Step((job(f"{prefix}a{n}"),), name=f"{prefix}{n}") for n in range(6)]
        return firsts + [Step((job(f"{prefix}b{n}"),), (f"{prefix}a{n}",), f"{prefix}{n}") for n in range(6)]

    users = users_engine(server)
    with users.connect() as connection:
        enqueue(server, *pairs("gone"), connection=connection)
        connection.rollback()
        enqueue(server, *pairs("kept"), connection=connection)
        connection.commit()
    users.dispose()
    assert (rows_of(server, "name"), rows_of(server, "member"), rows_of(server, "edge")) == (6, 12, 6)
    assert {each[:4] for each in states(server)} == {"kept"}
