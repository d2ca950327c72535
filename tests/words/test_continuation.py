"""Chains: how they grow, join, are stored once, and may not bite their own tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.continuation import COMBINE_WORKER, WorkContinuation, check_acyclic
from celery_workmanager.errors import CyclicChain, DuplicateWorkId, InvalidRequest
from celery_workmanager.mergers import ArrayCreatingInputMerger
from celery_workmanager.operation import Operation
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.work import State, WorkInfo


class Recorder:
    """Stores nothing and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[WorkContinuation, Any]] = []
        self.broken = False

    def enqueue_continuation(self, continuation: WorkContinuation, connection: Any = None) -> Operation:
        if self.broken:
            raise ConnectionError
        self.calls.append((continuation, connection))
        return Operation(applied=True, ids=continuation.ids)

    def infos_of(self, ids: Sequence[str]) -> list[WorkInfo]:
        return [WorkInfo(id=one, state=State.ENQUEUED, worker_name="x") for one in ids]

    def canvas_of(self, continuation: WorkContinuation) -> Any:
        return ("canvas", continuation)

    def continuation_of(self, signature: Mapping[str, Any]) -> WorkContinuation:
        return WorkContinuation((work(signature["task"]),), self)


def work(name: str) -> OneTimeWorkRequest:
    return OneTimeWorkRequest("x", id=name)


def begin(*names: str, manager: Recorder | None = None, name: str | None = None) -> WorkContinuation:
    requests = tuple(work(one) for one in names)
    return WorkContinuation(requests, manager or Recorder(), name=name, policy=ExistingWorkPolicy.APPEND)


def test_then_makes_a_new_step_that_keeps_the_name_and_leaves_the_old_one_alone():
    first = begin("a", name="sync")
    second = first.then([work("b"), work("c")])
    assert second.parents == (first,)
    assert second.ids == ("b", "c")
    assert second.name == "sync"
    assert second.enqueuer is first.enqueuer
    assert first.then(work("d")).parents == (first,)


def test_then_with_nothing_is_the_same_step():
    first = begin("a")
    assert first.then([]) is first
    assert first.then(iter(())) is first
    with pytest.raises(InvalidRequest, match="expected a OneTimeWorkRequest"):
        first.then(["a"])  # type: ignore[list-item]


def test_combine_joins_by_a_hidden_work_that_makes_arrays_and_has_no_name():
    manager = Recorder()
    one, other = begin("a", manager=manager, name="n"), begin("b", manager=manager, name="n")
    joined = WorkContinuation.combine([one, other])
    assert joined.parents == (one, other)
    assert joined.is_join
    assert joined.name is None
    assert joined.requests[0].worker_name == COMBINE_WORKER
    assert joined.requests[0].input_merger is ArrayCreatingInputMerger
    assert not joined.then(work("c")).is_join


def test_combine_refuses_nothing_strangers_and_two_managers():
    with pytest.raises(InvalidRequest, match=r"expected at least one continuation, got: \(\)"):
        WorkContinuation.combine([])
    with pytest.raises(InvalidRequest, match="expected a WorkContinuation"):
        WorkContinuation.combine([work("a")])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="expected continuations to be of one WorkManager"):
        WorkContinuation.combine([begin("a"), begin("b")])


def test_steps_come_once_and_parents_first():
    root = begin("a")
    left, right = root.then(work("b")), root.then(work("c"))
    joined = WorkContinuation.combine([left, right, left])
    last = joined.then(work("d"))
    assert last.steps() == [root, left, right, joined, last]
    assert [info.id for info in last.get_work_infos()] == ["a", "b", "c", joined.ids[0], "d"]


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), max_size=25))
def test_steps_of_any_graph_are_in_order_and_complete(drawing):
    manager = Recorder()
    made = [begin("root", manager=manager)]
    for parents in drawing:
        made.append(WorkContinuation.combine([made[one % len(made)] for one in parents]))
    steps = made[-1].steps()
    assert len({id(step) for step in steps}) == len(steps)
    for index, step in enumerate(steps):
        assert all(parent in steps[:index] for parent in step.parents)
    check_acyclic(steps)


