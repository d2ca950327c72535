"""Reads for people, and the key-value tables."""

from __future__ import annotations

import json

import pytest

from celery_workmanager import queries
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.stores import (
    KEEP,
    fail,
    info,
    job,
    move,
    put,
    put_chain,
    put_named,
    register,
    rows_of,
    states,
    succeed,
    take,
)


@pytest.fixture
def library(store: Store) -> Store:
    """Six works: two names, two tags, two workers, four states."""
    put_named(store, "red", KEEP, job("a", tags={"x"}), job("b", tags={"x", "y"}))
    put_named(store, "blue", KEEP, job("c", worker="shop.sell", tags={"y"}), job("d", worker="shop.sell"))
    put_chain(store, "e", "f")
    succeed(store, "a")
    fail(store, "c")
    return store


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (WorkQuery(), "abcdef"),
        (WorkQuery.from_ids("a", "f", "nobody"), "af"),
        (WorkQuery.from_unique_names("red", "blue"), "abcd"),
        (WorkQuery.from_unique_names("green"), ""),
        (WorkQuery.from_tags("x"), "ab"),
        (WorkQuery.from_tags("x", "y"), "abc"),
        (WorkQuery.from_tags("shop.sell"), "cd"),
        (WorkQuery.from_tags("x", "shop.sell"), "abcd"),
        (WorkQuery.from_states(State.ENQUEUED), "bde"),
        (WorkQuery.from_states(State.SUCCEEDED, State.FAILED, State.BLOCKED), "acf"),
        (WorkQuery(tags=("y",), states=(State.ENQUEUED,)), "b"),
        (WorkQuery(unique_names=("blue",), tags=("y", "x")), "c"),
        (WorkQuery(ids=("a", "b", "c"), unique_names=("red",), tags=("y",), states=(State.ENQUEUED,)), "b"),
        (WorkQuery(ids=("a", "b"), unique_names=("blue",)), ""),
        (WorkQuery(limit=2), "ab"),
        (WorkQuery(limit=2, after="b"), "cd"),
        (WorkQuery(tags=("shop.bake",), after="a", limit=2), "be"),
        (WorkQuery(after="f"), ""),
        (WorkQuery(workers=["shop.sell"]), "cd"),
        (WorkQuery(queues=["celery"], states=[State.FAILED]), "c"),
        (WorkQuery(queues=["nowhere"]), ""),
        (WorkQuery(nodes=["node"]), ""),
        (WorkQuery(newest_first=True), "fedcba"),
        (WorkQuery(newest_first=True, after="d", limit=2), "cb"),
    ],
)
def test_a_query_is_any_of_each_field_and_all_fields_together_in_the_order_of_ids(
    library: Store, query: WorkQuery, expected: str
):
    assert [each.id for each in library.work_infos(query)] == list(expected)
    assert list(library.versions(query)) == list(expected)


def test_a_list_of_more_than_one_chunk_has_the_tags_and_names_of_each(store: Store):
    put_named(store, "many", KEEP, *(job(f"w{n:04}", tags={f"t{n}"}) for n in range(1100)))
    found = store.work_infos(WorkQuery.from_unique_names("many"))
    assert [each.id for each in found] == [f"w{n:04}" for n in range(1100)]
    assert all(each.tags == {"shop.bake", f"t{n}"} and each.unique_names == ("many",) for n, each in enumerate(found))


def test_a_work_may_have_several_names(store: Store):
    put_named(store, "two", KEEP, "a")
    put_named(store, "one", KEEP, "a")
    assert info(store, "a").unique_names == ("one", "two")


def test_an_info_names_the_node_that_holds_the_work(store: Store):
    put(store, "a")
    register(store)
    take(store)
    assert info(store, "a").node == "node"


def test_works_are_found_by_the_node_that_holds_them_and_by_the_name_of_its_worker(store: Store):
    put(store, "a", "b")
    register(store)
    take(store, 1)
    for node in ("node", "w@host"):
        assert [each.id for each in store.work_infos(WorkQuery(nodes=[node]))] == ["a"]
    assert store.work_infos(WorkQuery(nodes=["another"])) == []


def test_an_info_is_json(library: Store):
    for each in library.work_infos(WorkQuery()):
        assert json.loads(json.dumps(each.to_dict()))["id"] == each.id


def test_every_change_of_a_work_raises_its_version(store: Store):
    put_chain(store, "a", "b")
    seen = [store.versions(WorkQuery())]
    for change in (
        lambda: store.update(job("a", priority=1), "celery"),
        lambda: store.cancel("a"),
    ):
        change()
        seen.append(store.versions(WorkQuery()))
    assert [each["a"] for each in seen] == sorted({each["a"] for each in seen})
    assert seen[-1]["b"] > seen[0]["b"]


def test_the_counts_by_state_are_exact(library: Store):
    with library.database.plain() as connection:
        counts = queries.counts(connection)
    assert counts == {State.ENQUEUED: 3, State.SUCCEEDED: 1, State.FAILED: 1, State.BLOCKED: 1}
    assert len(states(library)) == 6


# -- results of ordinary tasks -------------------------------------------------------------------------------


def test_a_result_is_kept_replaced_and_forgotten(store: Store):
    store.put_result("k", "one", None)
    store.put_result("k", "two", None)
    store.put_result("other", "three", None)
    assert store.results(["k", "other", "nobody"]) == {"k": "two", "other": "three"}
    store.forget_result("k")
    assert store.results(["k"]) == {}
    assert store.results([]) == {}


def test_a_result_has_a_lifetime(store: Store):
    store.put_result("k", "one", 10 * SECOND)
    move(store, 10 * SECOND - 1)
    assert store.results(["k"]) == {"k": "one"}
    move(store, 1)
    assert store.results(["k"]) == {}
    store.put_result("other", "two", 1)
    assert store.prune_results() == 1
    assert rows_of(store, "result") == 1
    assert store.results(["other"]) == {"other": "two"}


def test_an_empty_store_has_nothing(library: Store):
    library.put_result("k", "one", None)
    library.empty()
    assert states(library) == {}
    assert library.results(["k"]) == {}
    assert library.last_cancel_all() == 0
    assert library.next_moment() is None
    assert library.ready_lanes() == []
