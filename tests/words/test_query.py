"""Queries: values become checked tuples."""

from __future__ import annotations

import uuid

import pytest

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.query import WorkQuery
from celery_workmanager.work import State


def test_an_empty_query_asks_for_everything():
    query = WorkQuery()
    assert (query.ids, query.unique_names, query.tags, query.states) == ((), (), (), ())
    assert (query.queues, query.workers, query.nodes) == ((), (), ())
    assert query.limit is None
    assert query.after is None
    assert query.newest_first is False


def test_values_are_kept_once_and_in_order():
    some = uuid.uuid4()
    query = WorkQuery(ids=[some, "a", str(some)], states={State.FAILED}, tags=iter("ba"), limit=5, after=some)
    assert query.ids == (str(some), "a")
    assert query.states == (State.FAILED,)
    assert query.tags == ("b", "a")
    assert WorkQuery(queues=["q", "q"], workers=["w"], nodes=("n",)).queues == ("q",)
    assert query.after == str(some)


def test_short_forms_take_the_values_of_one_field():
    assert WorkQuery.from_ids("a", "b") == WorkQuery(ids=["a", "b"])
    assert WorkQuery.from_states(State.RUNNING) == WorkQuery(states=[State.RUNNING])
    assert WorkQuery.from_tags("a") == WorkQuery(tags=["a"])
    assert WorkQuery.from_unique_names("n") == WorkQuery(unique_names=["n"])
    assert hash(WorkQuery.from_tags("a")) == hash(WorkQuery(tags=["a"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": "abc"},
        {"ids": [""]},
        {"ids": 5},
        {"states": [1]},
        {"states": ["FAILED"]},
        {"tags": [None]},
        {"unique_names": [""]},
        {"queues": "q"},
        {"workers": [""]},
        {"nodes": [1]},
        {"limit": 0},
        {"limit": True},
        {"limit": 1.5},
        {"after": ""},
    ],
)
def test_what_cannot_be_asked_for_is_refused(wrong):
    with pytest.raises(InvalidRequest, match=r"expected .* to be .*, got: "):
        WorkQuery(**wrong)
