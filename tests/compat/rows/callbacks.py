"""Callbacks and errbacks."""

from __future__ import annotations

from typing import Any

from celery import chain, group

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import Group
from tests.compat.side import Side, named

rows = Group("Callbacks and errbacks")


@task()
def remember(value: Any, key: str) -> Any:
    note(key, f"linked {value}")
    return value


@task()
def remember_that(key: str) -> None:
    note(key, "linked")


@task()
def remember_error(request: Any, exc: Any, traceback: Any, key: str = "") -> None:
    note(key or traceback, _told(request, exc, traceback))


def _told(request: Any, exc: Any, traceback: Any) -> Any:
    kind = f"{type(exc).__name__}: {exc}"
    return [request.id, request.task, kind, "Traceback" in str(traceback)]


@task()
def remember_failed_id(task_id: str) -> None:
    """An errback of the old style: it is given the id of the task that failed."""
    note(f"{task_id}-failed", "told")


@task(bind=True)
def remember_parent(self: Any, value: Any, key: str) -> None:
    note(key, [self.request.parent_id, self.request.root_id])


@rows.row("`link`", plain="called with the result", expect=[3, ["linked 3"]], postgresql=True)
def link(side: Side) -> Any:
    key = side.new_id()
    value = side.get(side.add.apply_async((1, 2), link=side.remember.s(key)))
    return [value, side.noted(key)]


@rows.row("`link`, immutable", plain="called with its own arguments alone", expect=["linked"])
def link_immutable(side: Side) -> Any:
    side.add.apply_async((1, 2), link=side.remember_that.si(key := side.new_id()))
    return side.noted(key)


@rows.row("several `link`s", plain="all are called", expect=[["linked 3"], ["linked"]])
def links(side: Side) -> Any:
    first, second = side.new_id(), side.new_id()
    side.add.apply_async((1, 2), link=[side.remember.s(first), side.remember_that.si(second)])
    return [side.noted(first), side.noted(second)]


@rows.row(
    "`link` to a chain, to a group", plain="called with the result", expect=[["linked 13"], ["linked 3", "linked 3"]]
)
def link_canvas(side: Side) -> Any:
    first, second = side.new_id(), side.new_id()
    side.add.apply_async((1, 2), link=chain(side.add.s(10), side.remember.s(first)))
    side.add.apply_async((1, 2), link=group(side.remember.s(second), side.remember.s(second)))
    return [side.noted(first), side.noted(second, 2)]


@rows.row("`link` of a task that fails", plain="is not called", expect=["FAILURE", []])
def link_of_failure(side: Side) -> Any:
    result = side.fail.apply_async(link=side.remember.s(key := side.new_id()))
    state = side.state(result)
    side.get(side.add.delay(1, 1))
    return [state, side.notes(key)]


@rows.row("`link` of a task that is retried", plain="called once, at the end", expect=["linked 2"])
def link_of_retry(side: Side) -> Any:
    result = side.retry_twice.apply_async(link=side.remember.s(key := side.new_id()))
    side.get(result)
    return side.noted(key)


@rows.row("a linked task’s `parent_id`, `root_id`", plain="the task it was linked to", expect=[["<it>", "<it>"]])
def link_parent(side: Side) -> Any:
    result = side.add.apply_async((1, 2), link=side.remember_parent.s(key := side.new_id()))
    return named(side.noted(key), side.names_of(it=result))


@rows.row("`children` with a `link`", plain="the linked task", expect=[["compat.remember"], True])
def link_children(side: Side) -> Any:
    result = side.add.apply_async((1, 2), link=side.remember.s(key := side.new_id()))
    side.get(result)
    side.noted(key)
    [child] = result.children
    child = side.remember.AsyncResult(child.id)
    return [[side.ended(child).name], child.result == 3]


@rows.row(
    "`link_error`: `errback(request, exc, traceback)`", plain="called in the worker with what failed",
    expect=[["<it>", "compat.fail", "ValueError: no", True]], postgresql=True,
)  # fmt: skip
def errback(side: Side) -> Any:
    result = side.fail.apply_async(link_error=side.remember_error.s(key := side.new_id()))
    return named(side.noted(key), side.names_of(it=result))


@rows.row(
    "`link_error`: `errback(task_id)`, the old style",
    plain="called as a task with the id of what failed",
    expect=["told"],
)
def old_errback(side: Side) -> Any:
    result = side.fail.apply_async(link_error=side.remember_failed_id.s())
    return side.noted(f"{result}-failed")


@rows.row("`link_error` of a success", plain="is not called", expect=[3, []])
def errback_of_success(side: Side) -> Any:
    value = side.get(side.add.apply_async((1, 2), link_error=side.remember_error.s(key := side.new_id())))
    side.get(side.add.delay(1, 1))
    return [value, side.notes(key)]


@rows.row("several `link_error`s", plain="all are called", expect=[1, 1])
def errbacks(side: Side) -> Any:
    keys = [side.new_id(), side.new_id()]
    side.fail.apply_async(link_error=[side.remember_error.s(key) for key in keys])
    return [len(side.noted(key)) for key in keys]


@rows.row("`link_error` after a time limit", plain="called", expect="TimeLimitExceeded")
def errback_of_limit(side: Side) -> Any:
    side.hard_limited.apply_async(link_error=side.remember_error.s(key := side.new_id()))
    return side.noted(key)[0][2].partition(":")[0]


@rows.row("`link_error` after the last retry", plain="called once", expect=["MaxRetriesExceededError"])
def errback_of_retries(side: Side) -> Any:
    result = side.give_up.apply_async(link_error=side.remember_error.s(key := side.new_id()))
    side.ended(result)
    return [each[2].partition(":")[0] for each in side.noted(key)]


@rows.row("`link_error` of a revoked task", plain="is not called", expect=["REVOKED", []])
def errback_of_revoked(side: Side) -> Any:
    result = side.add.apply_async((1, 2), countdown=3, link_error=side.remember_error.s(key := side.new_id()))
    result.revoke()
    state = side.state(result)
    side.get(side.add.delay(1, 1))
    return [state, side.notes(key)]


@rows.row("`chain.link_error`", plain="called for whichever link fails", expect=["compat.fail", 1])
def chain_errback(side: Side) -> Any:
    key = side.new_id()
    line = chain(side.add.s(1, 2), side.fail.si(), side.add.si(1, 1), app=side.app)
    line.link_error(side.remember_error.s(key))
    result = line.apply_async()
    side.ended(result.parent)
    told = side.noted(key)
    return [told[0][1], len(told)]


@rows.row("`group.link_error`", plain="called for each member that fails", expect=["compat.fail"])
def group_errback(side: Side) -> Any:
    key = side.new_id()
    both = group(side.add.s(1, 2), side.fail.s(), app=side.app)
    both.link_error(side.remember_error.s(key))
    both.apply_async()
    return [each[1] for each in side.noted(key)]


@rows.row("`sig.on_error(…)`, `sig.link(…)`", plain="the same, said on a signature", expect=[["linked 3"], 1])
def on_error(side: Side) -> Any:
    key, failed = side.new_id(), side.new_id()
    good = side.add.s(1, 2)
    good.link(side.remember.s(key))
    good.apply_async()
    side.fail.s().on_error(side.remember_error.s(failed)).apply_async()
    return [side.noted(key), len(side.noted(failed))]
