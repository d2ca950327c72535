"""The sides of the comparison, and what a process is told of the one it plays."""

from __future__ import annotations

from dataclasses import dataclass

#: Where a process finds its assignment (JSON).
ENVIRONMENT = "WORKMANAGER_UPSTREAM"
#: Seconds for a test.
LIMIT = 150
#: The store as the app's result backend, under a name at which the suite's "Requires redis result backend." passes:
#: what these tests really need is a Redis to write to.
DURABLE = "redis-less"
BACKEND = "celery_workmanager.backend:WorkManagerBackend"


@dataclass(frozen=True)
class Assignment:
    """What a process plays: its record's path, and the URL of the store when tasks are Workers."""

    record: str
    store: str | None = None


@dataclass(frozen=True)
class Side:
    """How the suite is played."""

    name: str
    durable: bool
    #: What the suite takes as its result backend; None: the Redis of the side.
    backend: str | None = None


PLAIN = Side("plain", durable=False)
WORKER = Side("worker", durable=True)
#: The store is the app's result backend too.
STORED = Side("stored", durable=True, backend=DURABLE)
