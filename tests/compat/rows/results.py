"""AsyncResult, GroupResult, ResultSet."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult, ResultSet, allow_join_result, result_from_tuple

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import REDIS, Differs, Group
from tests.compat.side import Side, named, outcome, shown

rows = Group("`AsyncResult`")


class Odd(Exception):
    """An exception of the project's own."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(what, number)
        self.number = number


@task()
def fail(message: str = "no") -> None:
    raise ValueError(message)


@task()
def fail_with_key(key: str) -> None:
    nothing: dict[str, str] = {}
    nothing[key]


@task()
def fail_oddly() -> None:
    raise Odd("odd", 3)


@task()
def unstorable() -> Any:
    return object()


@task(bind=True)
def wait_for(self: Any, key: str, seconds: float = 15) -> str:
    """Run until somebody leaves a note under a key."""
    from tests.compat.journal import notes

    note(self.request.id, "running")
    end = time.monotonic() + seconds
    while not notes(key) and time.monotonic() < end:
        time.sleep(0.02)
    return "done"


@task(bind=True)
def get_inside(self: Any, allowed: bool = False) -> Any:
    """Wait for another task while running."""
    inner = self.app.tasks["compat.add"].delay(1, 2)
    if not allowed:
        return inner.get(timeout=10, interval=0.03)
    with allow_join_result():
        return inner.get(timeout=10, interval=0.03)


@task(bind=True)
def get_inside_with_option(self: Any) -> Any:
    inner = self.app.tasks["compat.add"].delay(1, 2)
    return inner.get(timeout=10, interval=0.03, disable_sync_subtasks=False)


@rows.row(
    "`ready()`, `successful()`, `failed()`, `state`, `result` of a success", plain="as documented",
    expect=[True, True, False, "SUCCESS", "SUCCESS", 3, 3, None], postgresql=True,
)  # fmt: skip
def success(side: Side) -> Any:
    result = side.ended(side.add.delay(1, 2))
    facts = [result.ready(), result.successful(), result.failed(), result.state, result.status]
    return [*facts, result.result, result.info, result.traceback]


@rows.row(
    "… of a failure", plain="as documented; `result` is the exception",
    expect=[True, False, True, "FAILURE", "ValueError: no", "ValueError: no", True], postgresql=True,
)  # fmt: skip
def failure(side: Side) -> Any:
    result = side.ended(side.fail.delay())
    facts = [result.ready(), result.successful(), result.failed(), result.state]
    return [*facts, shown(result.result), shown(result.info), "raise ValueError(message)" in result.traceback]


@rows.row(
    "… of a task that waits", plain="`PENDING`, `info` is `None`", expect=[False, False, False, "PENDING", None],
    differs=Differs(shows=[False, False, False, "PENDING", "ENQUEUED"], worker="`PENDING`; `info` is its `WorkInfo` as a dict",
                    because="More is known of a work."),
)  # fmt: skip
def waiting(side: Side) -> Any:
    result = side.add.apply_async((1, 2), countdown=30)
    info = result.info if result.info is None else result.info["state"]
    seen = [result.ready(), result.successful(), result.failed(), result.state, info]
    result.revoke()
    return seen


@rows.row(
    "`state` of a task that runs", plain="`PENDING`, or `STARTED` with `track_started`", expect="PENDING",
    differs=Differs(shows="STARTED", worker="`STARTED` once it has run for 20 ms",
                    because="The start of a work is written anyway; a shorter run is written once, at its end."),
)  # fmt: skip
def running(side: Side) -> Any:
    result = side.wait_for.delay(key := side.new_id())
    side.noted(result)
    if side.is_worker:
        from tests.compat.side import until

        until(lambda: result.state != "PENDING", "it is shown to run")
    state = result.state
    side.note(key, "go")
    side.get(result)
    return state


@rows.row("`get()`", plain="the value, or the exception is raised", expect=[3, "raises ValueError"])
def get(side: Side) -> Any:
    succeeded, failed = side.add.delay(1, 2), side.fail.delay()
    return [succeeded.get(timeout=15, interval=0.03), outcome(lambda: failed.get(timeout=15, interval=0.03))]


