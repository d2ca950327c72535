"""The tasks of the canvas cases, as plain Celery tasks and as Workers, and the apps that hold them.

The same functions are registered either way, under the same names, so a canvas can't tell which it is made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from celery import Celery, Task, signature
from celery.canvas import StampingVisitor
from celery.exceptions import SoftTimeLimitExceeded

from celery_workmanager import Worker, WorkManager

ENVIRONMENT, NOTES = "CANVAS_APP", "CANVAS_NOTES"
#: The prefix of the tasks a case is about, and of the plain ones that stand beside Workers.
TASKS, PLAIN = "canvas", "plain"


def write(key: str, line: Any) -> None:
    """Append one line to the case's notes, whole, whoever writes at the same time."""
    handle = os.open(Path(os.environ[NOTES]) / key, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
    finally:
        os.close(handle)


def _flat(values: Any) -> Iterable[Any]:
    if not isinstance(values, list | tuple):
        yield values
        return
    for value in values:
        yield from _flat(value)


# -- values ----------------------------------------------------------------------------------------------------------


def plus(a: Any, b: Any = 0) -> Any:
    return a + b


def times(a: int, b: int) -> int:
    return a * b


def total(values: Any) -> int:
    """The sum of a list, however deep."""
    return sum(_flat(values))


def echo(value: Any = None) -> Any:
    return value


def given(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """What it was called with."""
    return {"args": list(args), "kwargs": kwargs}


# -- notes -----------------------------------------------------------------------------------------------------------


def note(key: str, text: str) -> str:
    """Leave a note; made immutable where a result would come in."""
    write(key, text)
    return text


def hear(*args: Any, key: str) -> list[Any]:
    """Leave a note of what came in."""
    write(key, list(args))
    return list(args)


def told(task_id: str, key: str) -> str:
    """An error callback of the old style: it is called with an id alone."""
    write(key, {"told of": task_id})
    return task_id


def shown(request: Any, exc: Exception, traceback: Any, key: str) -> None:
    """An error callback of the new style, which is called where the task failed."""
    write(key, {"shown": request.id, "error": type(exc).__name__, "traceback": "Traceback" in str(traceback)})


def shown_and_breaks(request: Any, exc: Exception, traceback: Any, key: str) -> None:
    shown(request, exc, traceback, key)
    raise LookupError("the error callback fails too")


def told_bound(self: Task, task_id: str, key: str) -> None:
    """A bound one is called as a task."""
    write(key, {"told of": task_id, "parent": self.request.parent_id, "root": self.request.root_id})


# -- ways to end -----------------------------------------------------------------------------------------------------


def boom(*_: Any, **__: Any) -> None:
    raise ValueError("boom")


def _soon(task: Task) -> float:
    """Seconds until a retry: Celery sends it first, and notes it afterwards, maybe after the end of the retried run."""
    return 0.0 if getattr(task, "is_durable_worker", False) else 0.2


def again(self: Task, value: Any, times: int = 1) -> Any:
    """Succeed after some retries."""
    if (self.request.retries or 0) < times:
        raise self.retry(countdown=_soon(self), max_retries=times)
    return value


def gives_up(self: Task, *_: Any) -> None:
    """Retry once and fail."""
    raise self.retry(exc=KeyError("no more"), countdown=_soon(self), max_retries=1)


def flaky(self: Task, value: Any) -> Any:
    """Succeed in the second run, retried for what it raised."""
    if not self.request.retries:
        raise ConnectionError("once")
    return value


def guarded(seconds: float) -> str:
    """Outstay a soft limit, and catch it."""
    import time

    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "caught"
    return "never stopped"


def quiet(value: Any) -> Any:
    """Its result is not kept."""
    return value


# -- what grows while it runs ----------------------------------------------------------------------------------------


def swap(self: Task, *_: Any, to: dict[str, Any]) -> Any:
    """Be replaced with a canvas."""
    return self.replace(signature(to, app=self.app))


def swap_with(self: Task, *args: Any, to: dict[str, Any]) -> Any:
    """Be replaced with a canvas that takes the arguments."""
    return self.replace(signature(to, app=self.app).clone(args))


def launch(self: Task, what: dict[str, Any]) -> Any:
    """Start a canvas of its own; return its result as a tuple."""
    return signature(what, app=self.app).apply_async().as_tuple()


def hand_out(self: Task, what: dict[str, Any]) -> Any:
    """Start a canvas of its own; return its result object."""
    return signature(what, app=self.app).apply_async()


def recurse(self: Task, depth: int, key: str) -> str:
    """Be replaced with a chain that replaces itself, down to a depth."""
    write(key, f"in {depth}")
    if not depth:
        return "bottom"
    return self.replace(self.s(depth - 1, key) | self.app.tasks[f"{self.name.split('.')[0]}.hear"].s(key=key))


# -- what a request knows --------------------------------------------------------------------------------------------


def facts(self: Task, *_: Any, label: str, key: str | None = None) -> dict[str, Any]:
    """Who it is in its canvas."""
    request = self.request
    said = {"label": label, "id": request.id, "root": request.root_id, "parent": request.parent_id}
    said |= {"group": request.group, "index": request.group_index}
    if key is not None:
        write(key, said)
    return said


def urgency(self: Task, *_: Any) -> Any:
    return (self.request.delivery_info or {}).get("priority")


def pair_urgency(self: Task, before: list[Any]) -> list[Any]:
    """The priority that came in, and its own."""
    return [*before, (self.request.delivery_info or {}).get("priority")]


def stamps(self: Task, *_: Any, key: str | None = None) -> dict[str, Any]:
    request = self.request
    found = dict(request.stamps or {})
    if key is not None:
        write(key, found)
    return found


def stamped_again(self: Task) -> dict[str, Any]:
    if not self.request.retries:
        raise self.retry(countdown=_soon(self))
    return dict(self.request.stamps or {})


def header(self: Task, *_: Any, name: str) -> Any:
    """A header of the call."""
    return (self.request.headers or {}).get(name)


class Label(StampingVisitor):
    """Stamp everything a visitor can reach."""

    def __init__(self, **stamps: Any) -> None:
        self.given = stamps

    def on_signature(self, sig: Any, **_: Any) -> dict[str, Any]:
        return dict(self.given)

    def on_chord_body(self, sig: Any, **_: Any) -> dict[str, Any]:
        return dict(self.given)

    def on_callback(self, callback: Any, **_: Any) -> dict[str, Any]:
        return dict(self.given)

    def on_errback(self, errback: Any, **_: Any) -> dict[str, Any]:
        return dict(self.given)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    plus, times, total, echo, given, note, hear, told, shown, shown_and_breaks, boom, guarded,
)  # fmt: skip
BOUND: tuple[Callable[..., Any], ...] = (
    told_bound, again, gives_up, swap, swap_with, launch, hand_out, recurse, facts, urgency, pair_urgency, stamps,
    stamped_again, header,
)  # fmt: skip


def register(app: Celery, prefix: str, **options: Any) -> None:
    """Give the app the tasks, each named by the prefix and its function."""

    def task(function: Callable[..., Any], **more: Any) -> None:
        app.task(function, name=f"{prefix}.{function.__name__}", shared=False, **options, **more)

    for function in FUNCTIONS:
        task(function)
    for function in BOUND:
        task(function, bind=True)
    task(flaky, bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0})
    task(quiet, ignore_result=True)


def build(broker: str, backend: str, queue: str, store: str | None) -> Celery:
    """A plain app, or with a store one in which the cases' tasks are Workers, beside the same tasks left plain."""
    made = Celery("canvas", broker=broker, backend=backend, set_as_current=False)
    made.conf.update(
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        task_acks_late=False,
    )
    if store is None:
        register(made, TASKS)
    else:
        WorkManager(made, store_url=store)
        register(made, TASKS, base=Worker)
        register(made, PLAIN)
    made.finalize()
    return made


if ENVIRONMENT in os.environ:
    app = build(**json.loads(os.environ[ENVIRONMENT]))
    app.set_current()
