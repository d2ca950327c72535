"""What follows a work that ended badly, and works that put others in their place: on both stores, and who loses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_workmanager.call import AFTERMATH_WORKER, Call
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.query import WorkQuery
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store import Store
from celery_workmanager.wire import request_to_json
from tests.stores import end, enqueue, put, row, states, step, take, take_one

ERRBACK = {"errback": {"task": "e"}}
ALWAYS = {"always": {"report": {"id": "r"}}}


def call(name: str, **facts: Any) -> OneTimeWorkRequest:
    return OneTimeWorkRequest("x", id=name, call=Call('{"args": [1], "kwargs": {"b": 2}}', facts=json.dumps(facts)))


def aftermath(store: Store) -> list[dict[str, Any]]:
    """What the works of the aftermath were told, in the order of their ids."""
    return [info.input_data.to_dict() for info in store.work_infos(WorkQuery(tags=[AFTERMATH_WORKER]))]


def test_a_failed_work_leaves_a_work_for_each_of_its_errbacks(store: Store):
    put(store, call("a", errbacks=[ERRBACK, ALWAYS], root="r"))
    end(store, take_one(store, "a"), ending=Ending.FAILED, error='{"exc_type": "E", "message": "m"}')
    first, second = aftermath(store)
    assert (first["entry"], second["entry"], first["state"]) == (ERRBACK, ALWAYS, "FAILED")
    assert first["failed"] == {"id": "a", "task": "x", "facts": {"root": "r"}, "args": [1], "kwargs": {"b": 2}}
    assert first["error"]["exc_type"] == "E"


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.RETRY, Ending.STOPPED, Ending.GIVEN_BACK])
def test_no_other_ending_needs_them(store: Store, ending: Ending):
    put(store, call("a", errbacks=[ERRBACK, ALWAYS]))
    end(store, take_one(store, "a"), ending=ending)
    assert aftermath(store) == []


def test_of_a_cancelled_work_only_those_are_told_that_wait_elsewhere(store: Store):
    put(store, call("a", errbacks=[ERRBACK, ALWAYS]))
    store.cancel("a")
    (told,) = aftermath(store)
    assert (told["entry"], told["state"], told["error"]) == (ALWAYS, "CANCELLED", None)


def test_a_cancelled_work_is_not_told_of_again_when_one_before_it_fails(store: Store):
    enqueue(store, step(call("a")), step(call("b", errbacks=[ALWAYS]), after=("a",)))
    store.cancel("b")
    end(store, take_one(store, "a"), ending=Ending.FAILED)
    (told,) = aftermath(store)
    assert told["state"] == "CANCELLED"


def test_a_run_that_lost_its_work_leaves_nothing(store: Store):
    put(store, call("a", errbacks=[ERRBACK]))
    claim = take_one(store, "a")
    store.cancel("a")
    settled = end(store, claim, ending=Ending.FAILED)
    assert (settled.stale, aftermath(store)) == ({"a"}, [])


def plan(*works: tuple[OneTimeWorkRequest, list[str]]) -> str:
    return json.dumps(
        [
            {"worker": request.worker_name, "request": request_to_json(request), "queue": "celery", "parents": parents}
            for request, parents in works
        ]
    )


def replaced(store: Store, claim: Claim) -> Any:
    return end(store, claim, ending=Ending.REPLACED, output=plan((call("b"), []), (call("a", nesting=1), ["b"])))


def test_a_replaced_work_waits_for_the_works_before_it_and_its_child_for_it(store: Store):
    enqueue(store, step(call("a")), step(call("c"), after=("a",)))
    replaced(store, take_one(store, "a"))
    assert states(store) == {"a": "BLOCKED", "b": "ENQUEUED", "c": "BLOCKED"}
    for name in ("b", "a", "c"):
        end(store, take_one(store, name))
    assert set(states(store).values()) == {"SUCCEEDED"}


def test_a_work_may_be_replaced_by_one_call_and_starts_afresh(store: Store):
    put(store, call("a"))
    for _ in range(2):
        end(store, take_one(store, "a"), ending=Ending.RETRY, after=0)
    end(store, take_one(store, "a"), ending=Ending.REPLACED, output=plan((call("a", nesting=1), [])))
    found = row(store, "a")
    assert (states(store), found.run_attempt_count, found.token) == ({"a": "ENQUEUED"}, 0, None)
    assert json.loads(found.options)["call"] == {"nesting": 1}


def test_a_run_that_lost_its_work_replaces_nothing(store: Store):
    put(store, call("a"))
    claim = take_one(store, "a")
    store.cancel("a")
    assert replaced(store, claim).stale == {"a"}
    assert states(store) == {"a": "CANCELLED"}
    assert take(store) == []
