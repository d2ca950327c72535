"""A look and a claim in one statement: it claims only what a look would have led to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from celery_workmanager.constraints import Constraints
from celery_workmanager.lanes import lanes_of
from celery_workmanager.limits import Limit
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.store import Store, pausing
from tests.stores import (
    HOUR,
    QUEUE,
    WORKER,
    holding,
    job,
    make_store,
    move,
    put,
    put_chain,
    register,
    row,
    succeed,
    take,
)

BOTH = (WORKER, "other")


def prompt(store: Store, limit: int = 10, workers: Sequence[str] = BOTH) -> tuple[list[str], bool]:
    """The ids of what is claimed promptly, and whether that was all."""
    claims, were_all = store.claim_promptly(lanes_of([QUEUE], workers), "node", 77, limit)
    return [claim.id for claim in claims], were_all


def test_the_most_urgent_and_oldest_of_all_own_lanes_are_claimed(postgresql: Store):
    put(postgresql, "a", job("b", "other"), job("c", priority=9), "d", job("later", initial_delay=60))
    assert prompt(postgresql, 3) == (["c", "a", "b"], False)
    assert (row(postgresql, "b").node, row(postgresql, "b").token, row(postgresql, "b").ready_lane) == (
        "node",
        77,
        None,
    )
    assert prompt(postgresql, 3) == (["d"], True)
    assert prompt(postgresql, 3) == ([], False)


@pytest.mark.parametrize(
    "elsewhere",
    [
        job("b", "foreign"),
        job("b", constraints=Constraints(node_labels=("zone=here",))),
        job("b", concurrency=Limit("oven", 1)),
    ],
    ids=["of another worker", "with a constraint", "under a limit"],
)
def test_nothing_is_claimed_before_what_only_a_look_can_judge(postgresql: Store, elsewhere):
    put(postgresql, "a", elsewhere)
    assert prompt(postgresql) == ([], False)
    assert [claim.id for claim in take(postgresql)] == ["a"]


@pytest.mark.parametrize(
    "target",
    [PauseTarget(PauseKind.QUEUE, QUEUE), PauseTarget(PauseKind.TAG, WORKER), PauseTarget(PauseKind.NODE, "w@host")],
    ids=["the queue", "the worker", "the node"],
)
def test_nothing_is_claimed_while_something_is_paused(postgresql: Store, target: PauseTarget):
    register(postgresql)
    put(postgresql, "a")
    pausing.pause(postgresql, target)
    assert prompt(postgresql) == ([], False)
    pausing.resume(postgresql, target)
    assert prompt(postgresql) == (["a"], True)


def test_what_others_hold_and_what_has_expired_is_passed_over(postgresql: Store):
    put(postgresql, "a", job("b", expires=60), "c")
    move(postgresql, HOUR)
    with holding(postgresql, "a"):
        assert prompt(postgresql) == (["c"], True)
    assert prompt(postgresql) == (["a"], True)


def test_a_claim_brings_the_outputs_of_its_prerequisites(postgresql: Store):
    put_chain(postgresql, "a", "b")
    succeed(postgresql, "a", output='{"loaves": 3}')
    (claim,), _ = postgresql.claim_promptly(lanes_of([QUEUE], BOTH), "node", 77, 10)
    assert (claim.id, claim.inputs[-1]) == ("b", '{"loaves": 3}')


def test_a_node_without_lanes_claims_nothing(postgresql: Store):
    put(postgresql, "a")
    assert prompt(postgresql, workers=()) == ([], False)


def test_on_other_databases_a_node_looks_first():
    store = make_store("sqlite://")
    put(store, "a")
    assert prompt(store) == ([], False)
    store.close()
