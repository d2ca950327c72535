"""Chains, groups, chords."""

from __future__ import annotations

import re
import time
from typing import Any

from celery import chain, chord, chunks, group, signature
from celery.canvas import StampingVisitor

from tests.compat.apps import task
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, named, outcome

rows = Group("Canvas")


@task()
def double(x: int) -> int:
    return 2 * x


@task()
def collect(values: Any) -> Any:
    return ["collected", values]


@task(bind=True)
def place(self: Any, value: Any = None) -> Any:
    """Where in the canvas it is."""
    request = self.request
    return [request.id, request.parent_id, request.root_id, request.group, request.group_index]


@task(bind=True)
def stamped(self: Any, value: Any = None) -> Any:
    return self.request.stamps


@task()
def fail_after(value: Any) -> None:
    raise ValueError(f"no {value}")


class Stamps(StampingVisitor):
    def on_signature(self, sig: Any, **_: Any) -> dict[str, Any]:
        return {"stage": "here"}


def _run(side: Side, canvas: Any) -> Any:
    return side.get(canvas.apply_async())


@rows.row(
    "`chain(a, b)`, `a | b`", plain="the result is the next one’s first argument", expect=[14, 14], postgresql=True
)
def chains(side: Side) -> Any:
    line = chain(side.add.s(3, 4), side.double.s(), app=side.app)
    return [_run(side, line), _run(side, side.add.s(3, 4) | side.double.s())]


@rows.row("a chain of one, an empty chain", plain="a task; nothing", expect=[7, None])
def short_chains(side: Side) -> Any:
    return [_run(side, chain(side.add.s(3, 4), app=side.app)), chain(app=side.app).apply_async()]


@rows.row("immutable signatures", plain="take nothing of the result before them", expect=3)
def immutable(side: Side) -> Any:
    return _run(side, side.add.s(5, 5) | side.add.si(1, 2))


@rows.row("partials", plain="arguments at the call come first, keywords are merged", expect=[[1, 2], 13, 7])
def partials(side: Side) -> Any:
    both = side.get(side.echo_both.s(2).apply_async((1,)))
    line = side.get((side.add.s(2) | side.add.s(1)).apply_async((10,)))
    return [both, line, side.get(side.add.s(3).delay(4))]


@task()
def echo_both(x: int, y: int) -> Any:
    return [x, y]


@rows.row("`sig.clone()`, `sig.set()`, `signature(dict)`", plain="as documented", expect=[5, True, 3])
def signature_methods(side: Side) -> Any:
    first = side.add.s(2).clone((3,))
    placed = side.add.s(1, 2).set(countdown=1)
    again = signature(dict(side.add.s(1, 2)), app=side.app)
    return [_run(side, first), placed.options == {"countdown": 1}, _run(side, again)]


@rows.row("`chain(…)()`, `sig()`, `chain.delay()`", plain="a chain is sent, a signature is called", expect=[6, 3, 6])
def calls(side: Side) -> Any:
    line = chain(side.add.s(1, 2), side.double.s(), app=side.app)
    return [side.get(line()), side.add.s(1, 2)(), side.get(line.delay())]


@rows.row("`result.parent` of a chain", plain="the results before it", expect=[[14, 7], ["SUCCESS", "SUCCESS"], None])
def parents(side: Side) -> Any:
    result = chain(side.add.s(3, 4), side.double.s(), app=side.app).apply_async()
    side.get(result)
    return [[result.result, result.parent.result], [result.state, result.parent.state], result.parent.parent]


@rows.row("`result.children` of a chain", plain="the next one", expect=["<last>"])
def chain_children(side: Side) -> Any:
    result = chain(side.add.s(3, 4), side.double.s(), app=side.app).apply_async()
    side.get(result)
    return named([each.id for each in result.parent.children], side.names_of(last=result))


@rows.row(
    "`parent_id`, `root_id` in a chain",
    plain="the one before; the first",
    expect=[["<second>", "<first>", "<first>", None, None]],
)
def chain_ids(side: Side) -> Any:
    result = chain(side.add.s(3, 4), side.place.s(), app=side.app).apply_async()
    return named([side.get(result)], side.names_of(first=result.parent, second=result))