def test_a_chain_of_ten_thousand_steps_can_be_stored_and_forgotten():
    chain = begin("0")
    for number in range(1, 10_000):
        chain = chain.then(work(str(number)))
    assert [step.ids[0] for step in chain.steps()] == [str(number) for number in range(10_000)]
    assert chain.enqueue().applied
    shared = chain.then(work("0"))
    with pytest.raises(CyclicChain):
        shared.enqueue()
    repr(chain)


def test_a_chain_is_stored_once_with_all_its_parents():
    manager = Recorder()
    first = begin("a", manager=manager)
    second = first.then(work("b"))
    operation = second.enqueue()
    assert second.enqueue() is operation
    assert first.enqueue() is operation
    assert manager.calls == [(second, None)]
    assert second.then(work("c")).enqueue() is not operation
    assert first.operation is operation


def test_a_chain_that_could_not_be_stored_can_be_tried_again():
    manager = Recorder()
    chain = begin("a", manager=manager).then(work("b"))
    manager.broken = True
    with pytest.raises(ConnectionError):
        chain.enqueue()
    assert chain.operation is None
    manager.broken = False
    assert chain.enqueue().applied


def test_a_work_that_would_wait_for_itself_is_refused_before_anything_is_stored():
    manager = Recorder()
    a, b = work("a"), work("b")
    chain = WorkContinuation((a,), manager).then(b).then(a)
    with pytest.raises(CyclicChain, match="expected the chain to be free of cycles") as caught:
        chain.enqueue()
    assert set(caught.value.ids) == {"a", "b"}
    assert caught.value.ids[0] == caught.value.ids[-1]
    assert len(caught.value.ids) == 3
    assert manager.calls == []


def test_a_circle_through_two_branches_is_found_and_shared_works_without_one_are_fine():
    manager = Recorder()
    a, b = work("a"), work("b")
    forth, back = WorkContinuation((a,), manager).then(b), WorkContinuation((b,), manager).then(a)
    with pytest.raises(CyclicChain):
        WorkContinuation.combine([forth, back]).enqueue()
    again = WorkContinuation((a,), manager).then(b)
    assert WorkContinuation.combine([forth, again]).enqueue().applied
    own = WorkContinuation((a,), manager).then([a])
    with pytest.raises(CyclicChain) as caught:
        own.enqueue()
    assert caught.value.ids == ("a", "a")


def test_one_id_for_two_works_is_refused():
    with pytest.raises(DuplicateWorkId, match="got: 'a'"):
        begin("a", "b", "a").enqueue()
    other = OneTimeWorkRequest("y", id="a")
    with pytest.raises(DuplicateWorkId, match="got: 'a'"):
        begin("a").then(other).enqueue()


def test_wide_steps_are_checked_in_linear_time():
    manager = Recorder()
    wide = WorkContinuation(tuple(work(str(number)) for number in range(3_000)), manager)
    next_wide = wide.then([work(f"n{number}") for number in range(3_000)])
    shared = WorkContinuation(wide.requests[:1], manager)
    check_acyclic(WorkContinuation.combine([next_wide, shared]).steps())


def test_one_unique_name_cannot_be_begun_twice_in_a_chain():
    manager = Recorder()
    chains = [begin("a", manager=manager, name="sync"), begin("b", manager=manager, name="sync")]
    with pytest.raises(InvalidRequest, match="expected unique name to be begun once in a chain, got: 'sync'"):
        WorkContinuation.combine(chains).enqueue()
    assert manager.calls == []


def test_an_enqueue_in_the_callers_transaction_is_not_remembered_since_it_may_be_rolled_back():
    chain = begin("a").then(work("b"))
    chain.enqueue(connection="theirs")
    assert chain.operation is None


def test_a_step_without_works_stands_for_those_before_it_and_what_stands_aside_is_stored_too():
    manager = Recorder()
    a, b = begin("a", manager=manager), begin("b", manager=manager)
    aside = a.then(work("c"))
    ends = WorkContinuation((), manager, (a, b), asides=(aside,))
    assert (ends.ids, ends.last_ids) == ((), ("a", "b"))
    assert [step.ids for step in ends.then(work("d")).steps()] == [("a",), ("c",), ("b",), (), ("d",)]


def test_canvases_are_the_managers_matter():
    manager = Recorder()
    first = begin("a", manager=manager)
    assert first.to_canvas() == ("canvas", first)
    assert WorkContinuation.from_canvas({"task": "z"}, manager).ids == ("z",)
