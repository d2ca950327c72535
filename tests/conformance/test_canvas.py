"""A canvas is a graph of durable works: what it returns, in what order it runs, and what becomes of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery, chain, chord, group, states
from celery.exceptions import ChordError

from celery_workmanager import (
    ArrayCreatingInputMerger,
    BackoffPolicy,
    ExistingWorkPolicy,
    OneTimeWorkRequest,
    OutOfQuotaPolicy,
    WorkContinuation,
    Worker,
)
from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.testing import WorkManagerTestKit

app = Celery("canvas", broker="memory://", result_backend="cache+memory://")
told: list[Any] = []


@app.task(base=Worker)
def add(x: int, y: int) -> int:
    return x + y


@app.task(base=Worker)
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(base=Worker)
def same(value: Any) -> Any:
    return value


@app.task(base=Worker)
def boom(*_: Any) -> None:
    raise ValueError("boom")


@app.task(base=Worker, bind=True)
def ids(self, *_: Any) -> list[Any]:
    return [self.request.root_id, self.request.parent_id, self.request.id]


@app.task(base=Worker, bind=True)
def becomes(self, canvas: Any, *_: Any) -> None:
    self.replace(self.app.signature(canvas))


@app.task(base=Worker)
def new_style(request: Any, exc: Exception, traceback: str) -> None:
    told.append((request.id, repr(exc), "boom" in traceback))


@app.task(base=Worker)
def old_style(task_id: str) -> None:
    told.append(task_id)


@pytest.fixture
def kit(kit_url):
    told.clear()
    with WorkManagerTestKit(app, store_url=kit_url) as kit:
        yield kit


def run(kit, canvas: Any, *args: Any) -> Any:
    result = canvas.apply_async(args)
    kit.run_until_idle()
    return result


def test_a_chain_hands_values_on_and_its_results_lead_back(kit):
    result = run(kit, add.s(2) | add.s(3) | add.si(10, 20), 1)
    assert (result.get(), result.parent.get(), result.parent.parent.get()) == (30, 6, 3)
    assert [child.id for child in result.parent.children] == [result.id]


def test_a_chord_takes_the_list_of_its_header_in_order(kit):
    result = run(kit, chord([add.s(i, i) for i in range(4)], total.s()))
    assert (result.get(), result.parent.get()) == (12, [0, 2, 4, 6])


def test_groups_and_chains_nest(kit):
    canvas = add.s(1, 1) | group(add.s(1), add.s(2) | add.s(3), group(add.s(4))) | total.s() | add.s(100)
    assert run(kit, canvas).get() == 3 + 7 + 6 + 100
    assert run(kit, group(add.s(1, 1), add.s(2, 2)) | group(total.s(), total.s() | add.s(1))).get() == [6, 7]


def test_a_group_that_ends_a_member_of_a_header_is_one_value(kit):
    group_in_group = add.s(1, 1) | group(add.s(1), add.s(2) | group(add.s(3), add.s(4)))
    assert run(kit, chord([group_in_group, add.s(5, 5)], same.s())).get() == [[3, [7, 8]], 10]
    as_body = chord([add.s(1, 1), add.s(2, 2)], group(total.s(), same.s()))
    assert run(kit, group(as_body, add.s(5, 5)) | group(same.s(), same.s())).get() == [[[6, [2, 4]], 10]] * 2
    result = run(kit, chord([add.s(1, 1), add.s(1, 1) | group(add.s(1), add.s(2))], ids.s()))
    _, parent, _ = result.get()
    assert parent == result.parent[1][1].id  # what makes one value of several isn't seen


def test_a_map_is_one_work_and_chunks_are_several(kit):
    assert run(kit, total.map([[1, 2], [3]])).get() == [3, 3]
    assert run(kit, add.starmap([(1, 2), (3, 4)])).get() == [3, 7]
    assert run(kit, add.chunks([(1, 2), (3, 4), (5, 6)], 2)).get() == [[3, 7], [11]]


def test_callbacks_take_the_value_and_stand_aside(kit):
    signature = add.s(1, 1)
    signature.link(add.s(10))
    result = run(kit, signature)
    assert (result.get(), [child.get() for child in result.children]) == (2, [12])


def test_a_chain_fails_with_the_exception_in_it_and_its_errbacks_run_once(kit):
    result = run(kit, chain(add.s(1, 1), boom.s(), add.s(1)).on_error(new_style.s()))
    with pytest.raises(ValueError, match="boom"):
        result.get()
    assert told == [(result.parent.id, "ValueError('boom')", True)]
    assert (result.state, result.parent.parent.state) == (states.FAILURE, states.SUCCESS)


def test_an_errback_of_the_old_style_gets_the_id(kit):
    result = run(kit, boom.s().on_error(old_style.s()))
    assert told == [result.id]


@pytest.mark.parametrize(
    "header",
    [
        boom.si(),
        chain(boom.si(), add.s(1)),
        chord([boom.si()], total.s()),
        chain(add.s(1, 1), group(add.s(1), boom.si())),
    ],
)
def test_a_chord_fails_with_a_chord_error_and_the_errbacks_of_its_body(kit, header):
    result = run(kit, chord([add.s(1, 1), header], total.s().on_error(new_style.s())))
    assert isinstance(result.result, ChordError)
    assert "boom" in str(result.result)
    with pytest.raises((ValueError, ChordError), match="boom"):
        result.get()  # Celery raises what failed first
    assert [(each[0], each[1].partition("(")[0]) for each in told] == [(result.id, "ChordError")]


def test_what_fails_before_a_chord_is_no_error_of_the_chord(kit):
    canvas = chain(boom.si(), chord([add.s(1), add.s(2)], total.s().on_error(new_style.s())))
    result = run(kit, canvas)
    assert (told, result.state, str(result.result)) == ([], states.FAILURE, "boom")


def test_parents_and_roots_are_those_of_the_graph(kit):
    result = run(kit, chain(ids.si(), ids.si(), ids.si()))
    first, second, third = result.parent.parent.id, result.parent.id, result.id
    assert result.parent.parent.get() == [first, None, first]
    assert (result.parent.get(), result.get()) == ([first, first, second], [first, second, third])


def test_a_canvas_takes_a_unique_name_with_all_that_begins_it(kit):
    manager = kit.work_manager
    canvas = group(chain(add.s(1, 1), add.s(2)), chain(add.s(2, 2), add.s(3)))
    first = manager.enqueue_unique_work("sums", ExistingWorkPolicy.KEEP, canvas)
    again = manager.enqueue_unique_work("sums", ExistingWorkPolicy.KEEP, canvas.clone())
    assert (len(first.ids), again.applied, len(again.skipped_ids)) == (4, False, 4)
    appended = manager.enqueue_unique_work("sums", ExistingWorkPolicy.APPEND, add.s(7, 8))
    assert len(manager.get_work_info_by_id(appended.id).prerequisites) == 2
    kit.run_until_idle()
    assert add.AsyncResult(appended.id).get() == 15


def test_a_continuation_goes_on_after_all_ends_of_a_canvas(kit):
    last = kit.work_manager.begin_with(group(add.s(1, 1), add.s(2, 2))).then(
        kit.work_manager.begin_with(total.s([5])).requests
    )
    operation = last.enqueue()
    assert len(operation.ids) == 3
    assert len(kit.work_manager.get_work_info_by_id(last.ids[0]).prerequisites) == 2


def test_a_cancelled_member_cancels_the_body_of_its_chord(kit):
    result = chord([add.s(1, 1), add.s(2, 2)], total.s()).apply_async()
    kit.work_manager.cancel_work_by_id(result.parent[0].id)
    kit.run_until_idle()
    assert (result.state, result.parent[1].state) == (states.REVOKED, states.SUCCESS)


def test_stamps_are_tags_and_shown_to_the_task(kit):
    canvas = chain(add.s(1, 1), add.s(2))
    canvas.stamp(tag=["red", "blue"], customer=7)
    result = canvas.apply_async()
    infos = kit.work_manager.get_work_infos_by_tag("red")
    assert {info.id for info in infos} == {result.id, result.parent.id}
    assert infos[0].tags == {add.name, "red", "blue", "customer=7"}


def test_arguments_that_do_not_fit_store_nothing_of_the_canvas(kit):
    with pytest.raises(TypeError):
        chain(add.s(1, 1), add.s(1, 2, 3)).apply_async()
    assert kit.run_until_idle() == 0


@pytest.mark.parametrize(
    ("canvas", "value"),
    [
        (lambda: add.s(1, 2), 3),
        (lambda: add.s(1, 2) | add.s(3), 6),
        (lambda: group(add.s(1, 2), add.s(3, 4)), [3, 7]),
        (lambda: chord([add.s(1, 2), add.s(3, 4)], total.s()), 10),
        (lambda: add.s(1, 2) | group(add.s(3), add.s(4)), [6, 7]),
        (lambda: becomes.s(add.s(1, 2)), 3),
        (lambda: becomes.s(chord([add.s(1, 2), becomes.s(add.s(3, 4) | add.s(5))], total.s())), 15),
    ],
)
def test_a_work_may_put_others_in_its_place(kit, canvas, value):
    result = run(kit, becomes.s(canvas()) | group(total.map([[1], [2]]), becomes.si(add.s(5, 5))))
    assert (result.parent.get(), result.get()) == (value, [[1, 2], 10])


def test_a_replaced_member_holds_up_its_chord_and_may_fail_it(kit):
    assert run(kit, chord([add.s(1, 1), becomes.si(add.s(2, 2) | add.s(3))], total.s())).get() == 9
    result = run(kit, chord([becomes.si(boom.si() | add.s(3))], total.s().on_error(new_style.s())))
    assert (isinstance(result.result, ChordError), [each[0] for each in told]) == (True, [result.id])


def test_what_replaces_a_work_has_its_callbacks_and_errbacks(kit):
    signature = becomes.s(add.s(2, 3))
    signature.link(add.s(10))
    result = run(kit, signature)
    assert (result.get(), [child.get() for child in result.children]) == (5, [15])
    result = run(kit, becomes.s(add.s(1, 1) | boom.s()).on_error(new_style.s()))
    assert [each[0] for each in told] == [result.id]


def test_ordinary_tasks_cannot_replace_a_work(kit):
    result = run(kit, becomes.s(app.tasks["celery.backend_cleanup"].si()))
    assert "expected a work to be replaced by Workers alone" in str(result.result)


def graph_of(continuation: WorkContinuation) -> dict[str, Any]:
    """Each work's request with the ids of those it waits for."""
    return {
        request.id: (request, tuple(each for parent in step.parents for each in parent.last_ids))
        for step in continuation.steps()
        for request in step.requests
    }


