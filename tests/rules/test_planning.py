"""Policies against what exists, and what a whole enqueue stores: WorkManager's table row by row."""

from __future__ import annotations

import pytest

from celery_workmanager.lifecycle import state_at_insertion
from celery_workmanager.planning import Member, NamePlan, Step, plan_insertion, plan_name
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.work import State

REPLACE, KEEP = ExistingWorkPolicy.REPLACE, ExistingWorkPolicy.KEEP
APPEND, APPEND_OR_REPLACE = ExistingWorkPolicy.APPEND, ExistingWorkPolicy.APPEND_OR_REPLACE
E, R, S, F, B, C = (
    State.ENQUEUED,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.BLOCKED,
    State.CANCELLED,
)


def chain(*members: str) -> list[Member]:
    """Members by their states' initials; a capital letter is a leaf."""
    states = {"e": E, "r": R, "s": S, "f": F, "b": B, "c": C}
    return [Member(f"{at}{each}", states[each.lower()], each.isupper()) for at, each in enumerate(members)]


def outcome(policy: ExistingWorkPolicy, members: list[Member]) -> str:
    """What becomes of the name in one word, and the state of a new work."""
    plan = plan_name(policy, members)
    if plan.keep:
        assert plan == NamePlan(keep=True)
        return "keep"
    if plan.delete:
        assert plan == NamePlan(delete=tuple(member.id for member in members))
        return "replace"
    states = {member.id: member.state for member in members}
    assert set(plan.parents) == {member.id for member in members if member.is_leaf}
    return state_at_insertion(states[parent] for parent in plan.parents).name


ROWS = [
    # existing chain, REPLACE, KEEP, APPEND, APPEND_OR_REPLACE
    ("", "ENQUEUED", "ENQUEUED", "ENQUEUED", "ENQUEUED"),
    ("E", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("R", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("rB", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("eBB", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("sE", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("B", "replace", "replace", "BLOCKED", "BLOCKED"),
    ("bB", "replace", "replace", "BLOCKED", "BLOCKED"),
    ("sB", "replace", "replace", "BLOCKED", "BLOCKED"),
    ("S", "replace", "replace", "ENQUEUED", "ENQUEUED"),
    ("sSS", "replace", "replace", "ENQUEUED", "ENQUEUED"),
    ("F", "replace", "replace", "FAILED", "replace"),
    ("sF", "replace", "replace", "FAILED", "replace"),
    ("C", "replace", "replace", "CANCELLED", "replace"),
    ("sSC", "replace", "replace", "CANCELLED", "replace"),
    ("SF", "replace", "replace", "FAILED", "replace"),
    ("CF", "replace", "replace", "FAILED", "replace"),
    ("RF", "replace", "keep", "FAILED", "replace"),
    ("RC", "replace", "keep", "CANCELLED", "replace"),
    ("BC", "replace", "replace", "CANCELLED", "replace"),
    ("RS", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("fE", "replace", "keep", "BLOCKED", "BLOCKED"),
    ("e", "replace", "keep", "ENQUEUED", "ENQUEUED"),
    ("bb", "replace", "replace", "ENQUEUED", "ENQUEUED"),
    ("fc", "replace", "replace", "ENQUEUED", "ENQUEUED"),
]


@pytest.mark.parametrize(
    ("existing", "policy", "expected"),
    [
        pytest.param(row[0], policy, expected, id=f"{row[0] or 'nothing'}-{policy.name}")
        for row in ROWS
        for policy, expected in zip((REPLACE, KEEP, APPEND, APPEND_OR_REPLACE), row[1:], strict=True)
    ],
)
def test_a_policy_decides_by_the_states_of_the_works_and_leaves_of_its_name(existing, policy, expected):
    assert outcome(policy, chain(*existing)) == expected


# -- what an enqueue stores --------------------------------------------------------------------------------------


def request(name: str) -> OneTimeWorkRequest:
    return OneTimeWorkRequest("x", id=name)


def step(*names: str, after: str = "", name: str | None = None, policy: ExistingWorkPolicy = KEEP) -> Step:
    return Step(tuple(map(request, names)), tuple(after), name, policy)


def stored(*steps: Step, names: dict[str, NamePlan] | None = None, known: dict[str, State] | None = None):
    insertion = plan_insertion(steps, names or {}, known or {})
    works = {new.request.id: (new.state, new.parents, new.unfinished_parents) for new in insertion.works}
    return works, insertion.skipped, [each.id for each, _ in insertion.existing]


def test_works_without_prerequisites_are_enqueued_and_later_steps_wait_for_every_work_before():
    works, skipped, _ = stored(step("a", "b"), step("c", "d", after="ab"), step("e", after="cd"))
    assert works == {
        "a": (E, (), 0),
        "b": (E, (), 0),
        "c": (B, ("a", "b"), 2),
        "d": (B, ("a", "b"), 2),
        "e": (B, ("c", "d"), 2),
    }
    assert skipped == ()


def test_a_first_step_of_a_name_depends_on_the_leaves_it_appends_to():
    plan = NamePlan(parents=("p", "q"))
    works, *_ = stored(step("a", name="n", policy=APPEND), names={"n": plan}, known={"p": S, "q": R})
    assert works == {"a": (B, ("p", "q"), 1)}


@pytest.mark.parametrize(("leaf", "state"), [(F, F), (C, C), (S, E), (B, B)])
def test_what_is_appended_inherits_the_leaf_and_so_does_what_follows(leaf, state):
    works, *_ = stored(
        step("a", name="n", policy=APPEND),
        step("b", after="a", name="n"),
        names={"n": NamePlan(parents=("p",))},
        known={"p": leaf},
    )
    assert works["a"][0] is state
    assert works["b"][0] is (state if state in (F, C) else B)


def test_a_kept_name_swallows_the_rest_of_its_chain_and_whatever_joins_it():
    works, skipped, _ = stored(
        step("a", "b", name="n"),
        step("c", after="ab", name="n"),
        step("x"),
        step("j", after="cx"),
        names={"n": NamePlan(keep=True)},
    )
    assert list(works) == ["x"]
    assert skipped == ("a", "b", "c", "j")


def test_a_step_whose_prerequisite_is_not_stored_is_left_out():
    works, skipped, _ = stored(step("b", after="a"), known={})
    assert (works, skipped) == ({}, ("b",))


def test_a_later_step_follows_what_an_earlier_enqueue_stored():
    assert stored(step("b", after="a"), known={"a": S})[0] == {"b": (E, ("a",), 0)}
    assert stored(step("b", after="a"), known={"a": R})[0] == {"b": (B, ("a",), 1)}


def test_a_work_that_exists_is_neither_restarted_nor_changed():
    works, skipped, existing = stored(step("a"), step("b", after="a"), known={"a": S})
    assert works == {"b": (E, ("a",), 0)}
    assert skipped == ("a",)
    assert existing == ["a"]
