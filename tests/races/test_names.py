"""Unique names, whoever comes at the same moment; and what is tried again on whose connection."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from celery_workmanager.errors import UniqueNameBusy
from celery_workmanager.planning import Step
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.store import Store, leasing
from celery_workmanager.work import State
from tests.stores import (
    APPEND,
    APPEND_OR_REPLACE,
    HOUR,
    KEEP,
    REPLACE,
    end,
    enqueue,
    holding,
    info,
    is_blocked,
    job,
    make_store,
    meanwhile,
    move,
    put,
    put_named,
    register,
    rows_of,
    start,
    state,
    states,
    succeed,
    take,
    take_one,
    together,
    twin,
    users_engine,
    wait_until,
)

ROUNDS = 8


def race_for(store: Store, other: Store, name: str, policy: ExistingWorkPolicy, *ids: str) -> list[Any]:
    stores = [store, other]
    return together(
        *(lambda own=stores[n % 2], each=each: put_named(own, name, policy, each) for n, each in enumerate(ids))
    )


@pytest.mark.parametrize("first", ["none", "finished"])
def test_of_two_enqueues_with_keep_the_later_one_stores_nothing(store: Store, first: str):
    other = twin(store)
    for n in range(ROUNDS):
        if first == "finished":
            put_named(store, f"order {n}", KEEP, f"x{n}")
            succeed(store, f"x{n}")
        done = race_for(store, other, f"order {n}", KEEP, f"a{n}", f"b{n}")
        assert sorted(len(each.works) for each in done) == [0, 1]
        assert sum(each.endswith(str(n)) for each in states(store)) == 1
    other.close()


def test_of_two_enqueues_with_replace_the_earlier_one_is_gone(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        race_for(store, other, "order", REPLACE, f"a{n}", f"b{n}")
        (left,) = states(store).items()
        assert left in [(f"a{n}", "ENQUEUED"), (f"b{n}", "ENQUEUED")]
    assert (rows_of(store, "member"), rows_of(store, "name")) == (1, 1)
    other.close()


@pytest.mark.parametrize("policy", [APPEND, APPEND_OR_REPLACE])
def test_of_two_enqueues_with_append_the_later_one_follows_the_earlier(store: Store, policy: ExistingWorkPolicy):
    other = twin(store)
    for n in range(ROUNDS):
        race_for(store, other, f"order {n}", policy, f"a{n}", f"b{n}")
        parents = {each: info(store, f"{each}{n}").prerequisites for each in "ab"}
        assert parents in [{"a": (), "b": (f"a{n}",)}, {"a": (f"b{n}",), "b": ()}]
        assert sorted(state(store, f"{each}{n}").name for each in "ab") == ["BLOCKED", "ENQUEUED"]
    other.close()


def test_many_enqueues_of_several_names_in_any_order_never_deadlock(store: Store):
    """Names are locked in their own order, whatever order they are given in."""
    stores = [twin(store) for _ in range(4)]
    names = ["one", "two", "three"]

    def several(own: Store, order: list[str]) -> None:
        for _ in range(4):
            enqueue(own, *(Step((job(),), name=name, policy=REPLACE) for name in order))

    orders = [names, names[::-1], names[1:] + names[:1], ["two", "three"]]
    done = together(
        *(lambda own=own, order=order: several(own, order) for own, order in zip(stores, orders, strict=True))
    )
    assert done == [None] * 4
    assert set(states(store).values()) == {"ENQUEUED"}
    assert len(states(store)) == 3
    for each in stores:
        each.close()


def test_a_keep_that_reads_an_older_snapshot_is_refused_and_never_a_second_one(postgresql: Store):
    """In a caller's REPEATABLE READ transaction: it cannot see the work that was stored since it began."""
    put_named(postgresql, "order", KEEP, "x")
    succeed(postgresql, "x")
    users = create_engine(postgresql.database.url, isolation_level="REPEATABLE READ")
    with users.connect() as connection, connection.begin() as transaction:
        connection.execute(text("SELECT count(*) FROM workmanager_work")).scalar()
        put_named(postgresql, "order", KEEP, "a")
        with pytest.raises(DBAPIError, match="could not serialize"):
            put_named(postgresql, "order", KEEP, "b", connection=connection)
        transaction.rollback()
    users.dispose()
    assert states(postgresql) == {"a": "ENQUEUED"}


# -- a name that somebody holds ------------------------------------------------------------------------------