@rows.row("`get(propagate=False)`", plain="the exception is returned", expect="ValueError: no")
def get_without_raising(side: Side) -> Any:
    return shown(side.fail.delay().get(timeout=15, interval=0.03, propagate=False))


@rows.row("`get(timeout=…)`", plain="raises `celery.exceptions.TimeoutError`", expect=True)
def get_in_time(side: Side) -> Any:
    result = side.add.apply_async((1, 2), countdown=30)
    try:
        result.get(timeout=0.1, interval=0.03)
    except CeleryTimeoutError:
        result.revoke()
        return True
    return False


@rows.row("`get(callback=…, on_interval=…)`", plain="the callback is given id and value", expect=[["<it>", 3]])
def get_callback(side: Side) -> Any:
    told: list[Any] = []
    result = side.add.delay(1, 2)
    side.get(result, callback=lambda task_id, value: told.append([task_id, value]))
    return named(told, side.names_of(it=result))


@rows.row("`get()` a second time", plain="the same value", expect=[3, 3])
def get_twice(side: Side) -> Any:
    result = side.add.delay(1, 2)
    return [side.get(result), side.get(result)]


@rows.row(
    "`get()` inside a task", plain="`RuntimeError`: never wait for a task in a task", expect=["RuntimeError", 3, 3]
)
def get_in_task(side: Side) -> Any:
    refused = side.failure(side.get_inside.delay()).partition(":")[0]
    return [refused, side.get(side.get_inside.delay(allowed=True)), side.get(side.get_inside_with_option.delay())]


@rows.row(
    "exceptions", plain="come back with their class and arguments",
    expect=["KeyError: 'k'", ["k"], "Odd", ["odd", 3], 3],
)  # fmt: skip
def exceptions(side: Side) -> Any:
    key = side.ended(side.fail_with_key.delay("k")).result
    odd = side.ended(side.fail_oddly.delay()).result
    return [shown(key), list(key.args), type(odd).__name__, list(odd.args), odd.number]


@rows.row(
    "a value that is not JSON", plain="the task fails with `EncodeError`", expect="EncodeError",
    differs=Differs(shows="DataNotStorable", worker="the task fails with `DataNotStorable`, which says what it is",
                    because="Our own error, since a message was never encoded."),
)  # fmt: skip
def not_json(side: Side) -> Any:
    return side.failure(side.unstorable.delay()).partition(":")[0]


@rows.row(
    "`task.AsyncResult(id)`", plain="reads the app’s result backend", expect=["SUCCESS", 3], note="Workers: the store."
)
def of_the_task(side: Side) -> Any:
    result = side.add.AsyncResult(side.ended(side.add.delay(1, 2)).id)
    return [result.state, result.result]


@rows.row(
    "`app.AsyncResult(id)`", plain="reads the app’s result backend", expect=["SUCCESS", 3],
    differs=Differs(shows=["PENDING", None], sides=[REDIS],
                    worker="knows no works, unless the result backend is `workmanager`: use `task.AsyncResult(id)`",
                    because="The result of a work is in the store; an id alone doesn’t say that it is a work’s."),
)  # fmt: skip
def of_the_app(side: Side) -> Any:
    result = side.app.AsyncResult(side.ended(side.add.delay(1, 2)).id)
    return [result.state, result.result]


@rows.row("an unknown id", plain="is `PENDING`", expect=["PENDING", None])
def unknown(side: Side) -> Any:
    result = side.add.AsyncResult(side.new_id())
    return [result.state, result.result]


@rows.row("`exists()`", plain="whether the backend knows the task", expect=[True, False], note="Celery 5.7.")
def exists(side: Side) -> Any:
    done = side.ended(side.add.delay(1, 2))
    return [done.exists(), side.add.AsyncResult(side.new_id()).exists()]


