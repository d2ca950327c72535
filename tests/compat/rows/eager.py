"""Running without a worker: apply() and task_always_eager."""

from __future__ import annotations

import warnings
from typing import Any

from celery import chain, chord, group

from tests.compat.apps import task
from tests.compat.registry import Group
from tests.compat.side import Side, outcome, shown

# Celery forbids waiting for results in the whole process while a task runs eagerly.
rows = Group("Running here: `apply()`, `task_always_eager`", alone=True)


@task(bind=True)
def look_eager(self: Any) -> Any:
    request = self.request
    return [request.is_eager, request.called_directly, request.retries, request.id is not None]


@task(bind=True, max_retries=3)
def retry_eagerly(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=60)
    return int(self.request.retries)


@task(bind=True)
def update_eagerly(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"x": 1})
    return "done"


@task()
def total(numbers: list[int]) -> int:
    return sum(numbers)


@rows.row("`apply()`", plain="runs here and gives an `EagerResult`", expect=["EagerResult", 3, "SUCCESS", True, True])
def apply(side: Side) -> Any:
    result = side.add.apply((1,), {"y": 2})
    return [type(result).__name__, result.get(), result.state, result.ready(), result.successful()]


@rows.row(
    "… of a task that fails",
    plain="`FAILURE`, with its exception and traceback",
    expect=["FAILURE", "ValueError: no", True, "raises ValueError"],
)
def apply_failing(side: Side) -> Any:
    result = side.fail.apply()
    return [result.state, shown(result.result), "raise ValueError" in result.traceback, outcome(result.get)]


@rows.row("`apply(throw=True)`", plain="raises the exception", expect="raises ValueError")
def apply_throwing(side: Side) -> Any:
    return outcome(lambda: side.fail.apply(throw=True))


@rows.row("`apply()`: `self.request`", plain="is eager", expect=[True, False, 0, True])
def apply_request(side: Side) -> Any:
    return side.look_eager.apply().get()


@rows.row("`apply()`: `self.retry()`", plain="runs again at once", expect=2)
def apply_retry(side: Side) -> Any:
    return side.retry_eagerly.apply().get()


@rows.row("`apply(link=…)`", plain="callbacks are sent to a worker", expect=[3, ["linked 3"]])
def apply_link(side: Side) -> Any:
    key = side.new_id()
    result = side.add.apply((1, 2), link=side.remember.s(key))
    return [result.get(), side.noted(key)]


@rows.row("`apply()`: hooks", plain="are called", expect=["before_start", "on_success", "after_return"])
def apply_hooks(side: Side) -> Any:
    return [name for name, *_ in side.notes(side.hooked.apply((1,)).id)]


@rows.row("`apply()`: `update_state()`", plain="nothing is stored", expect="done")
def apply_update(side: Side) -> Any:
    return side.update_eagerly.apply().get()


@rows.row("`task_always_eager`", plain="`delay` runs here and gives an `EagerResult`", expect=["EagerResult", 3])
def always_eager(side: Side) -> Any:
    result = side.other_app(task_always_eager=True).add.delay(1, 2)
    return [type(result).__name__, result.get()]


@rows.row("… an exception", plain="is in the result", expect=["FAILURE", "raises ValueError"])
def eager_failure(side: Side) -> Any:
    result = side.other_app(task_always_eager=True).fail.delay()
    return [result.state, outcome(result.get)]


@rows.row("… with `task_eager_propagates`", plain="is raised by `delay`", expect="raises ValueError")
def eager_propagates(side: Side) -> Any:
    other = side.other_app(task_always_eager=True, task_eager_propagates=True)
    return outcome(other.fail.delay)


@rows.row("… with `task_store_eager_result`", plain="the result is stored", expect=["SUCCESS", 3])
def eager_stored(side: Side) -> Any:
    other = side.other_app(task_always_eager=True, task_store_eager_result=True)
    stored = other.add.AsyncResult(other.add.delay(1, 2).id)
    return [stored.state, stored.result]


@rows.row("… without", plain="nothing is stored", expect="PENDING")
def eager_not_stored(side: Side) -> Any:
    other = side.other_app(task_always_eager=True)
    with warnings.catch_warnings(action="ignore"):
        return other.add.AsyncResult(other.add.delay(1, 2).id).state


@rows.row("… arguments", plain="go through the serializer, as on a worker", expect="list")
def eager_arguments(side: Side) -> Any:
    return side.other_app(task_always_eager=True).echo.delay((1, 2)).get()[0]


@rows.row("… `countdown`, `eta`, `expires`", plain="are ignored", expect=3)
def eager_countdown(side: Side) -> Any:
    return side.other_app(task_always_eager=True).add.apply_async((1, 2), countdown=60, expires=1).get()


@rows.row("… `chain`, `group`, `chord`", plain="run here", expect=[6, [2, 4], 6])
def eager_canvas(side: Side) -> Any:
    other = side.other_app(task_always_eager=True)
    pair = [other.add.s(1, 1), other.add.s(2, 2)]
    line = chain(other.add.s(1, 2), other.add.s(3)).apply_async()
    both = group(pair).apply_async()
    return [line.get(), both.get(), chord(pair)(other.total.s()).get()]


@rows.row("… `link`, `link_error`", plain="run here", expect=[["linked 3"], True])
def eager_link(side: Side) -> Any:
    other = side.other_app(task_always_eager=True)
    key, failed = side.new_id(), side.new_id()
    other.add.apply_async((1, 2), link=other.remember.s(key))
    other.fail.apply_async(link_error=other.remember_error.s(failed))
    return [side.notes(key), bool(side.notes(failed))]


@rows.row("… `autoretry_for`", plain="runs again at once", expect=2)
def eager_autoretry(side: Side) -> Any:
    return side.other_app(task_always_eager=True).auto.delay(2).get()
