"""One app of the same tasks for each side: plain tasks on one, Workers on the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from celery import Celery, Task
from kombu.entity import Exchange, Queue

from celery_workmanager import Worker, WorkManager

PREFIX = "compat."


@dataclass(frozen=True)
class Facts:
    """What a side's app is made of; a worker process reads it from its environment."""

    side: str
    #: Names of queues and exchanges, so that sides and test runs don't disturb each other.
    space: str
    redis: str
    #: The app's result backend.
    backend: str
    #: The store's URL; empty on the plain side.
    store: str = ""
    conf: dict[str, Any] = field(default_factory=dict)

    def queue(self, name: str) -> str:
        """A queue of this side: its worker consumes "other" and "bound" beside the default one."""
        return f"{self.space}.{name}"

    def to_environment(self) -> dict[str, str]:
        """The variable for a worker process."""
        return {"COMPAT_FACTS": json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Facts:
        """The facts of this worker process."""
        return cls(**json.loads(os.environ["COMPAT_FACTS"]))


#: Add a task to an app, given the base of its side (``Task`` or ``Worker``).
Definition = Callable[[Celery, type[Task], Facts], None]
DEFINITIONS: dict[str, Definition] = {}


def task(
    mixin: type | None = None, own_queue: str = "", **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define a task of every side's app: with the side's base, `mixin` (a class of hooks) in front of it."""

    def define(function: Callable[..., Any]) -> Callable[..., Any]:
        def add(app: Celery, base: type[Task], facts: Facts) -> None:
            bases = {"base": base if mixin is None else type(mixin.__name__, (mixin, base), {"abstract": True})}
            queue = {"queue": facts.queue(own_queue)} if own_queue else {}
            app.task(shared=False, name=PREFIX + function.__name__, **{**bases, **queue, **options})(function)

        _define(function.__name__, add)
        return function

    return define


def class_based(make: Callable[[type[Task]], type[Task]]) -> Callable[[type[Task]], type[Task]]:
    """Define a class-based task: `make(base)` returns its class."""

    def add(app: Celery, base: type[Task], _facts: Facts) -> None:
        kind = make(base)
        kind.name = PREFIX + make.__name__
        app.register_task(kind())

    _define(make.__name__, add)
    return make


def _define(name: str, add: Definition) -> None:
    assert name not in DEFINITIONS, f"two tasks {name}"
    DEFINITIONS[name] = add


def _queues(facts: Facts) -> list[Queue]:
    exchange = Exchange(facts.queue("exchange"), "direct")
    return [
        Queue(facts.space),
        Queue(facts.queue("other")),
        Queue(facts.queue("bound"), exchange, routing_key="key"),
    ]


def make_app(facts: Facts) -> Celery:
    """Make the app of a side."""
    import tests.compat.rows  # noqa: F401  # each module of it defines its tasks

    app = Celery("compat", broker=facts.redis, backend=facts.backend, set_as_current=False)
    app.conf.update(
        task_default_queue=facts.space,
        task_queues=_queues(facts),
        task_routes=[
            {
                "compat.routed_by_name": {"queue": facts.queue("other")},
                "compat.glob_*": {"queue": facts.queue("other")},
            },
            "tests.compat.rows.routing:route",
        ],
        control_exchange=f"{facts.space}.control",
        event_exchange=f"{facts.space}.events",
        event_queue_prefix=f"{facts.space}.events",
        result_extended=True,
        task_send_sent_event=True,
        compat_space=facts.space,
        compat_redis=facts.redis,
        **facts.conf,
    )
    base: type[Task] = app.Task
    if facts.store:
        WorkManager(app, store_url=facts.store)
        base = Worker
    for add in DEFINITIONS.values():
        add(app, base, facts)
    app.finalize()
    return app
