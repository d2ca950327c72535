"""The hooks of a task class."""

from __future__ import annotations

import time
from typing import Any

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, named, until

rows = Group("Hooks")


def _text(value: Any) -> Any:
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else value


class Hooked:
    """Notes each hook with its arguments."""

    def _note(self, hook: str, task_id: str, *arguments: Any) -> None:
        note(task_id, [hook, *(_text(each) for each in arguments)])

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self._note("before_start", task_id, task_id, args, kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._note("on_success", task_id, retval, task_id, args, kwargs)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("on_failure", task_id, exc, task_id, args, kwargs, type(einfo).__name__)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("on_retry", task_id, exc, task_id, args, kwargs, type(einfo).__name__)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note("after_return", task_id, status, retval, task_id, args, kwargs, type(einfo).__name__)


class Wrapping:
    """Does something around each run."""

    request: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note(self.request.id, "before")
        value = super().__call__(*args, **kwargs)  # type: ignore[misc]
        note(self.request.id, "after")
        return f"wrapped {value}"


class Breaking:
    """A hook that fails."""

    def on_success(self, *_: Any) -> None:
        raise RuntimeError("the hook")


@task(mixin=Hooked)
def hooked(x: int, y: int = 0) -> int:
    return x + y


@task(mixin=Hooked)
def hooked_failing(x: int) -> None:
    raise ValueError("no")


@task(mixin=Hooked, bind=True)
def hooked_retrying(self: Any, x: int) -> int:
    if self.request.retries < 1:
        try:
            raise ValueError("again")
        except ValueError as cause:
            raise self.retry(exc=cause, countdown=0.5) from cause  # after the hooks of this run
    return x


@task(mixin=Hooked, time_limit=1)
def hooked_endless(x: int) -> None:
    time.sleep(30)


@task(mixin=Wrapping)
def wrapped(x: int) -> int:
    return x


@task(mixin=Breaking)
def breaking() -> int:
    return 1


def _hooks(side: Side, result: Any, count: int) -> Any:
    side.ended(result)
    return named(side.noted(result, count), side.names_of(it=result))


_BY_NAME = "Arguments that can be are stored by name, so hooks see them as keywords."


@rows.row(
    "`before_start`, `on_success`, `after_return`", plain="called in this order, with these arguments",
    expect=[["before_start", "<it>", [1], {"y": 2}], ["on_success", 3, "<it>", [1], {"y": 2}],
            ["after_return", "SUCCESS", 3, "<it>", [1], {"y": 2}, "NoneType"]],
    differs=Differs(shows=[["before_start", "<it>", [], {"x": 1, "y": 2}], ["on_success", 3, "<it>", [], {"x": 1, "y": 2}],
                           ["after_return", "SUCCESS", 3, "<it>", [], {"x": 1, "y": 2}, "NoneType"]],
                    worker="the same, arguments by name", because=_BY_NAME),
)  # fmt: skip
def success_hooks(side: Side) -> Any:
    return _hooks(side, side.hooked.delay(1, y=2), 3)


@rows.row(
    "`on_failure`", plain="called with the exception and an `ExceptionInfo`",
    expect=[["before_start", "<it>", [], {"x": 1}], ["on_failure", "ValueError: no", "<it>", [], {"x": 1}, "ExceptionInfo"],
            ["after_return", "FAILURE", "ValueError: no", "<it>", [], {"x": 1}, "NoneType"]],
)  # fmt: skip
def failure_hooks(side: Side) -> Any:
    return _hooks(side, side.hooked_failing.delay(x=1), 3)


@rows.row(
    "`on_retry`", plain="called with the exception and an `ExceptionInfo`, at each retry",
    expect=[["before_start", "<it>", [], {"x": 1}], ["on_retry", "ValueError: again", "<it>", [], {"x": 1}, "ExceptionInfo"],
            ["before_start", "<it>", [], {"x": 1}], ["on_success", 1, "<it>", [], {"x": 1}],
            ["after_return", "SUCCESS", 1, "<it>", [], {"x": 1}, "NoneType"]],
)  # fmt: skip
def retry_hooks(side: Side) -> Any:
    return _hooks(side, side.hooked_retrying.delay(x=1), 5)


@rows.row(
    "`on_failure` after a hard time limit", plain="called in the worker’s main process",
    expect=["before_start", "on_failure", "after_return"], note="Celery 5.7.",
)  # fmt: skip
def timeout_hooks(side: Side) -> Any:
    return [name for name, *_ in _hooks(side, side.hooked_endless.delay(x=1), 3)]


@rows.row(
    "`__call__`", plain="runs around `run`, and its value is the result", expect=["wrapped 1", ["before", "after"]]
)
def call_hook(side: Side) -> Any:
    result = side.wrapped.delay(1)
    return [side.get(result), side.notes(result)]


@rows.row(
    "`on_success` that raises", plain="the error is logged; the task has succeeded", expect=["SUCCESS", True], note="Celery 5.7.",
)  # fmt: skip
def broken_hook(side: Side) -> Any:
    result = side.breaking.delay()
    until(lambda: side.log_lines(result.id, "on_success handler raised"), "it is logged")
    return [side.state(result), True]
