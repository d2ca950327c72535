"""Works that an end unblocks are claimed with it by the node that writes it, if it may and has room."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager.lanes import lanes_of
from celery_workmanager.limits import Limit
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store import Settled, Store, Taker, pausing
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.stores import (
    QUEUE,
    WORKER,
    end,
    enqueue,
    job,
    move,
    put_chain,
    register,
    row,
    start,
    state,
    step,
    take,
    take_one,
    verdicts,
)

OWN_LANES = lanes_of([QUEUE], [WORKER])


def settle(
    store: Store, *claims: Claim, room: int = 2, ending: Ending = Ending.SUCCEEDED, **outcome: object
) -> Settled:
    """Settle these as a node that has room for what follows."""
    return store.settle(verdicts(store, claims, ending, **outcome), Taker("node", 77, OWN_LANES, room))


def after(store: Store, request: OneTimeWorkRequest) -> Claim:
    """Enqueue `request` after a work "a"; the claim of that."""
    enqueue(store, step("a"), step(request, after=("a",)))
    return take_one(store, "a")


def test_a_link_of_a_chain_is_claimed_with_the_end_of_the_one_before(store: Store):
    put_chain(store, "a", "b", "c")
    settled = settle(store, take_one(store, "a"), output='{"loaves": 3}')
    (claim,) = settled.claims
    assert (settled.accepted, settled.unblocked) == ({"a"}, 1)
    assert (claim.id, claim.node, claim.token, claim.has_children) == ("b", "node", 77, True)
    assert claim.inputs == [row(store, "b").input, '{"loaves": 3}']
    assert store.owned("node") == {"b": 77}
    found = row(store, "b")
    assert (found.state, found.waits_for, found.ready_lane) == (State.ENQUEUED, None, None)
    assert (found.enqueued_at, found.run_at, found.version) == (store.clock.now(), store.clock.now(), 2)
    assert take(store) == []
    assert [each.id for each in settle(store, claim).claims] == ["c"]


def test_it_is_the_claim_that_others_would_make(store: Store):
    put_chain(store, "a", "b")
    put_chain(store, "x", "y")
    (first,) = settle(store, take_one(store, "a"), output='{"n": 1}').claims
    end(store, take_one(store, "x"), output='{"n": 1}')
    (second,) = take(store, token=77)
    for name in Claim.__slots__:
        if name not in ("id", "told"):
            assert getattr(first, name) == getattr(second, name), name


def test_a_join_is_claimed_with_the_last_of_its_parents_and_the_outputs_of_all(store: Store):
    put_chain(store, ["a", "b", "c"], "join")
    a, b, c = (take_one(store, each) for each in "abc")
    assert settle(store, b, output='{"n": 2}').claims == []
    assert row(store, "join").waits_for == 2
    (claim,) = settle(store, a, c, output='{"n": 9}').claims
    assert claim.inputs[1:] == ['{"n": 9}', '{"n": 2}', '{"n": 9}']


def test_of_more_than_there_is_room_for_none_is_claimed(store: Store):
    put_chain(store, "a", ["b", "c", "d"])
    settled = settle(store, take_one(store, "a"), room=2)
    assert (settled.claims, settled.unblocked) == ([], 3)
    assert [each.id for each in take(store)] == ["b", "c", "d"]


def test_as_many_as_there_is_room_for_are_claimed(store: Store):
    put_chain(store, "a", ["b", "c"])
    assert sorted(each.id for each in settle(store, take_one(store, "a"), room=2).claims) == ["b", "c"]
    assert take(store) == []


@pytest.mark.parametrize(
    "options",
    [
        {"worker": "shop.other"},
        {"queue": "other"},
        {"initial_delay": timedelta(seconds=5)},
        {"concurrency": Limit("oven", 1)},
        {"expires": timedelta(seconds=1)},
        {"expedited": OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_takes_more_than_room_is_left_to_the_usual_way(store: Store, options: dict[str, Any]):
    first = after(store, job("b", **options))
    store.clock.move(2 * SECOND)  # type: ignore[attr-defined]
    settled = settle(store, first)
    assert (settled.claims, settled.unblocked) == ([], 1)
    assert row(store, "b").node is None
    assert state(store, "b") is State.ENQUEUED
    move(store, 5 * SECOND)
    lanes = store.ready_lanes()
    found = store.claim_limited(lanes, "node", 1, 1) if "concurrency" in options else store.claim(lanes, "node", 1, 1)
    assert [each.id for each in found] == ([] if "expires" in options else ["b"])


@pytest.mark.parametrize(
    "target",
    [PauseTarget(PauseKind.QUEUE, QUEUE), PauseTarget(PauseKind.TAG, "bread"), PauseTarget(PauseKind.NODE, "w@host")],
    ids=lambda target: target.kind.value,
)
def test_nothing_paused_is_claimed(store: Store, target: PauseTarget):
    register(store)
    first = after(store, job("b", tags={"bread"}))
    pausing.pause(store, target)
    settled = settle(store, first)
    assert (settled.claims, settled.unblocked) == ([], 1)
    assert row(store, "b").node is None
    pausing.resume(store, target)
    assert [each.id for each in take(store)] == ["b"]


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.RETRY, Ending.STOPPED])
def test_only_a_success_unblocks(store: Store, ending: Ending):
    first = after(store, job("b"))
    settled = settle(store, first, ending=ending)
    assert (settled.claims, settled.unblocked) == ([], 0)
    assert row(store, "b").node is None


def _lose(store: Store, claim: Claim) -> Claim:
    claim.token += 1
    return claim


def _cancel(store: Store, claim: Claim) -> Claim:
    store.cancel("b")
    return claim


@pytest.mark.parametrize(("change", "unblocked"), [(_lose, 0), (_cancel, 0)])
def test_what_has_changed_meanwhile_is_seen(store: Store, change: Callable[[Store, Claim], Claim], unblocked: int):
    settled = settle(store, change(store, after(store, job("b"))))
    assert (settled.unblocked, settled.claims) == (unblocked, [])
    assert settled.accepted == (set() if change is _lose else {"a"})
    assert state(store, "b") is (State.BLOCKED if change is _lose else State.CANCELLED)


def test_a_run_that_was_written_as_running_ends_like_one_that_was_not(store: Store):
    for name in ("a", "x"):
        enqueue(store, step(name), step(f"{name}-child", after=(name,)))
    slow, brief = take_one(store, "a"), take_one(store, "x")
    start(store, slow)
    slow.start_written = True
    assert sorted(each.id for each in settle(store, slow, brief).claims) == ["a-child", "x-child"]
    assert [(row(store, each).runs, row(store, each).run_attempt_count) for each in ("a", "x")] == [(1, 1), (1, 1)]


def test_a_work_with_an_output_of_many_characters_passes_it_on(store: Store):
    text = json.dumps({"text": "ä\n\t\"' \\ 𝄞" * 1000})
    (claim,) = settle(store, after(store, job("b")), output=text).claims
    assert claim.inputs[1] == text
