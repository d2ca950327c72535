"""Tasks that are replaced with canvases, that are retried, and that start canvases of their own."""

from __future__ import annotations

from celery import chain, chord, group
from celery.result import result_from_tuple

from tests.canvas.cases import Table

GROWING = Table()
shape, case = GROWING.shape, GROWING.case

BOOM = ("ValueError", "boom")

# -- replaced --------------------------------------------------------------------------------------------------------

shape("replaced with a task", lambda t: t.swap.s(to=t.plus.s(1, 2)), 3, core=True)
shape("replaced with a chain", lambda t: t.swap.s(to=t.plus.s(1, 2) | t.plus.s(3)), 6, core=True)
shape("replaced with a group", lambda t: t.swap.s(to=group(t.echo.s(1), t.echo.s(2))), [1, 2], core=True)
shape("replaced with a chord", lambda t: t.swap.s(to=chord([t.echo.s(1), t.echo.s(2)], t.total.s())), 3, core=True)
shape("replaced with a group of one", lambda t: t.swap.s(to=group(t.echo.s(1))), [1])
shape(
    "replaced with a chain that ends in a group",
    lambda t: t.swap.s(to=t.echo.s(1) | group(t.plus.s(1), t.plus.s(2))),
    [2, 3],
)
shape("replaced with what takes its arguments", lambda t: t.echo.s(1) | t.swap_with.s(to=t.plus.s(2)), 3)
shape(
    "replaced with a chain that takes its arguments",
    lambda t: t.echo.s(1) | t.swap_with.s(to=t.plus.s(2) | t.plus.s(3)),
    5,
)
shape("replaced with what is replaced", lambda t: t.swap.s(to=t.swap.s(to=t.swap.s(to=t.plus.s(1, 2)))), 3)
shape("first of a chain replaced with a task", lambda t: t.swap.s(to=t.echo.s(1)) | t.plus.s(2) | t.plus.s(3), 6)
shape("first of a chain replaced with a chain", lambda t: t.swap.s(to=t.echo.s(1) | t.plus.s(4)) | t.plus.s(2), 7)
shape("middle of a chain replaced with a task", lambda t: t.echo.s(0) | t.swap.s(to=t.echo.s(1)) | t.plus.s(2), 3)
shape(
    "middle of a chain replaced with a chain",
    lambda t: t.echo.s(0) | t.swap.s(to=t.echo.s(1) | t.plus.s(4)) | t.plus.s(2),
    7,
)
shape(
    "middle of a chain replaced with a group",
    lambda t: t.echo.s(0) | t.swap.s(to=group(t.echo.s(1), t.echo.s(4))) | t.total.s(),
    5,
)
shape(
    "middle of a chain replaced with a chord",
    lambda t: t.echo.s(0) | t.swap.s(to=chord([t.echo.s(1), t.echo.s(4)], t.total.s())) | t.plus.s(2),
    7,
)
shape("last of a chain replaced with a chain", lambda t: t.echo.s(0) | t.swap.s(to=t.echo.s(1) | t.plus.s(4)), 5)
shape(
    "last of a chain replaced with a group",
    lambda t: t.echo.s(0) | t.swap.s(to=group(t.echo.s(1), t.echo.s(4))),
    [1, 4],
)
shape("member of a group replaced with a task", lambda t: group(t.swap.s(to=t.echo.s(1)), t.echo.s(2)), [1, 2])
shape(
    "member of a group replaced with a chain",
    lambda t: group(t.swap.s(to=t.echo.s(1) | t.plus.s(4)), t.echo.s(2)),
    [5, 2],
)
shape(
    "member of a group replaced with a group",
    lambda t: group(t.swap.s(to=group(t.echo.s(1), t.echo.s(3))), t.echo.s(2)),
    [[1, 3], 2],
)
shape(
    "member of a header replaced with a task",
    lambda t: chord([t.swap.s(to=t.echo.s(1)), t.echo.s(2)], t.echo.s()),
    [1, 2],
    core=True,
)
shape(
    "member of a header replaced with a chain",
    lambda t: chord([t.swap.s(to=t.echo.s(1) | t.plus.s(4)), t.echo.s(2)], t.echo.s()),
    [5, 2],
)
shape(
    "member of a header replaced with a group",
    lambda t: chord([t.swap.s(to=group(t.echo.s(1), t.echo.s(3))), t.echo.s(2)], t.total.s()),
    6,
)
shape(
    "member of a header replaced with a chord",
    lambda t: chord([t.swap.s(to=chord([t.echo.s(1), t.echo.s(3)], t.total.s())), t.echo.s(2)], t.echo.s()),
    [4, 2],
)
shape(
    "in a chain in a header replaced with a chain",
    lambda t: chord([t.echo.s(0) | t.swap.s(to=t.echo.s(1) | t.plus.s(4)) | t.plus.s(1), t.echo.s(2)], t.echo.s()),
    [6, 2],
)
shape("body replaced with a task", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.swap.s(to=t.echo.s(9))), 9)
shape(
    "body replaced with a chain",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.swap.s(to=t.echo.s(9) | t.plus.s(1))),
    10,
)
shape(
    "body replaced with what takes its arguments",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.swap_with.s(to=t.total.s())),
    3,
)
shape(
    "in a chain body replaced with a group",
    lambda t: chord([t.echo.s(1)], t.total.s() | t.swap.s(to=group(t.echo.s(1), t.echo.s(4))) | t.total.s()),
    5,
)
shape("replaced with what fails", lambda t: t.swap.s(to=t.boom.s()), BOOM)
shape("replaced with a chain that fails", lambda t: t.swap.s(to=chain(t.echo.s(1), t.boom.s(), t.plus.s(1))), BOOM)
shape("in a chain replaced with what fails", lambda t: t.echo.s(0) | t.swap.s(to=t.boom.s()) | t.plus.s(1), BOOM)
shape(
    "in a header replaced with what fails",
    lambda t: chord([t.swap.s(to=t.boom.s()), t.echo.s(1)], t.total.s()),
    ("ChordError", "Dependency <id> raised ValueError('boom')"),
)
shape("retried and then replaced", lambda t: t.swap.s(to=t.again.s(4)) | t.plus.s(1), 5)


