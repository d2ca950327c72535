"""Celery's task signals."""

from __future__ import annotations

import time
from typing import Any

from celery import signals

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, named, until

rows = Group("Signals")

#: Those about one task; the publishing ones go to whoever calls.
NAMES = (
    "before_task_publish", "after_task_publish", "task_sent", "task_received", "task_prerun", "task_postrun",
    "task_success", "task_retry", "task_failure", "task_revoked", "task_rejected", "task_unknown", "task_internal_error",
)  # fmt: skip


def _shown(value: Any) -> Any:
    """A signal's argument in JSON types: its type where it is an object."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items()}
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and name.startswith("compat.") else type(value).__name__


def _listen(name: str) -> None:
    def heard(sender: Any = None, **facts: Any) -> None:
        facts.pop("signal", None)
        task_id = _id_of(facts) or _running_id(sender)
        if task_id is None or not _is_ours(sender, facts):
            return
        if "runtime" in facts:
            facts["runtime"] = type(facts["runtime"]).__name__
        note(f"{task_id}-signals", [name, _shown(sender), {key: _shown(each) for key, each in facts.items()}])

    getattr(signals, name).connect(heard, weak=False, dispatch_uid=f"compat-{name}")


def _is_ours(sender: Any, facts: dict[str, Any]) -> bool:
    request = facts.get("request")
    names = (sender, getattr(sender, "name", None), getattr(request, "name", None), facts.get("name"))
    return any(isinstance(name, str) and name.startswith("compat.") for name in names)


def _id_of(facts: dict[str, Any]) -> str | None:
    request = facts.get("request")
    found = facts.get("task_id") or facts.get("id") or getattr(request, "id", None)
    if found is None and isinstance(facts.get("headers"), dict):
        found = facts["headers"].get("id")
    return found


def _running_id(sender: Any) -> str | None:
    """``task_success`` doesn't say which run it was."""
    return getattr(getattr(sender, "request", None), "id", None)


for _name in NAMES:
    _listen(_name)


@signals.before_task_publish.connect
def add_header(sender: Any, headers: dict[str, Any], **_: Any) -> None:
    """As tracing libraries do."""
    if sender == "compat.with_header":
        headers["trace_header"] = "on its way"


@signals.task_rejected.connect
def note_rejected(message: Any, exc: Any, **_: Any) -> None:
    """A message that is no task has no id."""
    if "probe" in message.headers:
        note(f"{message.headers['probe']}-signals", ["task_rejected", type(message).__name__, _shown(exc)])


@signals.task_received.connect
def note_info(request: Any, **_: Any) -> None:
    """What the request tells of itself in the worker's main process."""
    if request.name == "compat.signalled":
        note(f"{request.id}-info", {key: _shown(value) for key, value in request.info().items()})


class _Broken:
    """A hook that fails while Celery handles a failure."""

    def on_failure(self, *_: Any) -> None:
        raise RuntimeError("the hook")


@task()
def signalled(x: int) -> int:
    return x


@task(bind=True)
def with_header(self: Any) -> Any:
    return (self.request.headers or {}).get("trace_header")


@task(bind=True)
def signalled_retrying(self: Any) -> int:
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return 1


@task()
def signalled_failing() -> None:
    raise ValueError("no")


@task(bind=True)
def signalled_endless(self: Any) -> None:
    note(self.request.id, "running")
    time.sleep(30)


@task(mixin=_Broken)
def broken_on_failure() -> None:
    raise ValueError("no")


def _sent(side: Side, result: Any, name: str, count: int = 1) -> Any:
    """What this signal told about a task: its sender and its arguments."""

    def found() -> list[Any]:
        return [[sender, facts] for each, sender, facts in side.notes(f"{result}-signals") if each == name]

    until(lambda: len(found()) >= count, f"{name} is sent")
    return named(found(), {**side.names_of(it=result), side.facts.space: "queue"})


_NO_MESSAGE = "There is no message; the arguments say what it would have been."


@rows.row(
    "`before_task_publish`", plain="sent where the task is called",
    expect=["compat.signalled", ["body", "declare", "exchange", "headers", "properties", "retry_policy", "routing_key"], "<queue>"],
)  # fmt: skip
def before_publish(side: Side) -> Any:
    result = side.signalled.delay(x=1)
    [[sender, facts]] = _sent(side, result, "before_task_publish")
    return [sender, sorted(facts), facts["routing_key"]]


@rows.row("… changes `headers`", plain="the task sees them (tracing libraries)", expect="on its way")
def publish_headers(side: Side) -> Any:
    return side.get(side.with_header.delay())


@rows.row(
    "`after_task_publish`", plain="sent where the task is called",
    expect=["compat.signalled", ["body", "exchange", "headers", "routing_key"], "<queue>"],
)  # fmt: skip
def after_publish(side: Side) -> Any:
    result = side.signalled.delay(x=1)
    [[sender, facts]] = _sent(side, result, "after_task_publish")
    return [sender, sorted(facts), facts["routing_key"]]


@rows.row(
    "`task_sent` (deprecated)", plain="sent where the task is called",
    expect=["compat.signalled", {"task_id": "<it>", "task": "compat.signalled", "args": [], "kwargs": {"x": 1}, "eta": None, "taskset": None}],
)  # fmt: skip
def sent(side: Side) -> Any:
    [found] = _sent(side, side.signalled.delay(x=1), "task_sent")
    return found


@rows.row(
    "`task_received`", plain="sent in the worker’s main process, with the request", expect=["Consumer", ["request"]]
)
def received(side: Side) -> Any:
    [[sender, facts]] = _sent(side, side.signalled.delay(x=1), "task_received")
    return [sender, sorted(facts)]