@rows.row(
    "`name`, `args`, `kwargs`, `queue`, `worker`, `retries`", plain="with `result_extended`: what was called, and where",
    expect=["compat.add", [1], {"y": 2}, "the queue", "the worker", 0],
    differs=Differs(shows=["compat.add", [], {"x": 1, "y": 2}, "the queue", None, 0],
                    worker="the same; arguments by name where every parameter has one; `worker` is `None`",
                    because="So stored calls outlive a change of the order of parameters. Which worker ran a work is not kept."),
)  # fmt: skip
def extended(side: Side) -> Any:
    result = side.ended(side.add.delay(1, y=2))
    names = {side.facts.space: "the queue", side.node: "the worker"}
    where = [names.get(result.queue), names.get(result.worker)]
    return [result.name, list(result.args), result.kwargs, *where, result.retries]


@rows.row("`date_done`", plain="when it ended, in UTC", expect=[True, 0.0])
def date_done(side: Side) -> Any:
    before = datetime.now(UTC)
    done = side.ended(side.add.delay(1, 2)).date_done
    offset = done.utcoffset()
    done = done if offset is not None else done.replace(tzinfo=UTC)
    return [0 <= (done - before).total_seconds() < 15, offset.total_seconds() if offset is not None else 0.0]


@rows.row("`forget()`", plain="the result is gone: `PENDING`", expect=[3, "PENDING"])
def forget(side: Side) -> Any:
    result = side.add.delay(1, 2)
    value = side.get(result)
    result.forget()
    return [value, side.add.AsyncResult(result.id).state]


@rows.row("`parent`", plain="`None`, outside a canvas", expect=[None, True])
def parent(side: Side) -> Any:
    result = side.add.delay(1, 2)
    return [result.parent, side.get(result) == 3]


@rows.row(
    "`children`, `get_leaf()`, `collect()`", plain="what the task called, and their results",
    expect=[["<child>"], ["<parent>", "<child>"]],
    differs=Differs(shows=[[], ["<parent>"]], worker="the works that wait for it in a canvas, not those that it called",
                    because="A work keeps its own result alone; `parent_id` leads from a call to who made it."),
)  # fmt: skip
def children(side: Side) -> Any:
    result = side.caller.delay()
    child = side.look.AsyncResult(side.get(result))
    side.ended(child)
    tree = [each.id for each, _ in result.collect(timeout=10, interval=0.03)]
    names = side.names_of(parent=result, child=child)
    return [named([each.id for each in result.children], names), named(tree, names)]


@rows.row("`maybe_throw()`", plain="raises the exception of a failure", expect="raises ValueError")
def maybe_throw(side: Side) -> Any:
    return outcome(side.ended(side.fail.delay()).maybe_throw)


@rows.row("`as_tuple()`, `result_from_tuple()`", plain="there and back", expect=[True, 3])
def as_tuple(side: Side) -> Any:
    result = side.add.delay(1, 2)
    side.get(result)
    again = result_from_tuple(result.as_tuple(), side.app)
    return [again == result, side.add.AsyncResult(again.id).result]


@rows.row("`then(callback)`", plain="called when the result is there and was waited for", expect=["<it>"])
def then(side: Side) -> Any:
    told: list[str] = []
    result = side.add.delay(1, 2)
    result.then(lambda done: told.append(done.id))
    result.get(timeout=15, interval=0.03)
    return named(told, side.names_of(it=result))


groups = Group("`GroupResult`, `ResultSet`")


def _group(side: Side, *signatures: Any) -> GroupResult:
    from celery import group

    sent: GroupResult = group(*signatures, app=side.app).apply_async()
    return sent


@groups.row(
    "`get()`, `join()`", plain="the values, in the order of the members", expect=[[2, 4, 6], [2, 4, 6]], postgresql=True
)
def join(side: Side) -> Any:
    result = _group(side, *(side.add.s(n, n) for n in (1, 2, 3)))
    return [result.get(timeout=15, interval=0.03), result.join(timeout=15, interval=0.03)]