@rows.row(
    "a chain whose link fails", plain="what follows fails too", expect=["FAILURE", "FAILURE", "raises ValueError"]
)
def failing_chain(side: Side) -> Any:
    result = chain(side.add.s(1, 2), side.fail_after.s(), side.double.s(), app=side.app).apply_async()
    side.ended(result.parent, result)
    return [result.parent.state, result.state, outcome(lambda: result.get(timeout=10, interval=0.03))]


@rows.row(
    "revoking the first of a chain", plain="what follows never runs, and stays `PENDING`", expect=["REVOKED", "PENDING"],
    differs=Differs(shows=["REVOKED", "REVOKED"], worker="what follows is revoked too", because="As in WorkManager: cancelling cancels what depends on it."),
)  # fmt: skip
def revoked_chain(side: Side) -> Any:
    result = chain(side.add.s(1, 2).set(countdown=3), side.double.s(), app=side.app).apply_async()
    result.parent.revoke()
    side.ended(result.parent, *([result] if side.is_worker else ()))
    return [result.parent.state, result.state]


@rows.row("`group(…)`", plain="all run, results in order", expect=[3, 7], postgresql=True)
def groups(side: Side) -> Any:
    return _run(side, group(side.add.s(1, 2), side.add.s(3, 4), app=side.app))


@rows.row("`group` of partials", plain="each is given the argument", expect=[11, 12])
def group_partials(side: Side) -> Any:
    return side.get(group(side.add.s(1), side.add.s(2), app=side.app).apply_async((10,)))


@rows.row(
    "`group`, `group_index` in a group", plain="the group’s id, and the place in it", expect=[[True, 0], [True, 1]]
)
def group_ids(side: Side) -> Any:
    result = group(side.place.s(), side.place.s(), app=side.app).apply_async()
    return [[found[3] == result.id, found[4]] for found in side.get(result)]


@rows.row(
    "`chord(header)(body)`",
    plain="the body is given the list of results",
    expect=["collected", [3, 7]],
    postgresql=True,
)
def chords(side: Side) -> Any:
    return side.get(chord([side.add.s(1, 2), side.add.s(3, 4)], app=side.app)(side.collect.s()))


@rows.row("`group | task`", plain="is a chord", expect=["collected", [3, 7]])
def upgraded(side: Side) -> Any:
    return _run(side, group(side.add.s(1, 2), side.add.s(3, 4), app=side.app) | side.collect.s())


@rows.row("a chord with an immutable body", plain="the body is given nothing", expect=3)
def immutable_body(side: Side) -> Any:
    return side.get(chord([side.add.s(1, 2), side.add.s(3, 4)], app=side.app)(side.add.si(1, 2)))


@rows.row(
    "a chord of one, of none",
    plain="the body is given a list of one, of none",
    expect=[["collected", [3]], ["collected", []]],
)
def short_chords(side: Side) -> Any:
    one = side.get(chord([side.add.s(1, 2)], app=side.app)(side.collect.s()))
    return [one, side.get(chord([], app=side.app)(side.collect.s()))]


@rows.row(
    "a chord whose header fails", plain="the body fails with `ChordError`", expect=["FAILURE", "ChordError", True]
)
def chord_error(side: Side) -> Any:
    result = chord([side.add.s(1, 2), side.fail.s()], app=side.app)(side.collect.s())
    side.ended(result)
    message = str(result.result)
    return [result.state, type(result.result).__name__, "ValueError('no')" in message]


@rows.row("… with an errback on the body", plain="the errback is called", expect="ChordError")
def chord_errback(side: Side) -> Any:
    key = side.new_id()
    chord([side.add.s(1, 2), side.fail.s()], app=side.app)(side.collect.s().on_error(side.remember_error.s(key)))
    return side.noted(key)[0][2].partition(":")[0]


@rows.row("chains in a group, in a chord", plain="as documented", expect=[[6, 14], ["collected", [6, 14]]])
def chains_in_group(side: Side) -> Any:
    lines = [side.add.s(1, 2) | side.double.s(), side.add.s(3, 4) | side.double.s()]
    return [_run(side, group(lines, app=side.app)), side.get(chord(lines, app=side.app)(side.collect.s()))]