def test_a_held_name_is_waited_for_only_so_long_while_everything_else_goes_on(server: Store):
    impatient = twin(server, name_wait=0.2)
    put_named(server, "busy", KEEP, "x")
    claim = take_one(server, "x")
    with holding(server) as connection:
        put_named(server, "busy", APPEND, "a", connection=connection)
        with pytest.raises(UniqueNameBusy, match="busy"):
            put_named(impatient, "busy", APPEND, "b")
        # What KEEP turns away needs no lock: x is under way, however that transaction ends.
        assert put_named(impatient, "busy", KEEP, "k").skipped == ("k",)
        put_named(impatient, "free", KEEP, "c")
        put(impatient, "d")
        assert {each.id for each in take(server)} == {"c", "d"}
        assert end(server, claim).held == {"x"}
    assert set(states(server)) == {"x", "a", "c", "d"}
    assert end(server, claim).unblocked == 1
    put_named(impatient, "busy", APPEND, "b")
    impatient.close()


_SET_PATIENCE = {False: "SET LOCAL lock_timeout = '7s'", True: "SET innodb_lock_wait_timeout = 7"}
_PATIENCE = {False: "SHOW lock_timeout", True: "SELECT @@innodb_lock_wait_timeout"}


def test_giving_up_on_a_name_leaves_the_callers_transaction_usable(server: Store):
    impatient = twin(server, name_wait=0.2)
    users = users_engine(server)
    with holding(server) as connection:
        put_named(server, "busy", KEEP, "a", connection=connection)
        with users.begin() as own:
            own.execute(text(_SET_PATIENCE[server.database.is_mysql]))
            put(impatient, "before", connection=own)
            with pytest.raises(UniqueNameBusy):
                put_named(impatient, "busy", KEEP, "b", connection=own)
            assert own.execute(text(_PATIENCE[server.database.is_mysql])).scalar() in ("7s", 7)
            put_named(impatient, "free", KEEP, "c", connection=own)
            assert own.execute(text(_PATIENCE[server.database.is_mysql])).scalar() in ("7s", 7)
    users.dispose()
    impatient.close()
    assert set(states(server)) == {"a", "before", "c"}


def test_a_name_that_comes_free_in_time_is_taken(server: Store):
    with holding(server) as connection:
        put_named(server, "busy", KEEP, "a", connection=connection)
        with meanwhile(lambda: put_named(server, "busy", KEEP, "b")) as second:
            wait_until(lambda: is_blocked(server))
            connection.rollback()
    assert len(second.result().works) == 1
    assert states(server) == {"b": "ENQUEUED"}


def test_names_are_locked_in_their_order_whatever_that_of_the_steps(server: Store):
    """Who waits for the second name holds the first one; in any other order two such would wait for each other."""
    impatient = twin(server, name_wait=0.2)
    put_named(server, "a", KEEP, "x")
    with holding(server) as connection:
        put_named(server, "b", KEEP, "y", connection=connection)
        steps = [Step((job(each),), name=name, policy=APPEND) for each, name in (("two", "b"), ("one", "a"))]
        with meanwhile(lambda: enqueue(server, *steps)) as waiting:
            wait_until(lambda: is_blocked(server))
            with pytest.raises(UniqueNameBusy, match="a"):
                put_named(impatient, "a", APPEND, "late")
            connection.commit()
    assert len(waiting.result().works) == 2
    impatient.close()


# -- leases --------------------------------------------------------------------------------------------------