def request(name: str, **options: Any) -> OneTimeWorkRequest:
    return OneTimeWorkRequest(ids, {"name": name}, **options)


def a_chain(wm: Any) -> WorkContinuation:
    rich = request(
        "rich", tags={"t"}, backoff_policy=BackoffPolicy.LINEAR, backoff_delay=7, queue="q", priority=3, time_limit=9,
        input_merger=ArrayCreatingInputMerger, keep_results_for_at_least=60, max_attempts=4, trace_tag="x", expires=90,
    )  # fmt: skip
    hasty = request("hasty", expedited=OutOfQuotaPolicy.DROP_WORK_REQUEST)
    return wm.begin_with([hasty, request("b", initial_delay=5)]).then(rich).then([request("d"), request("e")])


def a_diamond(wm: Any) -> WorkContinuation:
    top = wm.begin_with(request("top"))
    left = top.then(request("left")).then(request("left below"))
    return WorkContinuation.combine([left, top.then([request("right"), request("far right")])]).then(request("end"))


def two_chains(wm: Any) -> WorkContinuation:
    one = wm.begin_with(request("a")).then(request("b"))
    return WorkContinuation.combine([one, wm.begin_with(request("c"))])


@pytest.mark.parametrize("make", [a_chain, a_diamond, two_chains])
def test_a_continuation_and_its_canvas_are_the_same_graph(kit, make):
    continuation = make(kit.work_manager)
    canvas = continuation.to_canvas()
    again = WorkContinuation.from_canvas(canvas, kit.work_manager)
    assert graph_of(again) == graph_of(continuation)
    copied = app.signature(json.loads(json.dumps(canvas)))
    copied.apply_async()
    assert kit.work_manager.enqueue(continuation.requests).applied is False  # stored by the canvas already