@rows.row("a group in the middle of a chain", plain="is a chord with the rest", expect=["collected", [8, 9]])
def group_in_chain(side: Side) -> Any:
    return _run(side, chain(side.add.s(3, 4), group(side.add.s(1), side.add.s(2)), side.collect.s(), app=side.app))


@rows.row("a group at the end of a chain", plain="a `GroupResult`", expect=[8, 9])
def group_at_end(side: Side) -> Any:
    return _run(side, chain(side.add.s(3, 4), group(side.add.s(1), side.add.s(2)), app=side.app))


@rows.row(
    "a group after a group", plain="each is given the list", expect=[["collected", [3, 7]], ["collected", [3, 7]]]
)
def group_after_group(side: Side) -> Any:
    first = group(side.add.s(1, 2), side.add.s(3, 4), app=side.app)
    return _run(side, first | group(side.collect.s(), side.collect.s(), app=side.app))


@rows.row(
    "a chord in a group, a chord in a chord",
    plain="as documented",
    expect=[[["collected", [3]], 3], ["collected", [["collected", [3, 7]], 3]]],
)
def nested_chords(side: Side) -> Any:
    inner = chord([side.add.s(1, 2)], side.collect.s(), app=side.app)
    two = chord([side.add.s(1, 2), side.add.s(3, 4)], side.collect.s(), app=side.app)
    outer = chord([two, side.add.s(1, 2)], side.collect.s(), app=side.app)
    return [_run(side, group(inner, side.add.s(1, 2), app=side.app)), _run(side, outer)]


@rows.row("a chord followed by a task", plain="extends the body", expect=["collected", ["collected", [3, 7]]])
def chord_then(side: Side) -> Any:
    return _run(side, chord([side.add.s(1, 2), side.add.s(3, 4)], side.collect.s(), app=side.app) | side.collect.s())


@rows.row("a group in a group", plain="flattened in a chord’s header; the order of nested members may change", expect=[1, 2, 3],
          differs=Differs(shows=["collected", [1, 2, 3]], worker="flattened, in the order in which it is written", because="Members keep their places in the graph."))  # fmt: skip
def group_in_group(side: Side) -> Any:
    inner = group(side.add.s(1, 0), side.add.s(1, 1), app=side.app)
    value = _run(side, chord([inner, side.add.s(1, 2)], side.collect.s(), app=side.app))
    return value if side.is_worker else sorted(value[1])


@rows.row("`task.map([…])`", plain="one task that calls it for each", expect=[2, 4, 6])
def maps(side: Side) -> Any:
    return _run(side, side.double.map([1, 2, 3]))


@rows.row("`task.starmap([…])`", plain="likewise, with several arguments", expect=[3, 7])
def starmaps(side: Side) -> Any:
    return _run(side, side.add.starmap([(1, 2), (3, 4)]))


@rows.row("`task.chunks(…, n)`, `.group()`", plain="a group of starmaps", expect=[[[3, 7], [11]], [[3, 7], [11]]])
def chunked(side: Side) -> Any:
    pairs = [(1, 2), (3, 4), (5, 6)]
    made: chunks = side.add.chunks(pairs, 2)
    return [_run(side, made), _run(side, made.group())]


@rows.row("`sig.stamp(…)`", plain="stamps are in `request.stamps`", expect={"tag": "blue"})
def stamps(side: Side) -> Any:
    sig = side.stamped.s()
    sig.stamp(tag="blue")
    return _run(side, sig)


@rows.row("a `StampingVisitor`", plain="stamps every task of the canvas", expect=[{"stage": "here"}, {"stage": "here"}])
def visitor(side: Side) -> Any:
    line = chain(side.stamped.s(), side.stamped.s(), app=side.app)
    line.stamp(Stamps())
    result = line.apply_async()
    side.get(result)
    return [result.parent.result, result.result]


@rows.row("a task that returns a signature’s result id", plain="nothing special", expect=[True])
def id_returned(side: Side) -> Any:
    return [side.state(side.look.AsyncResult(side.get(side.caller.delay()))) == "SUCCESS"]


