"""Celery's result objects: what they hold, how they hang together, and what becomes of them."""

from __future__ import annotations

from celery import chain, chord, group
from celery.result import AsyncResult, GroupResult, ResultSet, result_from_tuple

from tests.canvas.cases import Table
from tests.canvas.stage import DEADLINE, POLL

RESULTS = Table()
case = RESULTS.case

QUICK = {"timeout": DEADLINE, "interval": POLL}


@case({"value": 3, "state": "SUCCESS", "ready": True, "successful": True, "failed": False}, core=True)
def a_result_of_a_task(t, stage):
    result = t.plus.delay(1, 2)
    value = result.get(**QUICK)
    return {
        "value": value,
        "state": result.state,
        "ready": result.ready(),
        "successful": result.successful(),
        "failed": result.failed(),
    }


@case({"raised": "ValueError", "state": "FAILURE", "failed": True, "traceback": True})
def a_result_of_an_error_raises_it(t, stage):
    result = t.boom.delay()
    try:
        result.get(**QUICK)
    except ValueError as error:
        raised = type(error).__name__
    return {
        "raised": raised,
        "state": result.state,
        "failed": result.failed(),
        "traceback": "boom" in result.traceback,
    }


@case({"values": [7, 3, 1], "kinds": ["AsyncResult"] * 3}, core=True)
def the_parents_of_a_chain(t, stage):
    result = (t.plus.s(1) | t.plus.s(2) | t.plus.s(4)).apply_async()
    return walk(stage, result)


@case({"values": [[3, 4], 1], "kinds": ["GroupResult", "AsyncResult"]})
def the_parent_of_a_group(t, stage):
    return walk(stage, (t.plus.s(1) | group(t.plus.s(2), t.plus.s(3))).apply_async())


@case({"values": [8, 7, [3, 4], 1], "kinds": ["AsyncResult", "AsyncResult", "GroupResult", "AsyncResult"]}, core=True)
def the_parents_of_a_chord_in_a_chain(t, stage):
    return walk(stage, (t.plus.s(1) | group(t.plus.s(2), t.plus.s(3)) | t.total.s() | t.plus.s(1)).apply_async())


@case({"values": [3, [1, 2]], "kinds": ["AsyncResult", "GroupResult"]})
def the_parent_of_a_chord(t, stage):
    return walk(stage, chord([t.plus.s(1), t.plus.s(2)], t.total.s()).apply_async())


@case({"values": [5, 2], "kinds": ["AsyncResult", "AsyncResult"]})
def a_member_of_a_group_has_parents(t, stage):
    result = group(t.plus.s(2) | t.plus.s(3), t.plus.s(1)).apply_async()
    stage.value(result)
    return walk(stage, result.results[0])


@case({"get": [1, 2], "join": [1, 2], "completed": 2, "ready": True, "len": 2, "children": 2, "index": 2}, core=True)
def a_result_of_a_group(t, stage):
    result = group(t.plus.s(1), t.plus.s(2)).apply_async()
    return {
        "get": result.get(**QUICK),
        "join": result.join(**QUICK),
        "completed": result.completed_count(),
        "ready": result.ready(),
        "len": len(result),
        "children": len(result.children),
        "index": stage.value(result[1]),
    }


@case({"raised": "ValueError", "join": [1, "ValueError", 2], "failed": True, "completed": 2, "waiting": False})
def a_result_of_a_group_with_an_error(t, stage):
    result = group(t.plus.s(1), t.boom.s(), t.plus.s(2)).apply_async()
    try:
        result.get(**QUICK)
    except ValueError as error:
        raised = type(error).__name__
    found = result.join(propagate=False, **QUICK)
    return {
        "raised": raised,
        "join": [type(each).__name__ if isinstance(each, Exception) else each for each in found],
        "failed": result.failed(),
        "completed": result.completed_count(),
        "waiting": result.waiting(),
    }


@case({"again": [1, 2], "same": True}, by_id=True)
def a_group_result_is_saved_and_restored(t, stage):
    result = group(t.plus.s(1), t.plus.s(2)).apply_async()
    result.save()
    restored = GroupResult.restore(result.id, app=stage.app)
    return {"again": stage.value(restored), "same": restored.id == result.id}


@case({"value": 8, "members": [3, 4]}, by_id=True)
def a_result_goes_through_a_tuple(t, stage):
    result = (t.plus.s(1) | group(t.plus.s(2), t.plus.s(3)) | t.total.s() | t.plus.s(1)).apply_async()
    again = result_from_tuple(result.as_tuple(), app=stage.app)
    return {"value": stage.value(again), "members": stage.value(again.parent.parent)}


@case({"value": 3})
def a_result_is_found_by_its_task_and_id(t, stage):
    last = t.plus.s(2)
    result = (t.plus.s(1) | last).apply_async()
    stage.value(result)
    return {"value": stage.value(last.type.AsyncResult(result.id))}


@case({"value": 3}, by_id=True)
def a_result_is_found_by_its_id(t, stage):
    result = (t.plus.s(1) | t.plus.s(2)).apply_async()
    return {"value": stage.value(stage.app.AsyncResult(result.id))}