@rows.row(
    "… `request.info()`", plain="what `inspect` shows too",
    expect={"id": "<it>", "name": "compat.signalled", "args": [], "kwargs": {"x": 1}, "type": "compat.signalled",
            "hostname": "<node>", "time_start": None, "acknowledged": False, "worker_pid": None,
            "delivery_info": {"exchange": "", "routing_key": "<queue>", "priority": 0, "redelivered": False}},
    differs=Differs(
        shows={"id": "<it>", "name": "compat.signalled", "args": [], "kwargs": {"x": 1}, "type": "compat.signalled",
               "hostname": "<node>", "time_start": None, "acknowledged": True, "worker_pid": None,
               "delivery_info": {"exchange": "", "routing_key": "<queue>", "priority": None, "redelivered": False}},
        worker="the same, but `acknowledged` from the start, and no `priority` unless it was given",
        because="There is no message to acknowledge; Redis adds a priority of 0."),
)  # fmt: skip
def received_info(side: Side) -> Any:
    result = side.signalled.delay(x=1)
    [info] = side.noted(f"{result}-info")
    return named(info, {**side.names_of(it=result), side.node: "node", side.facts.space: "queue"})


@rows.row(
    "`task_prerun`", plain="sent before the run, in its process",
    expect=[["compat.signalled", {"task_id": "<it>", "task": "compat.signalled", "args": [], "kwargs": {"x": 1}}]],
)  # fmt: skip
def prerun(side: Side) -> Any:
    return _sent(side, side.signalled.delay(x=1), "task_prerun")


@rows.row(
    "`task_postrun`", plain="sent after the run, however it ended",
    expect=[["compat.signalled", {"task_id": "<it>", "task": "compat.signalled", "args": [], "kwargs": {"x": 1}, "retval": 1, "state": "SUCCESS"}]],
)  # fmt: skip
def postrun(side: Side) -> Any:
    return _sent(side, side.signalled.delay(x=1), "task_postrun")


@rows.row(
    "`task_success`",
    plain="with result and runtime",
    expect=["compat.signalled", 1, "float"],
    note="`runtime`: Celery 5.7.",
)
def succeeded(side: Side) -> Any:
    [[sender, facts]] = _sent(side, side.signalled.delay(x=1), "task_success")
    return [sender, facts["result"], facts.get("runtime")]


@rows.row(
    "`task_failure`", plain="with the exception and an `ExceptionInfo`",
    expect=[["compat.signalled_failing", {"task_id": "<it>", "exception": "ValueError: no", "args": [], "kwargs": {},
                                          "traceback": "traceback", "einfo": "ExceptionInfo"}]],
)  # fmt: skip
def failed(side: Side) -> Any:
    return _sent(side, side.signalled_failing.delay(), "task_failure")


@rows.row(
    "`task_retry`", plain="with the request, the `Retry` and an `ExceptionInfo`",
    expect=[["compat.signalled_retrying", {"request": "Context", "reason": "Retry: Retry in 0s", "einfo": "ExceptionInfo"}]],
)  # fmt: skip
def retried(side: Side) -> Any:
    return _sent(side, side.signalled_retrying.delay(), "task_retry")


@rows.row(
    "`task_revoked`, expired", plain="sent when a worker finds it expired",
    expect=[["compat.signalled", {"request": "Context", "terminated": False, "signum": None, "expired": True}]],
)  # fmt: skip
def expired(side: Side) -> Any:
    return _sent(side, side.signalled.apply_async((1,), countdown=0.5, expires=0.2), "task_revoked")


@rows.row(
    "`task_revoked`, terminated", plain="sent when the run is ended",
    expect=["compat.signalled_endless", {"request": "Context", "terminated": True, "signum": "TERM", "expired": False}],
)  # fmt: skip
def terminated(side: Side) -> Any:
    result = side.signalled_endless.delay()
    side.noted(result)
    result.revoke(terminate=True)
    found = _sent(side, result, "task_revoked")[0]
    if found[1]["signum"] in (15, "15", "Signals.SIGTERM"):
        found[1]["signum"] = "TERM"
    return found


@rows.row(
    "`task_unknown`", plain="sent for a message whose task isn’t registered",
    expect=["Consumer", {"message": "Message", "exc": "KeyError: 'compat.nobody'", "name": "compat.nobody", "id": "<it>"}],
)  # fmt: skip
def unknown(side: Side) -> Any:
    result = side.app.send_task("compat.nobody")
    return _sent(side, result, "task_unknown")[0]


@rows.row("`task_rejected`", plain="sent for a message that is no task", expect=["task_rejected", "Message", None])
def rejected(side: Side) -> Any:
    probe = side.new_id()
    with side.app.producer_or_acquire() as producer:
        producer.publish(
            {"no": "task"}, routing_key=side.facts.space, exchange="", headers={"probe": probe}, serializer="json"
        )
    return side.noted(f"{probe}-signals")[0]


@rows.row(
    "`task_internal_error`", plain="sent for an error outside the task’s own code (here a hook’s)",
    expect=["compat.broken_on_failure", "RuntimeError: the hook",
            ["args", "einfo", "exception", "kwargs", "request", "task_id", "traceback"]],
)  # fmt: skip
def internal_error(side: Side) -> Any:
    [[sender, facts]] = _sent(side, side.broken_on_failure.delay(), "task_internal_error")
    return [sender, facts["exception"], sorted(facts)]
