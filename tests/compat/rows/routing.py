"""Routing and queues."""

from __future__ import annotations

from typing import Any

from celery import current_app
from kombu.entity import Queue

from tests.compat.apps import task
from tests.compat.registry import Differs, Group
from tests.compat.side import Side

rows = Group("Queues and routing")


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, Any] | None:
    """A router function: it looks at the arguments."""
    if name == "compat.routed_by_argument" and tuple(args or ()) == ("far",):
        return {"queue": f"{current_app.conf.compat_space}.other"}
    return None


def _queue(self: Any) -> str:
    key = self.request.delivery_info["routing_key"]
    return str(key).removeprefix(self.app.conf.compat_space) or "default"


@task(bind=True)
def where(self: Any) -> str:
    return _queue(self)


@task(bind=True, own_queue="other")
def with_queue(self: Any) -> str:
    return _queue(self)


@task(bind=True)
def routed_by_name(self: Any) -> str:
    return _queue(self)


@task(bind=True)
def glob_routed(self: Any) -> str:
    return _queue(self)


@task(bind=True)
def routed_by_argument(self: Any, place: str) -> str:
    return _queue(self)


@rows.row("`task_default_queue`", plain="where calls go", expect="default")
def default_queue(side: Side) -> Any:
    return side.get(side.where.delay())


@rows.row("`queue` of the task", plain="goes before the default", expect=".other")
def task_queue(side: Side) -> Any:
    return side.get(side.with_queue.delay())


@rows.row('`apply_async(queue="…")`', plain="goes before the task’s", expect=[".other", "default"], postgresql=True)
def call_queue(side: Side) -> Any:
    first = side.get(side.where.apply_async(queue=side.facts.queue("other")))
    return [first, side.get(side.with_queue.apply_async(queue=side.facts.space))]


@rows.row("`apply_async(queue=Queue(…))`", plain="likewise", expect=".other")
def queue_object(side: Side) -> Any:
    return side.get(side.where.apply_async(queue=Queue(side.facts.queue("other"))))


@rows.row(
    "`exchange`, `routing_key`", plain="the queue that is bound to them", expect="key",
    differs=Differs(shows=".bound", worker="the queue of `task_queues` that is bound to them; the run is shown its name",
                    because="A work is in a queue, not in an exchange."),
)  # fmt: skip
def exchange(side: Side) -> Any:
    return side.get(side.where.apply_async(exchange=side.facts.queue("exchange"), routing_key="key"))


@rows.row("`task_routes`, by name and by pattern", plain="where calls of these tasks go", expect=[".other", ".other"])
def routes(side: Side) -> Any:
    return [side.get(side.routed_by_name.delay()), side.get(side.glob_routed.delay())]


@rows.row("`task_routes`, a function", plain="is shown the arguments", expect=[".other", "default"])
def router(side: Side) -> Any:
    return [side.get(side.routed_by_argument.delay("far")), side.get(side.routed_by_argument.delay("near"))]


@rows.row(
    "a queue that no worker consumes",
    plain="calls wait until one does (`control.add_consumer`)",
    expect=["PENDING", ".later"],
)
def later(side: Side) -> Any:
    queue = side.facts.queue("later")
    result = side.where.apply_async(queue=queue)
    side.get(side.where.delay())
    before = result.state
    side.app.control.add_consumer(queue, destination=[side.node])
    return [before, side.get(result)]