@rows.row("`options` of a chain, of a group (`countdown`)", plain="on the first; on each", expect=[True, True])
def canvas_options(side: Side) -> Any:
    asked = time.time()
    first = chain(side.started_at.si(), app=side.app).apply_async(countdown=0.4)
    members = group(side.started_at.si(), side.started_at.si(), app=side.app).apply_async(countdown=0.4)
    return [side.get(first) - asked >= 0.35, all(each - asked >= 0.35 for each in side.get(members))]


mixed = Group("Replacing a task")


@task(bind=True)
def replace_by(self: Any, what: str, x: int) -> Any:
    add, double_ = self.app.tasks["compat.add"], self.app.tasks["compat.double"]
    collect_ = self.app.tasks["compat.collect"]
    raise self.replace(
        {
            "task": lambda: add.s(x, 1),
            "chain": lambda: chain(add.s(x, 1), double_.s(), app=self.app),
            "group": lambda: group(add.s(x, 1), add.s(x, 2), app=self.app),
            "chord": lambda: chord([add.s(x, 1), add.s(x, 2)], collect_.s(), app=self.app),
        }[what]()
    )


@task(bind=True)
def replace_with_place(self: Any) -> Any:
    raise self.replace(self.app.tasks["compat.show_nesting"].si())


@task(bind=True)
def show_nesting(self: Any) -> Any:
    return [self.request.id, self.request.root_id, self.request.replaced_task_nesting]


@task(bind=True)
def add_to_its_chord(self: Any, x: int) -> int:
    if x > 0:
        self.add_to_chord(self.app.tasks["compat.add"].s(x, 10))
    return x


@mixed.row("`self.replace(task)`", plain="its result is the task’s", expect=[6, "SUCCESS"], postgresql=True)
def replace(side: Side) -> Any:
    result = side.replace_by.delay("task", 5)
    return [side.get(result), result.state]


@mixed.row("… with a chain", plain="likewise, of its last", expect=12)
def replace_chain(side: Side) -> Any:
    return side.get(side.replace_by.delay("chain", 5))


@mixed.row("… with a group", plain="likewise, the list", expect=[6, 7])
def replace_group(side: Side) -> Any:
    return side.get(side.replace_by.delay("group", 5))


@mixed.row("… with a chord", plain="likewise, of its body", expect=["collected", [6, 7]])
def replace_chord(side: Side) -> Any:
    return side.get(side.replace_by.delay("chord", 5))


@mixed.row("… inside a chain", plain="what follows is given the new result", expect=12)
def replace_in_chain(side: Side) -> Any:
    return _run(side, side.replace_by.si("task", 5) | side.double.s())


@mixed.row("… inside a chord", plain="the body is given the new result", expect=["collected", [6, 3]])
def replace_in_chord(side: Side) -> Any:
    return side.get(chord([side.replace_by.si("task", 5), side.add.s(1, 2)], app=side.app)(side.collect.s()))


@mixed.row("… with a `link`", plain="the link is called with the new result", expect=["linked 6"])
def replace_linked(side: Side) -> Any:
    side.replace_by.apply_async(("task", 5), link=side.remember.s(key := side.new_id()))
    return side.noted(key)


@mixed.row(
    "`request.id`, `root_id`, `replaced_task_nesting` of the new task", plain="the id stays", expect=["<it>", "<it>", 1]
)
def replace_ids(side: Side) -> Any:
    result = side.replace_with_place.delay()
    return named(side.get(result), side.names_of(it=result))


@mixed.row(
    "`self.add_to_chord(sig)`", plain="one more member of its chord’s header (on Redis)", expect=[5, 15],
    differs=Differs(shows="UnsupportedOperation", worker="refused with `UnsupportedOperation`",
                    because="The header of a durable chord is known when it is enqueued; use `self.replace` with a group."),
)  # fmt: skip
def add_to_chord(side: Side) -> Any:
    result = chord([side.add_to_its_chord.si(5), side.add_to_its_chord.si(0)], app=side.app)(side.collect.s())
    if not side.is_worker:
        return sorted(value for value in side.get(result)[1] if value)
    side.ended(result)
    found = re.search(r"raised (\w+)", str(result.result))
    return found and found[1]
