"""Looks at the whole store: capped counts, families of works, and what a change would touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_workmanager.overview import (
    Census,
    Pile,
    carelessness,
    census,
    dependents,
    family,
    to_cancel,
    to_prune,
    unfinished,
)
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.conftest import FEW_STORES
from tests.store import query_plans
from tests.stores import (
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
    register,
    rows_of,
    start,
    states,
    step,
    succeed,
    take_one,
)

Q, W = "celery", "shop.bake"


def look(store: Store, function: Any, *arguments: Any, **options: Any) -> Any:
    with store.database.plain() as connection:
        return function(connection, *arguments, **options)


def test_a_census_tells_what_is_ready_delayed_blocked_in_hand_and_finished(store: Store):
    register(store)
    put(store, "a", job("b", worker="shop.sell", queue="shop"), job("c", initial_delay=60), job("d", initial_delay=90))
    move(store, SECOND)
    put(store, "e", "f", "g")
    put_chain(store, "h", "i", "j")
    succeed(store, "e")
    fail(store, "h")
    start(store, take_one(store, "f"))
    take_one(store, "g")
    assert look(store, census) == Census(
        ready=(Pile(State.ENQUEUED, Q, W, 1, START), Pile(State.ENQUEUED, "shop", "shop.sell", 1, START)),
        paused=(),
        delayed=(Pile(State.ENQUEUED, Q, W, 2, START + 60 * SECOND),),
        blocked=(),
        in_hand=(
            Pile(State.ENQUEUED, Q, W, 1, START + SECOND, "node"),
            Pile(State.RUNNING, Q, W, 1, START + SECOND, "node"),
        ),
        finished={State.SUCCEEDED: 1, State.FAILED: 3},
        capped=frozenset(),
    )


def test_the_census_of_an_empty_store_is_empty(store: Store):
    found = look(store, census)
    assert found.states == dict.fromkeys(State, 0)
    assert found.lower_bounds == frozenset()


def test_nothing_is_counted_beyond_the_cap_and_the_census_says_where(store: Store):
    put(store, *(f"r{n}" for n in range(5)), job("alone", queue="other"))
    put(store, *(job(f"d{n}", initial_delay=60 + n) for n in range(5)))
    put_chain(store, "first", [f"b{n}" for n in range(5)])
    put(store, *(f"f{n}" for n in range(5)))
    succeed(store, *(f"f{n}" for n in range(3)))
    fail(store, "f3", "f4")
    found = look(store, census, most=3)
    assert {pile.queue: pile.number for pile in found.ready} == {Q: 3, "other": 1}
    assert [pile.number for pile in found.delayed] == [3]
    assert [pile.number for pile in found.blocked] == [3]
    assert sum(found.finished.values()) == 3
    assert found.capped == {"ready", "delayed", "blocked", "finished"}
    assert found.lower_bounds == set(State) - {State.RUNNING}
    exact = look(store, census, most=6)
    assert exact.capped == frozenset()
    assert exact.states[State.ENQUEUED] == 12


def test_several_lanes_together_may_hold_more_than_the_cap_of_each(store: Store):
    put(store, *(job(f"a{n}", queue="a") for n in range(3)), *(job(f"b{n}", queue="b") for n in range(3)))
    found = look(store, census, most=3)
    assert found.states[State.ENQUEUED] == 6
    assert found.capped == frozenset()


def test_a_family_is_everything_connected_up_and_down(store: Store):
    put_chain(store, "a", ["b", "c"], "d")
    enqueue(store, step("x"), step("y", after=("x", "c")))
    put(store, "stranger")
    children = {"a": ["b", "c"], "b": ["d"], "c": ["d", "y"], "d": [], "x": ["y"], "y": []}
    for root in children:
        assert look(store, family, [root]) == (children, False) or set(look(store, family, [root])[0]) == set(children)
        assert look(store, family, [root])[0] == children
    assert look(store, family, ["stranger", "nobody"]) == ({"stranger": []}, False)
    assert look(store, family, []) == ({}, False)


def test_of_a_large_family_the_nearest_are_given(store: Store):
    put_chain(store, *"abcdefg")
    assert look(store, family, ["d"], most=3) == ({"d": ["e"], "c": ["d"], "e": []}, True)
    assert look(store, family, ["d"], most=7)[1] is False


def test_dependents_are_the_direct_ones(store: Store):
    put_chain(store, "a", ["b", "c"], "d")
    assert look(store, dependents, "a") == ["b", "c"]
    assert look(store, dependents, "a", most=1) == ["b"]
    assert look(store, dependents, "d") == []


@pytest.fixture
def forest(store: Store) -> Store:
    """Chains of which some works are finished, with a tag and a name."""
    put_chain(store, "a", ["b", "c"], "d")
    put_named(store, "import", KEEP, job("n1"), job("n2"))
    enqueue(store, step("n1"), step("n3", after=("n1",)))
    put(store, job("t1", tags={"x"}), job("t2", tags={"x"}), "lonely")
    enqueue(store, step("t1"), step("t3", after=("t1",)))
    succeed(store, "a", "t2")
    fail(store, "n2")
    return store


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"ids": ["b"]}, ["b", "d"]),
        ({"ids": ["a"]}, ["b", "c", "d"]),
        ({"ids": ["d", "lonely", "nobody"]}, ["d", "lonely"]),
        ({"ids": ["n2"]}, []),
        ({"tag": "x"}, ["t1", "t3"]),
        ({"tag": W}, ["b", "c", "d", "lonely", "n1", "n3", "t1", "t3"]),
        ({"unique_name": "import"}, ["n1", "n3"]),
        ({"unique_name": "export"}, []),
        ({}, ["b", "c", "d", "lonely", "n1", "n3", "t1", "t3"]),
    ],
)
def test_what_a_cancel_would_cancel_is_what_it_cancels(forest: Store, which: dict[str, Any], expected: list[str]):
    before = states(forest)
    assert look(forest, to_cancel, **which) == (expected, False)
    assert states(forest) == before
    if "ids" in which:
        cancelled = {each for work_id in which["ids"] for each in forest.cancel(work_id)}
    elif which:
        cancelled = set(forest.cancel_matching(**which))
    else:
        cancelled = set(forest.cancel_all())
    assert sorted(cancelled) == expected


def test_unfinished_works_are_given_in_the_order_in_which_they_move(store: Store):
    put(store, "ready", "held", job("soon", initial_delay=60), job("later", initial_delay=90), "done")
    put_chain(store, "first", "blocked")
    succeed(store, "done", "first")
    put_chain(store, "second", "waits")
    take_one(store, "held")
    order = ["held", "blocked", "ready", "second", "soon", "later", "waits"]
    found = look(store, unfinished, 10)
    held, *ready, soon, later, waits = found
    assert [held, *sorted(ready), soon, later, waits] == order
    assert found == {each: info(store, each).version for each in order}
    assert [len(look(store, unfinished, most)) for most in (1, 5, 7)] == [1, 5, 7]


def test_what_a_cancel_would_cancel_is_listed_up_to_the_cap(store: Store):
    put(store, *(f"w{n}" for n in range(5)))
    assert look(store, to_cancel, most=3) == (["w0", "w1", "w2"], True)
    assert look(store, to_cancel, most=5) == (["w0", "w1", "w2", "w3", "w4"], False)


def test_what_a_prune_would_delete_is_what_it_deletes(store: Store):
    put_chain(store, "a", "b")
    put(store, "c", "d", "e")
    succeed(store, "a", "c")  # "a" stays for "b"
    fail(store, "d")
    store.cancel("e")
    assert look(store, to_prune, None) == ({State.SUCCEEDED: 1, State.FAILED: 1, State.CANCELLED: 1}, False)
    assert look(store, to_prune, None, most=2) == ({State.SUCCEEDED: 0, State.FAILED: 1, State.CANCELLED: 1}, True)
    assert look(store, to_prune, store.clock.now()) == ({}, False)
    assert store.prune(only_expired=False) == 3
    assert rows_of(store, "work") == 2


def test_a_database_that_may_forget_is_noticed(store: Store):
    asked = look(store, carelessness)
    if store.database.dialect == "postgresql":  # the tests' own database doesn't wait for the disk
        assert asked == ["synchronous_commit = off"]
    elif store.database.is_sqlite:
        assert asked == []
    else:  # how the server of the tests is set is its own affair
        assert [each.split(" = ")[0] for each in asked] in ([], ["innodb_flush_log_at_trx_commit"])


# MariaDB reads the whole of so small a store, if half of it is asked for.
@pytest.mark.parametrize("store_address", FEW_STORES, indirect=True)
def test_a_look_at_a_full_store_reads_no_whole_table(store: Store):
    query_plans.fill(store, 20_000)
    register(store)
    looks: list[Callable[[], Any]] = [
        lambda: look(store, census),
        lambda: look(store, to_prune, None),
        lambda: look(store, family, ["w00002006"]),
        lambda: look(store, to_cancel, tag="tag 9"),
        lambda: look(store, to_cancel, unique_name="name 5000"),
        lambda: look(store, unfinished, 1000),
        lambda: store.work_infos(WorkQuery(states=[State.RUNNING], limit=50)),
        lambda: store.work_infos(WorkQuery(nodes=["node"], limit=50, newest_first=True)),
        lambda: store.work_infos(WorkQuery(limit=50, newest_first=True)),
    ]
    with query_plans.recorded(store) as statements:
        for each in looks:
            each()
    with store.database.plain() as connection:
        plans = [query_plans.explained(connection, *statement) for statement in statements]
    assert len(plans) > len(looks)
    assert [f"{each.statement}\n{each.plan}" for each in plans if each.reads_a_whole_table] == []