def test_of_a_renewal_and_a_heal_the_later_one_finds_the_node_alive_or_gone(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        register(store, f"node{n}")
        move(store, HOUR)
        now = store.clock.now()
        renewed, healed = together(
            lambda n=n, now=now: store.renew(f"node{n}", now + HOUR, "{}"), lambda now=now: other.heal(now)
        )
        assert renewed is (healed is None)
        assert [each.id for each in store.nodes()] == ([f"node{n}"] if renewed else [])
        store.unregister(f"node{n}")
    other.close()


def test_a_renewal_during_an_uncommitted_heal_waits_and_learns_that_the_node_is_gone(server: Store):
    register(server)
    move(server, HOUR)
    now = server.clock.now()
    with server.database.transaction() as connection:
        assert leasing.heal(connection, now, now, server.terms) is not None
        with meanwhile(lambda: server.renew("node", now + HOUR, "{}")) as renewed:
            wait_until(lambda: is_blocked(server))
            connection.commit()
    assert renewed.result() is False


def test_of_two_healers_of_one_node_the_later_one_does_nothing(store: Store):
    other = twin(store)
    put(store, *(f"w{n}" for n in range(20)))
    register(store)
    start(store, *take(store, 100))
    move(store, HOUR)
    now = store.clock.now()
    together(lambda: store.heal(now), lambda: other.heal(now))
    assert {info(store, f"w{n}").interruptions for n in range(20)} == {1}
    other.close()


# -- the same id, the same fact, the same key ----------------------------------------------------------------


def test_of_two_enqueues_of_one_id_the_later_one_is_skipped(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        done = together(lambda n=n: put(store, f"w{n}"), lambda n=n: put(other, f"w{n}"))
        assert sorted(len(each.works) for each in done) == [0, 1]
    other.close()


def test_a_clash_of_ids_in_the_callers_transaction_is_the_callers_to_know(server: Store):
    """The later one loses, and isn't tried again outside of its transaction."""
    users = users_engine(server)
    with holding(server) as first, users.connect() as second:
        put(server, "x", connection=first)
        second.begin()
        with meanwhile(lambda: put(server, "x", connection=second)) as late:
            wait_until(lambda: is_blocked(server))
            first.commit()
        with pytest.raises(IntegrityError):
            late.result()
        second.rollback()
    users.dispose()


def test_of_two_cancels_of_all_the_later_one_is_remembered(store: Store):
    others = [twin(store) for _ in range(4)]
    put(store, "a")
    done = together(*(each.cancel_all for each in others))
    assert sorted(done) == [[], [], [], ["a"]]
    assert store.last_cancel_all() == store.clock.now()
    for each in others:
        each.close()


def test_of_two_values_for_one_key_the_later_one_stays(store: Store):
    others = [twin(store) for _ in range(4)]
    done = together(*(lambda own=own, n=n: own.put_result("k", str(n), None) for n, own in enumerate(others)))
    assert done == [None] * 4
    assert store.results(["k"])["k"] in "0123"
    for each in others:
        each.close()


# -- what is tried again -------------------------------------------------------------------------------------


def crossing(calls: list[str], meet: threading.Barrier, order: tuple[str, str]) -> Any:
    """Changes two rows in `order`; the first time it waits in between, so that two of them deadlock."""

    def change(connection: Connection) -> None:
        calls.append(order[0])
        for n, each in enumerate(order):
            if n and len(calls) <= 2:
                meet.wait(timeout=30)
            statement = text("UPDATE workmanager_work SET version = version + 1 WHERE id = :id")
            connection.execute(statement, {"id": each})

    return change


def test_the_loser_of_a_deadlock_on_our_own_connection_is_run_again(server: Store):
    put(server, "a", "b")
    calls: list[str] = []
    meet = threading.Barrier(2)
    done = together(
        lambda: server.database.run(crossing(calls, meet, ("a", "b"))),
        lambda: server.database.run(crossing(calls, meet, ("b", "a"))),
    )
    assert done == [None, None]
    assert len(calls) == 3
    assert (info(server, "a").version, info(server, "b").version) == (3, 3)


def test_the_loser_of_a_deadlock_in_the_callers_transaction_is_told(server: Store):
    put(server, "a", "b")
    calls: list[str] = []
    meet = threading.Barrier(2)
    users = users_engine(server)

    def joined(order: tuple[str, str]) -> None:
        with users.begin() as connection:
            server.database.run(crossing(calls, meet, order), connection)

    done = together(lambda: joined(("a", "b")), lambda: joined(("b", "a")))
    assert sorted(type(each).__name__ for each in done) == ["NoneType", "OperationalError"]
    assert len(calls) == 2
    users.dispose()


def test_a_serialization_failure_on_our_own_connection_is_run_again(postgresql: Store):
    put(postgresql, "a")
    calls: list[int] = []

    def change(connection: Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        version = connection.execute(text("SELECT version FROM workmanager_work")).scalar_one()
        if len(calls) == 1:
            put_elsewhere.database.run(
                lambda own: own.execute(text("UPDATE workmanager_work SET version = version + 10"))
            )
        connection.execute(text("UPDATE workmanager_work SET version = :new"), {"new": version + 1})

    put_elsewhere = twin(postgresql)
    postgresql.database.run(change)
    assert len(calls) == 2
    assert info(postgresql, "a").version == 12
    put_elsewhere.close()


def test_a_server_with_a_stricter_default_changes_nothing_for_us(postgresql: Store):
    """Our transactions say which isolation they need."""
    url = postgresql.database.url.update_query_dict({"options": "-c default_transaction_isolation=serializable"})
    strict = make_store(url.render_as_string(hide_password=False))
    with strict.database.transaction() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
    put(strict, "a")
    assert state(postgresql, "a") is State.ENQUEUED
    strict.close()
