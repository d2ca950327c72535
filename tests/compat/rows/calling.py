"""Calling a task."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from kombu.connection import Connection

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, named, outcome, until

rows = Group("Calling a task")


@task()
def add(x: Any, y: Any) -> Any:
    return x + y


@task(bind=True)
def look(self: Any, *names: str) -> dict[str, Any]:
    """Show attributes of its own request."""
    return {name: getattr(self.request, name) for name in names}


@task(bind=True)
def started_at(self: Any) -> float:
    return time.time()


@task(bind=True)
def count_runs(self: Any) -> int:
    note(self.request.id, "ran")
    return 1


@task(typing=False)
def loosely_typed(x: int) -> int:
    return x


@task(bind=True)
def caller(self: Any, **options: Any) -> str:
    """Call another task while running."""
    return str(self.app.tasks["compat.look"].apply_async(("root_id", "parent_id"), **options).id)


@rows.row("`task(…)`, a direct call", plain="runs the function here; nothing is sent", expect=3)
def direct(side: Side) -> Any:
    return side.add(1, 2)


@rows.row(
    "`delay(*args, **kwargs)`", plain="runs on a worker; `get()` gives what it returned", expect=3, postgresql=True
)
def delay(side: Side) -> Any:
    return side.get(side.add.delay(1, y=2))


@rows.row("`apply_async(args, kwargs)`", plain="the same with options", expect=3, postgresql=True)
def apply_async(side: Side) -> Any:
    return side.get(side.add.apply_async((1,), {"y": 2}))


@rows.row("arguments that don’t fit", plain="`TypeError` at the call, nothing is sent", expect=["raises TypeError"] * 3)
def wrong_arguments(side: Side) -> Any:
    return [outcome(call) for call in (side.add.delay, lambda: side.add.delay(1, 2, 3), lambda: side.add.delay(1, z=2))]


@rows.row("`typing=False`", plain="arguments are not checked at the call: the task fails", expect="TypeError")
def untyped(side: Side) -> Any:
    return side.failure(side.loosely_typed.delay(1, 2)).partition(":")[0]


@rows.row(
    "`apply_async` gives an `AsyncResult`", plain="with a new UUID as its id", expect=["AsyncResult", "<id>", True]
)
def async_result(side: Side) -> Any:
    result = side.add.delay(1, 2)
    return [type(result).__name__, named(result.id), result.id == result.task_id]


def _starts(side: Side, least: float, **options: Any) -> Any:
    asked = time.time()
    result = side.started_at.apply_async(**options)
    meanwhile = result.state
    waited = side.get(result) - asked
    return {"meanwhile": meanwhile, "in time": least <= waited < least + 10}


@rows.row(
    "`countdown`", plain="starts that many seconds later", expect={"meanwhile": "PENDING", "in time": True},
    note="Celery keeps the message in a worker’s memory meanwhile; a work waits in the store.", postgresql=True,
)  # fmt: skip
def countdown(side: Side) -> Any:
    return _starts(side, 2.0, countdown=2.0)


@rows.row("`eta`, with a time zone", plain="starts at that moment", expect={"meanwhile": "PENDING", "in time": True})
def eta(side: Side) -> Any:
    return _starts(side, 1.95, eta=datetime.now(UTC) + timedelta(seconds=2.0))


@rows.row("`eta`, naive", plain="means UTC", expect={"meanwhile": "PENDING", "in time": True})
def eta_naive(side: Side) -> Any:
    return _starts(side, 1.95, eta=datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=2.0))


@rows.row("`eta` in the past", plain="starts at once", expect=3)
def eta_past(side: Side) -> Any:
    return side.get(side.add.apply_async((1, 2), eta=datetime.now(UTC) - timedelta(hours=1)))


@rows.row(
    "`expires` in seconds", plain="not started by then: `REVOKED`, and never run",
    expect=["REVOKED", "TaskRevokedError: expired", []],
)  # fmt: skip
def expires(side: Side) -> Any:
    result = side.count_runs.apply_async(countdown=0.6, expires=0.3)
    return [side.state(result), side.failure(result), side.notes(result)]


@rows.row("`expires` as a moment", plain="likewise", expect=["REVOKED", []])
def expires_moment(side: Side) -> Any:
    result = side.count_runs.apply_async(countdown=0.6, expires=datetime.now(UTC) + timedelta(seconds=0.3))
    return [side.state(result), side.notes(result)]


@rows.row("`expires` in the past", plain="likewise", expect=["REVOKED", []])
def expires_past(side: Side) -> Any:
    result = side.count_runs.apply_async(expires=datetime.now(UTC) - timedelta(seconds=3))
    return [side.state(result), side.notes(result)]


@rows.row("`expires` in the future", plain="started before: runs", expect=3)
def expires_later(side: Side) -> Any:
    return side.get(side.add.apply_async((1, 2), expires=60))


@rows.row(
    "`priority`", plain="on Redis 0 is the most urgent, on RabbitMQ the highest", expect=[0, 5, 9],
    differs=Differs(shows=[9, 5, 0], worker="the highest (up to 255) is the most urgent, on every broker",
                    because="The store orders works, the broker doesn’t."),
)  # fmt: skip
def priority(side: Side) -> Any:
    queue = side.facts.queue("urgent")
    sent = {side.add.apply_async((1, 1), queue=queue, priority=each).id: each for each in (5, 9, 0)}
    side.app.control.add_consumer(queue, destination=[side.node])
    until(lambda: all(side.events(each, "task-received") for each in sent), "all are received")
    received = sorted(sent, key=lambda each: side.events(each, "task-received")[0]["timestamp"])
    return [sent[each] for each in received]


@rows.row("`task_id`", plain="is the id", expect=[True, 3])
def task_id(side: Side) -> Any:
    mine = side.new_id()
    result = side.add.apply_async((1, 2), task_id=mine)
    return [result.id == mine, side.get(result)]


@rows.row(
    "the same `task_id` twice", plain="runs twice under one id", expect=["ran", "ran"],
    differs=Differs(shows=["ran"], worker="runs once; the second call gives the same result",
                    because="An id names one work, so that a call can be repeated safely."),
)  # fmt: skip
def same_task_id(side: Side) -> Any:
    mine = side.new_id()
    for result in [side.count_runs.apply_async(task_id=mine) for _ in range(2)]:
        side.get(result)
    if not side.is_worker:
        return side.noted(mine, 2)
    # Whatever a second run would be, this one is behind it in the queue.
    side.get(side.add.delay(1, 1))
    return side.notes(mine)


@rows.row('`serializer="json"`', plain="accepted", expect=3)
def serializer_json(side: Side) -> Any:
    return side.get(side.add.apply_async((1, 2), serializer="json"))


@rows.row(
    '`serializer="pickle"`', plain="sent, and refused by the worker: it never runs", expect="refused",
    differs=Differs(shows="raises InvalidRequest", worker="refused at the call with `InvalidRequest`",
                    because="A payload that runs code is never stored."),
)  # fmt: skip
def serializer_pickle(side: Side) -> Any:
    if side.is_worker:
        return outcome(lambda: side.add.apply_async((1, 2), serializer="pickle"))
    side.add.apply_async((1, 2), serializer="pickle")
    until(lambda: side.log_lines("Refusing to deserialize untrusted content of type pickle"), "it is refused")
    return "refused"


@rows.row("`compression`", plain="the message is compressed", expect=3, note="Works are not.")
def compression(side: Side) -> Any:
    return side.get(side.add.apply_async((1, 2), compression="gzip"))


@rows.row(
    "`retry`, `retry_policy`", plain="how often sending is tried again", expect=3, note="Without meaning for works."
)
def retry_policy(side: Side) -> Any:
    return side.get(side.add.apply_async((1, 2), retry=True, retry_policy={"max_retries": 1}))


@rows.row(
    "the broker is down at the call", plain="`OperationalError`; nothing will run", expect="raises OperationalError",
    differs=Differs(shows=3, worker="runs", because="Works don’t travel through the broker."),
)  # fmt: skip
def broker_down(side: Side) -> Any:
    with Connection("redis://127.0.0.1:1/0") as nowhere:
        return outcome(lambda: side.get(side.add.apply_async((1, 2), connection=nowhere, retry=False)))


@rows.row("`connection`", plain="is used for sending", expect=3, note="Works are not sent.")
def connection(side: Side) -> Any:
    with side.app.connection_for_write() as mine:
        return side.get(side.add.apply_async((1, 2), connection=mine))


@rows.row("`producer`", plain="is used for sending", expect=3, note="Works are not sent.")
def producer(side: Side) -> Any:
    with side.app.producer_or_acquire() as mine:
        return side.get(side.add.apply_async((1, 2), producer=mine))


@rows.row("`headers`", plain="are in `request.headers`", expect="yes")
def headers(side: Side) -> Any:
    result = side.look.apply_async(("headers",), headers={"own": "yes"})
    return (side.get(result)["headers"] or {}).get("own")


@rows.row("`shadow`", plain="another name in events and logs", expect=["shadowy", "shadowy"])
def shadow(side: Side) -> Any:
    result = side.look.apply_async(("shadow",), shadow="shadowy")
    seen = side.get(result)["shadow"]
    received = until(lambda: side.events(result, "task-received"), "it is received")
    return [seen, received[0]["name"]]


@rows.row("`argsrepr`, `kwargsrepr`", plain="shown in events instead of the arguments", expect=["(…)", "{…}"])
def argsrepr(side: Side) -> Any:
    result = side.add.apply_async((1, 2), argsrepr="(…)", kwargsrepr="{…}")
    received = until(lambda: side.events(result, "task-received"), "it is received")
    return [received[0]["args"], received[0]["kwargs"]]


@rows.row(
    "`ignore_result=True`", plain="`get()` gives `None` at once; nothing is stored", expect=[None, True, "PENDING"],
    differs=Differs(shows=[None, True, "SUCCESS"], worker="`get()` gives `None` at once; the state is known all the same",
                    because="A work is a row, whoever wants to know."),
)  # fmt: skip
def ignore_result(side: Side) -> Any:
    result = side.count_runs.apply_async(ignore_result=True)
    value = result.get(timeout=1)
    side.noted(result)
    if side.is_worker:
        side.ended(result)
    return [value, result.ignored, side.count_runs.AsyncResult(result.id).state]


@rows.row("`stamped_headers`", plain="stamps are in `request.stamps`", expect=[["tag"], {"tag": ["blue"]}])
def stamped_headers(side: Side) -> Any:
    result = side.look.apply_async(("stamped_headers", "stamps"), stamped_headers=["tag"], tag=["blue"])
    seen = side.get(result)
    return [seen["stamped_headers"], seen["stamps"]]


@rows.row(
    "`reply_to`, `correlation_id`", plain="`request.reply_to`; the correlation id is the task’s", expect=["me", True]
)
def reply_to(side: Side) -> Any:
    result = side.look.apply_async(("reply_to", "correlation_id"), reply_to="me")
    seen = side.get(result)
    return [seen["reply_to"], seen["correlation_id"] == result.id]


@rows.row(
    "a call from inside a task",
    plain="knows its root and its parent",
    expect={"root_id": "<parent>", "parent_id": "<parent>"},
)
def inside(side: Side) -> Any:
    parent = side.caller.delay()
    child = side.look.AsyncResult(side.get(parent))
    return named(side.get(child), side.names_of(parent=parent))


@rows.row("`root_id`, `parent_id`", plain="are what `request` shows", expect={"root_id": "r", "parent_id": "p"})
def given_root(side: Side) -> Any:
    return side.get(side.look.apply_async(("root_id", "parent_id"), root_id="r", parent_id="p"))


@rows.row(
    "`add_to_parent=True` (default)",
    plain="the call is among the `children` of the caller’s result",
    expect=["<child>"],
    differs=Differs(
        shows=[],
        worker="it is not: children are the works that wait for it in a canvas",
        because="A work keeps its own result alone; `parent_id` leads from a call to who made it.",
    ),
)
def add_to_parent(side: Side) -> Any:
    parent = side.caller.delay()
    child = side.get(parent)
    return named([each.id for each in parent.children], side.names_of(child=child))


@rows.row("`add_to_parent=False`", plain="the call is not among them", expect=[0, "SUCCESS"])
def not_added_to_parent(side: Side) -> Any:
    parent = side.caller.delay(add_to_parent=False)
    child = side.look.AsyncResult(side.get(parent))
    return [len(parent.children or ()), side.state(child)]


@rows.row(
    "`app.send_task(name, …)`", plain="calls a task by its name", expect=3,
    note="The message becomes a work when a worker receives it; the app’s result backend is told how it ends.",
)  # fmt: skip
def send_task(side: Side) -> Any:
    return side.get(side.app.send_task("compat.add", (1, 2)))


@rows.row("`app.signature(name, …)`", plain="calls a task by its name", expect=3)
def signature(side: Side) -> Any:
    return side.get(side.app.signature("compat.add", args=(1,), kwargs={"y": 2}).apply_async())
