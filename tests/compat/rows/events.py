"""Events, as Flower and `celery events` see them."""

from __future__ import annotations

from typing import Any

from tests.compat.registry import Group
from tests.compat.side import Side, named, until

rows = Group("Events (`worker -E`)")

#: Facts of every event, of no interest here.
COMMON = {"clock", "local_received", "pid", "timestamp", "utcoffset", "hostname", "type", "uuid"}


def _event(side: Side, result: Any, kind: str) -> dict[str, Any]:
    """The first event of a kind about a task, without what every event has."""
    found = until(lambda: side.events(result, kind), f"{kind} is sent")[0]
    facts = {name: value for name, value in found.items() if name not in COMMON}
    return dict(named(facts, {**side.names_of(it=result), side.facts.space: "queue"}))


@rows.row(
    "`task-sent` (`task_send_sent_event`)", plain="sent by the caller",
    expect={"name": "compat.add", "args": "()", "kwargs": "{'x': 1, 'y': 2}", "root_id": "<it>", "parent_id": None,
            "retries": 0, "eta": None, "expires": None, "queue": "<queue>", "exchange": "", "routing_key": "<queue>"},
)  # fmt: skip
def sent(side: Side) -> Any:
    return _event(side, side.add.delay(x=1, y=2), "task-sent")


@rows.row(
    "`task-received`", plain="sent by the worker",
    expect={"name": "compat.add", "args": "()", "kwargs": "{'x': 1, 'y': 2}", "root_id": "<it>", "parent_id": None,
            "retries": 0, "eta": None, "expires": None},
)  # fmt: skip
def received(side: Side) -> Any:
    return _event(side, side.add.delay(x=1, y=2), "task-received")


@rows.row("`task-started`", plain="sent when the run begins", expect={})
def started(side: Side) -> Any:
    return _event(side, side.add.delay(x=1, y=2), "task-started")


@rows.row("`task-succeeded`", plain="with result and runtime", expect=["3", True])
def succeeded(side: Side) -> Any:
    event = _event(side, side.add.delay(x=1, y=2), "task-succeeded")
    return [event["result"], event["runtime"] >= 0]


@rows.row("`task-failed`", plain="with exception and traceback", expect=["ValueError('no')", True])
def failed(side: Side) -> Any:
    event = _event(side, side.fail.delay(), "task-failed")
    return [event["exception"], "raise ValueError" in event["traceback"]]


@rows.row("`task-retried`", plain="with exception and traceback", expect=["ValueError('cause')", True])
def retried(side: Side) -> Any:
    event = _event(side, side.retry_because.delay(), "task-retried")
    return [event["exception"], "raise ValueError" in event["traceback"]]


@rows.row(
    "`task-revoked`", plain="sent when a worker drops it", expect={"terminated": False, "signum": None, "expired": True}
)
def revoked(side: Side) -> Any:
    return _event(side, side.add.apply_async((1, 2), countdown=0.5, expires=0.2), "task-revoked")


@rows.row("`task-revoked`, terminated", plain="with the signal", expect={"terminated": True, "expired": False})
def terminated(side: Side) -> Any:
    result = side.endless.delay()
    side.noted(result)
    result.revoke(terminate=True)
    event = _event(side, result, "task-revoked")
    assert event.pop("signum") in (None, 15, "15", "Signals.SIGTERM", "SIGTERM", "TERM")
    return event


@rows.row(
    "`task-rejected`", plain="sent for `Reject`, beside `task-failed`", expect=[False, "reject requeue=False: no"]
)
def rejected(side: Side) -> Any:
    result = side.rejecting.delay()
    requeue = _event(side, result, "task-rejected")["requeue"]
    return [requeue, _event(side, result, "task-failed")["exception"]]


@rows.row("the order", plain="received, started, succeeded", expect=["task-received", "task-started", "task-succeeded"])
def order(side: Side) -> Any:
    result = side.add.delay(1, 2)
    until(lambda: len(side.events(result)) >= 4, "four events")
    events = sorted(side.events(result), key=lambda event: event["timestamp"])
    return [event["type"] for event in events if event["type"] != "task-sent"]