@case({"value": 7, "notes": [[7]]})
def a_replaced_task_keeps_its_link(t, stage):
    canvas = t.swap.s(to=t.plus.s(1, 2) | t.plus.s(4))
    canvas.link(t.hear.s(key=stage.key))
    return {"value": stage.value(canvas), "notes": stage.notes(1)}


@case({"value": BOOM, "notes": ["failed"]})
def a_replaced_task_keeps_its_errback(t, stage):
    canvas = t.swap.s(to=t.boom.s()).on_error(t.note.si(stage.key, "failed"))
    return {"value": stage.value(canvas), "notes": stage.notes(1)}


@case({"value": 7, "notes": [[7]]})
def what_replaces_brings_its_link(t, stage):
    by = t.plus.s(1, 2) | t.plus.s(4)
    by.link(t.hear.s(key=stage.key))
    return {"value": stage.value(t.swap.s(to=by)), "notes": stage.notes(1)}


@case({"value": BOOM, "notes": ["failed"]})
def what_replaces_brings_its_errback(t, stage):
    by = chain(t.echo.s(1), t.boom.s()).on_error(t.note.si(stage.key, "failed"))
    return {"value": stage.value(t.swap.s(to=by)), "notes": stage.notes(1)}


@case({"value": 9, "notes": [[3], [9]]})
def links_inside_and_outside_of_what_replaces(t, stage):
    by = t.plus.s(1, 2)
    by.link(t.hear.s(key=stage.key))
    last = t.plus.s(6)
    last.link(t.hear.s(key=stage.key))
    return {"value": stage.value(t.swap.s(to=by) | last), "notes": stage.sorted_notes(2)}


@case({"value": [["bottom"]], "notes": ["in 2", "in 1", "in 0", ["bottom"], [["bottom"]]]})
def a_task_replaces_itself_twice(t, stage):
    value = stage.value(t.recurse.s(2, stage.key))
    return {"value": value, "notes": stage.notes(5)}


@case({"value": 3, "state": "SUCCESS", "same": True})
def what_replaces_has_the_id_of_what_it_replaced(t, stage):
    result = t.swap.s(to=t.plus.s(1, 2)).apply_async()
    again = stage.app.AsyncResult(result.id)
    return {"value": stage.value(result), "state": stage.ended(result), "same": again.id == result.id}


# -- retried ---------------------------------------------------------------------------------------------------------

shape("retried", lambda t: t.again.s(5, times=2), 5, core=True)
shape("retried in a chain", lambda t: t.echo.s(1) | t.again.s(times=2) | t.plus.s(1), 2, core=True)
shape("retried first in a chain", lambda t: t.again.s(1) | t.plus.s(1), 2)
shape("retried last in a chain", lambda t: t.echo.s(1) | t.again.s(), 1)
shape("retried in a group", lambda t: group(t.again.s(1), t.echo.s(2), t.again.s(3, times=2)), [1, 2, 3])
shape("retried in a header", lambda t: chord([t.again.s(1), t.echo.s(2)], t.echo.s()), [1, 2], core=True)
shape("retried as a body", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.again.s()), [1, 2])
shape("retried for what it raised", lambda t: t.echo.s(1) | t.flaky.s() | t.plus.s(1), 2)
shape("retried for what it raised, in a header", lambda t: chord([t.flaky.s(1), t.echo.s(2)], t.echo.s()), [1, 2])
shape(
    "a soft limit caught in a header",
    lambda t: chord([t.guarded.s(20).set(soft_time_limit=1), t.echo.s(2)], t.echo.s()),
    ["caught", 2],
)

# -- launched --------------------------------------------------------------------------------------------------------


@case({"value": 3}, by_id=True)
def a_task_starts_a_chain(t, stage):
    return {"value": stage.value(started(t, stage, t.plus.s(1, 1) | t.plus.s(1)))}


@case({"value": [11, 12]}, by_id=True)
def a_task_starts_a_group(t, stage):
    return {"value": stage.value(started(t, stage, group(t.plus.s(1, 10), t.plus.s(2, 10))))}


@case({"value": 3}, by_id=True)
def a_task_starts_a_chord(t, stage):
    return {"value": stage.value(started(t, stage, chord([t.echo.s(1), t.echo.s(2)], t.total.s())))}


@case({"value": 7, "notes": ["in", "started", "out"]}, by_id=True)
def a_task_in_a_chain_starts_a_chain(t, stage):
    inner = t.note.si(stage.key, "started") | t.echo.si(7)
    outer = t.note.si(stage.key, "in") | t.launch.si(inner)
    value = stage.value(result_from_tuple(stage.value(outer), app=stage.app))
    stage.value(t.note.si(stage.key, "out"))
    return {"value": value, "notes": stage.notes(3)}


@case(
    {"is a child": False},
    plain=({"is a child": True},),
    why="the children of a work are those that wait for it",
    by_id=True,
)
def what_a_task_starts_is_its_child(t, stage):
    result = t.launch.s(t.plus.s(1, 2)).apply_async()
    inner = result_from_tuple(stage.value(result), app=stage.app)
    stage.value(inner)
    return {"is a child": inner.id in [child.id for child in result.children or ()]}


def started(t, stage, what):
    """The result of the canvas that a task has started."""
    return result_from_tuple(stage.value(t.launch.s(what)), app=stage.app)
