"""What happens to works beside their runs: the words in which floors that know no Celery tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from celery_workmanager.requests import WorkRequest
from celery_workmanager.work import State, StopReason

__all__ = ("Change", "Listener", "WorkEvent")


class Change(Enum):
    """A change that the store made, and that somebody may want to hear of."""

    ENQUEUED = "enqueued"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    STOPPED = "stopped"
    HEALED = "healed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True)
class WorkEvent:
    """One work that a change was made to; the names are those of ``WorkInfo``."""

    id: str
    worker_name: str
    #: The state it has now (of a pruned work: the last one).
    state: State
    #: Why its run was ended; NOT_STOPPED when none was under way.
    stop_reason: StopReason = StopReason.NOT_STOPPED
    #: The node that had it when it was changed, if one had.
    node: str | None = None
    #: What was enqueued; only of new works.
    request: WorkRequest | None = field(default=None, repr=False, compare=False)


class Listener(Protocol):
    """Somebody who is told of changes after they were committed."""

    def wants(self, change: Change) -> bool:
        """Whether anybody wants to hear of such changes now."""

    def heard(self, change: Change, works: Sequence[WorkEvent]) -> None:
        """Hear of works that one transaction has changed."""