@pytest.mark.parametrize(
    "canvas",
    [
        lambda: add.s(1, 1) | add.s(2) | add.si(3, 3),
        lambda: add.s(1, 1) | group(add.s(1), add.s(2) | add.s(3)) | total.s() | add.s(4),
        lambda: group(add.s(1, 1) | add.s(2), add.s(3, 3)),
        lambda: chord([add.s(1, 1), chord([add.s(2, 2), add.s(3, 3)], total.s())], total.s().on_error(old_style.s())),
        lambda: add.s(1, 1).on_error(new_style.s()),
        lambda: chord([add.s(1, 1) | group(add.s(1), add.s(2)), add.s(3, 3)], same.s()),
    ],
)
def test_a_canvas_and_its_continuation_are_the_same_graph(kit, canvas):
    continuation = WorkContinuation.from_canvas(canvas(), kit.work_manager)
    again = WorkContinuation.from_canvas(continuation.to_canvas(), kit.work_manager)
    assert graph_of(again) == graph_of(continuation)


def test_callbacks_come_back_too(kit):
    signature = add.s(1, 1)
    signature.link(add.s(10) | add.s(20))
    continuation = WorkContinuation.from_canvas(signature, kit.work_manager)
    again = WorkContinuation.from_canvas(continuation.to_canvas(), kit.work_manager)
    assert graph_of(again) == graph_of(continuation)
    assert len(graph_of(again)) == 3


def test_what_no_canvas_can_say_is_refused(kit):
    wm = kit.work_manager
    a, b = wm.begin_with(request("a")), wm.begin_with(request("b"))
    crossed = WorkContinuation.combine([a.then(request("c")), WorkContinuation.combine([a, b]).then(request("d"))])
    for graph in (crossed, WorkContinuation.combine([a, a.then(request("e"))])):
        with pytest.raises(UnsupportedOperation, match="expected a graph of chains and groups"):
            graph.to_canvas()


def test_options_of_a_request_are_options_of_a_call(kit):
    result = add.s(1, 1).set(tags=["x"], backoff_delay=5, max_attempts=2).apply_async()
    assert kit.work_manager.get_work_info_by_id(result.id).tags == {add.name, "x"}