@case({"values": [1, 2, 5]})
def a_set_of_results(t, stage):
    results = ResultSet([t.plus.delay(1), t.plus.delay(2), (t.plus.s(2) | t.plus.s(3)).apply_async()], app=stage.app)
    return {"values": stage.value(results)}


# A plain task's children are in Celery's result backend and a Worker's in the store, each without the other's.
@case({"values": [3, 7, 9]}, mixed=False)
def a_chain_collects_its_values(t, stage):
    result = (t.plus.s(1, 2) | t.plus.s(4) | t.plus.s(2)).apply_async()
    stage.value(result)
    first = result.parent.parent
    return {"values": [value for _, value in first.collect(timeout=DEADLINE)]}


@case({"values": [5, 6, 7], "first": 5}, mixed=False)
def a_group_after_a_task_collects_its_values(t, stage):
    result = (t.plus.s(2, 3) | group(t.plus.s(1), t.plus.s(2))).apply_async()
    stage.value(result)
    found = [value for _, value in result.parent.collect(timeout=DEADLINE) if not isinstance(value, list)]
    return {"values": sorted(found), "first": found[0]}


@case({"children": 1, "child": 7}, mixed=False)
def a_child_is_what_follows(t, stage):
    result = (t.plus.s(1, 2) | t.plus.s(4)).apply_async()
    stage.value(result)
    children = stage.until(lambda: result.parent.children, "the first knows its child")
    return {"children": len(children), "child": stage.value(children[0])}


@case({"before": "SUCCESS", "after": "PENDING"}, mixed=False)
def a_forgotten_result_is_forgotten(t, stage):
    result = t.plus.delay(1, 2)
    before = stage.ended(result)
    result.forget()
    return {"before": before, "after": t.plus.AsyncResult(result.id).state}


@case({"iterated": [1, 2]})
def the_results_of_a_group_are_iterated(t, stage):
    result = group(t.plus.s(1), t.plus.s(2)).apply_async()
    stage.value(result)
    return {"iterated": sorted(member.get(**QUICK) for member in result)}


@case({"seen": [[1, 1], [2, 2]]})
def a_join_calls_back(t, stage):
    result = group(t.plus.s(1), t.plus.s(2)).apply_async()
    stage.value(result)
    seen = []
    result.join(callback=lambda task_id, value: seen.append([value, value]), **QUICK)
    return {"seen": sorted(seen)}


@case({"empty": [], "ready": True})
def an_empty_group_is_ready(t, stage):
    result = group([], app=stage.app).apply_async()
    return {"empty": result.get(**QUICK), "ready": result.ready()}


@case({"count": 200, "total": 19900})
def a_large_group_is_joined(t, stage):
    result = group(t.echo.s(i) for i in range(200)).apply_async()
    values = stage.value(result)
    return {"count": len(result), "total": sum(values)}


@case({"before": "PENDING", "value": 1})
def a_waiting_task_is_pending(t, stage):
    result = t.plus.apply_async((1,), countdown=0.7)
    before = result.state
    return {"before": before, "value": stage.value(result)}


@case({"value": 3, "before": [False, False]})
def a_chain_that_waits(t, stage):
    result = chain(t.plus.s(1), t.plus.s(2)).apply_async(countdown=0.7)
    before = [result.ready(), result.parent.ready()]
    return {"value": stage.value(result), "before": before}


@case({"value": 3})
def a_member_that_waits(t, stage):
    return {"value": stage.value(t.plus.s(1) | t.plus.s(2).set(countdown=0.3))}


@case({"value": 3})
def a_header_that_waits(t, stage):
    return {"value": stage.value(chord([t.plus.s(1).set(countdown=0.3), t.plus.s(2)], t.total.s()))}


def walk(stage, result):
    """The values and the kinds of a result and all before it."""
    values, kinds = [], []
    while result is not None:
        values.append(stage.value(result))
        kinds.append("GroupResult" if isinstance(result, GroupResult) else AsyncResult.__name__)
        result = result.parent
    return {"values": values, "kinds": kinds}


@case({"raised": "ValueError", "state": "FAILURE"})
def the_result_of_a_body_raises_what_failed_in_the_header(t, stage):
    result = chord([t.echo.s(1), t.boom.s()], t.total.s()).apply_async()
    try:
        result.get(**QUICK)
    except ValueError as error:
        raised = type(error).__name__
    return {"raised": raised, "state": stage.ended(result)}


@case({"values": [2, 4], "ids": True}, mixed=False)
def results_are_joined_by_the_backend_that_has_them(t, stage):
    results = ResultSet([t.plus.delay(1, 1), t.plus.delay(2, 2)], app=stage.app)
    values = results.join_native(**QUICK)
    ids = {each for each, _ in results.iter_native(**QUICK)}
    return {"values": values, "ids": ids == {each.id for each in results}}


@case({"value": 4, "before": 2}, by_id=True)
def a_task_returns_a_result_object(t, stage):
    result = t.hand_out.s(t.plus.s(1, 1) | t.plus.s(2)).apply_async()
    made = result_from_tuple(stage.value(result), app=stage.app)
    return {"value": stage.value(made), "before": stage.value(made.parent)}