@groups.row(
    "`completed_count()`, `ready()`, `successful()`, `failed()`, `waiting()`", plain="as documented",
    expect=[2, True, True, False, False],
)  # fmt: skip
def counts(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    side.ended(result)
    return [result.completed_count(), result.ready(), result.successful(), result.failed(), result.waiting()]


@groups.row(
    "… with a member that fails", plain="`get()` raises its exception, or returns it with `propagate=False`",
    expect=["raises ValueError", [2, "ValueError: no"], False, True, 1],
)  # fmt: skip
def failed_member(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.fail.s())
    side.ended(*result.results)
    raised = outcome(lambda: result.get(timeout=15, interval=0.03))
    values = result.get(timeout=15, interval=0.03, propagate=False)
    values = [shown(each) if isinstance(each, Exception) else each for each in values]
    return [raised, values, result.successful(), result.failed(), result.completed_count()]


@groups.row(
    "`results`, `children`, `len()`, `[i]`, iteration",
    plain="the members’ `AsyncResult`s",
    expect=[2, True, True, True],
)
def members(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    side.ended(*result.results)
    ids = [each.id for each in result.results]
    kinds = [[each.id for each in result.children] == ids, result[1].id == ids[1], [each.id for each in result] == ids]
    return [len(result), *kinds]


_ELSEWHERE = "The app’s backend keeps the ids, and an id alone doesn’t say that it is a work’s."


@groups.row(
    "`save()`, `GroupResult.restore()`, `delete()`", plain="kept in the result backend", expect=[[2, 4], None],
    differs=Differs(shows=["raises TimeoutError", None], sides=[REDIS], because=_ELSEWHERE,
                    worker="the same if the result backend is `workmanager`; else the restored members aren’t found"),
)  # fmt: skip
def save(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    side.ended(*result.results)
    result.save()
    restored = GroupResult.restore(result.id, app=side.app)
    values = outcome(lambda: restored.get(timeout=0.5, interval=0.03))
    result.delete()
    return [values, GroupResult.restore(result.id, app=side.app)]


@groups.row("`revoke()`", plain="revokes every member", expect=["REVOKED", "REVOKED"])
def revoke(side: Side) -> Any:
    result = _group(side, *(side.add.s(n, n).set(countdown=3) for n in (1, 2)))
    result.revoke()
    side.ended(*result.results)
    return [each.state for each in result.results]


@groups.row("`forget()`", plain="forgets every member", expect=["PENDING", "PENDING"])
def forget_group(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    side.ended(*result.results)
    ids = [each.id for each in result.results]
    result.forget()
    return [side.add.AsyncResult(each).state for each in ids]


@groups.row("`group()` of nothing", plain="an empty `GroupResult`", expect=[[], True, 0])
def empty(side: Side) -> Any:
    result = _group(side)
    return [result.get(timeout=5, interval=0.03), result.successful(), len(result)]


@groups.row(
    "`iter_native()`, `join_native()`", plain="ids and metadata as they come, values in order", expect=[[2, 4], [2, 4]],
    note="Of results in one backend: Workers and plain tasks together need `join()`.",
)  # fmt: skip
def iter_native(side: Side) -> Any:
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    metas = sorted(meta["result"] for _, meta in result.iter_native(timeout=15, interval=0.03))
    return [metas, result.join_native(timeout=15, interval=0.03)]


@groups.row(
    "`ResultSet([…])`: `get()`, `add()`, `discard()`, `completed_count()`",
    plain="any results together",
    expect=[[2, 4], 2, [2]],
)
def result_set(side: Side) -> Any:
    first, second = side.add.delay(1, 1), side.add.delay(2, 2)
    together = ResultSet([first], app=side.app)
    together.add(second)
    values = together.get(timeout=15, interval=0.03)
    count = together.completed_count()
    together.discard(second)
    return [values, count, together.get(timeout=15, interval=0.03)]


@groups.row("`join(callback=…)`", plain="told of each value", expect=[2, 4])
def join_callback(side: Side) -> Any:
    told: list[Any] = []
    result = _group(side, side.add.s(1, 1), side.add.s(2, 2))
    result.join(timeout=15, interval=0.03, callback=lambda _id, value: told.append(value))
    return sorted(told)
