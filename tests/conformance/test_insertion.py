"""What an enqueue stores: single works, chains, joins, again, and what the Operation tells."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from celery_workmanager import (
    ExistingWorkPolicy,
    OneTimeWorkRequest,
    Operation,
    WorkContinuation,
    WorkManagerError,
    WorkQuery,
)
from tests.conformance.workers import act, actions, other, ran


def test_enqueue_stores_works_that_wait_for_nothing(wm, works):
    first, second = works.request(), works.request()
    operation = wm.enqueue([first, second])
    assert operation == Operation(applied=True, ids=(first.id, second.id), skipped_ids=())
    info = works.info(first)
    assert info.state.name == "ENQUEUED"
    assert info.enqueued_at == info.next_schedule_time == works.now
    assert (info.run_attempt_count, info.generation, info.prerequisites, info.started_at) == (0, 0, (), None)


def test_an_operation_can_be_awaited(wm, works):
    async def enqueue():
        operation = await wm.aenqueue(works.request())
        assert await operation is operation
        return operation

    assert asyncio.run(enqueue()).applied
    assert wm.enqueue(works.request()).id


def test_works_run_oldest_first_and_urgent_ones_before(wm, works, kit):
    wm.enqueue([works.request(n=1), works.request(n=2, priority=9), works.request(n=3)])
    assert kit.run_until_idle() == 3
    assert ran[0] == 2


def test_a_chain_waits_step_by_step(wm, works, kit):
    a, b, c, d, e = (works.request(n=n) for n in "abcde")
    operation = wm.begin_with([a, b]).then(c).then([d, e]).enqueue()
    assert operation.ids == (a.id, b.id, c.id, d.id, e.id)
    assert works.states(a, b, c, d, e) == ["ENQUEUED", "ENQUEUED", "BLOCKED", "BLOCKED", "BLOCKED"]
    assert works.info(c).prerequisites == (a.id, b.id)
    assert works.info(c).enqueued_at is None
    assert works.info(c).next_schedule_time is None
    kit.run_one()
    assert works.state(c) == "BLOCKED"
    kit.run_one()
    assert works.states(c, d) == ["ENQUEUED", "BLOCKED"]
    assert works.info(c).enqueued_at == works.now
    kit.run_until_idle()
    assert ran[2] == "c"
    assert works.states(a, b, c, d, e) == ["SUCCEEDED"] * 5


def test_nothing_is_stored_before_a_chain_is_enqueued(wm, works):
    chain = wm.begin_with(works.request()).then(works.request())
    assert wm.get_work_infos(WorkQuery()) == []
    assert chain.get_work_infos() == []


def test_a_chain_is_stored_once_and_enqueued_again_gives_the_first_answer(wm, works):
    chain = wm.begin_with(works.request())
    first = chain.enqueue()
    assert chain.enqueue() is first
    assert len(wm.get_work_infos(WorkQuery())) == 1


def test_a_step_can_follow_one_that_is_stored_already(wm, works, kit):
    a, b, c = works.request(), works.request(), works.request()
    start = wm.begin_with(a)
    start.enqueue()
    operation = start.then(b).enqueue()
    assert operation.ids == (b.id,)
    assert works.states(a, b) == ["ENQUEUED", "BLOCKED"]
    kit.run_until_idle()
    start.then(c).enqueue()
    assert works.states(a, b, c) == ["SUCCEEDED", "SUCCEEDED", "ENQUEUED"]


@pytest.mark.parametrize("policy", ExistingWorkPolicy, ids=lambda policy: policy.name)
def test_a_policy_is_not_applied_again_when_a_stored_chain_grows(wm, works, kit, policy):
    a, b = works.request(), works.request()
    start = wm.begin_unique_work("name", policy, a)
    start.enqueue()
    start.then(b).enqueue()
    assert works.states(a, b) == ["ENQUEUED", "BLOCKED"]
    assert works.info(b).unique_names == ("name",)
    kit.run_until_idle()
    assert works.states(a, b) == ["SUCCEEDED", "SUCCEEDED"]


def test_continuations_are_immutable_and_share_their_beginning(wm, works, kit):
    a, b, c = works.request(n="a"), works.request(n="b"), works.request(n="c")
    start = wm.begin_with(a)
    left, right = start.then(b), start.then(c)
    left.enqueue()
    right.enqueue()
    kit.run_until_idle()
    assert sorted(ran) == ["a", "b", "c"]


def test_then_without_works_is_the_same_step(wm, works):
    start = wm.begin_with(works.request())
    assert start.then([]) is start


def test_combine_waits_for_all_chains_and_hands_on_their_outputs_as_lists(wm, works, kit):
    actions["one"] = lambda _: {"x": 1, "list": [1]}
    actions["two"] = lambda _: {"x": 2, "list": [2, 3]}
    a, b, c = works.request("one"), works.request("two"), works.request(n="c")
    joined = WorkContinuation.combine([wm.begin_with(a), wm.begin_with(b)]).then(c)
    operation = joined.enqueue()
    assert len(operation.ids) == 4
    infos = joined.get_work_infos()
    assert len(infos) == 4
    assert {info.id for info in infos} == set(operation.ids)
    actions["nothing"] = lambda self: ran.append(dict(self.input_data))
    kit.run_until_idle()
    assert ran[-1] == {"do": "nothing", "n": "c", "x": [1, 2], "list": [1, 2, 3]}
    assert works.state(c) == "SUCCEEDED"


def test_a_join_has_no_name_and_the_works_after_it_neither(wm, works):
    a, b, c = works.request(), works.request(), works.request()
    one = wm.begin_unique_work("one", ExistingWorkPolicy.KEEP, a)
    two = wm.begin_unique_work("two", ExistingWorkPolicy.KEEP, b)
    WorkContinuation.combine([one, two]).then(c).enqueue()
    assert [info.id for info in wm.get_work_infos_for_unique_work("one")] == [a.id]
    assert works.info(c).unique_names == ()


def test_the_same_request_again_neither_restarts_nor_changes_the_work(wm, works, kit):
    request = works.request(tags={"one"})
    wm.enqueue(request)
    kit.run_until_idle()
    again = wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, request)
    assert again == Operation(applied=False, ids=(), skipped_ids=(request.id,))
    info = works.info(request)
    assert (info.state.name, info.runs) == ("SUCCEEDED", 1)
    assert info.unique_names == ("name",)
    assert kit.run_until_idle() == 0


def test_the_same_id_with_more_tags_adds_the_tags(wm, works):
    request = works.request(tags={"one"})
    wm.enqueue(request)
    wm.enqueue(works.request(id=request.id, tags={"two"}))
    assert works.info(request).tags == {"act", "one", "two"}


def test_one_id_for_two_requests_is_refused_and_nothing_is_stored(wm, works):
    work_id = uuid.uuid4()
    with pytest.raises(ValueError, match=f"one request only, got: '{work_id}'"):
        wm.enqueue([works.request(id=work_id), works.request(id=work_id)])
    assert wm.get_work_infos(WorkQuery()) == []
    wm.enqueue(works.request(id=work_id))
    with pytest.raises(ValueError, match="one request only"):
        wm.enqueue(OneTimeWorkRequest(other, id=work_id))


def test_a_work_that_would_wait_for_itself_is_refused(wm, works):
    a, b = works.request(), works.request()
    with pytest.raises(ValueError, match="free of cycles") as caught:
        wm.begin_with(a).then(b).then(a).enqueue()
    assert isinstance(caught.value, WorkManagerError)
    assert wm.get_work_infos(WorkQuery()) == []


@pytest.mark.parametrize("nothing", [[], (), iter(())])
def test_an_empty_list_is_refused(wm, nothing):
    for enqueue in (
        wm.enqueue,
        wm.begin_with,
        lambda requests: wm.enqueue_unique_work("n", ExistingWorkPolicy.KEEP, requests),
        lambda requests: wm.begin_unique_work("n", ExistingWorkPolicy.KEEP, requests),
    ):
        with pytest.raises(ValueError, match="expected at least one request"):
            enqueue(nothing)
    with pytest.raises(ValueError, match="at least one"):
        WorkContinuation.combine([])


@pytest.mark.parametrize("thing", [None, 5, "act", act, {"a": 1}, [None]])
def test_only_requests_can_be_enqueued(wm, thing):
    with pytest.raises(ValueError, match="expected .*OneTimeWorkRequest"):
        wm.enqueue(thing)


def test_enqueueing_in_a_wide_and_deep_graph_runs_each_work_once_in_order(wm, works, kit):
    layers = [[works.request(n=(layer, at)) for at in range(5)] for layer in range(6)]
    chain = wm.begin_with(layers[0])
    for layer in layers[1:]:
        chain = chain.then(layer)
    assert len(chain.enqueue().ids) == 30
    assert kit.run_until_idle() == 30
    assert [layer for layer, _ in ran] == sorted(layer for layer, _ in ran)
