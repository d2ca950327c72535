"""Why a work doesn't run now: an ordered list of reasons, the true one first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from celery_workmanager.jsontypes import JSON
from celery_workmanager.work import State


class ReasonKind(StrEnum):
    """What kind of reason it is (WorkManager's platform: ``JobScheduler.getPendingJobReasons``, and more).

    In the order in which reasons are given. The last two hold nothing up: they say what will happen.
    """

    FINISHED = "finished"
    RUNNING = "running"
    #: A node has claimed it and is about to start it.
    STARTING = "starting"
    #: The node that has it is silent: the work is put back when its lease has run out.
    NODE_LOST = "node_lost"
    #: An initial delay, a backoff, or the next run of periodic work.
    NOT_DUE = "not_due"
    BLOCKED = "blocked"
    PAUSED = "paused"
    #: No live node consumes its queue, knows its worker, or is there at all.
    NO_NODE = "no_node"
    CONSTRAINT = "constraint"
    CONTENT_TRIGGER = "content_trigger"
    CONCURRENCY = "concurrency"
    RATE = "rate"
    QUOTA = "quota"
    #: Every node that could run it is busy with others.
    BUSY = "busy"
    #: Works of its lane come before it.
    POSITION = "position"
    #: Nothing holds it up.
    READY = "ready"
    DEADLINE = "deadline"
    EXPIRES = "expires"


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a reason says of one node; `read_at`: when the node read what is told."""

    name: str
    text: str
    read_at: datetime | None = None

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {"name": self.name, "text": self.text, "read_at": _iso(self.read_at)}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, as a sentence and as facts."""

    kind: ReasonKind
    text: str
    #: Since when it holds.
    since: datetime | None = None
    #: When it ends (or, of DEADLINE and EXPIRES, when that happens), if that is known.
    until: datetime | None = None
    #: The works it is about, the first of them.
    work_ids: tuple[str, ...] = ()
    #: How many works it is about, as far as they were counted.
    count: int = 0
    nodes: tuple[NodeView, ...] = ()

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {
            "kind": self.kind.value,
            "text": self.text,
            "since": _iso(self.since),
            "until": _iso(self.until),
            "work_ids": list(self.work_ids),
            "count": self.count,
            "nodes": [node.to_dict() for node in self.nodes],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a work doesn't run at a moment (or that it does)."""

    work_id: str
    state: State
    is_running: bool
    #: At least one. The first is the one to look at; the others would hold it up as well, or say what will happen.
    reasons: tuple[Reason, ...]
    #: The moment it speaks of.
    at: datetime

    @property
    def first(self) -> Reason:
        """The reason to look at."""
        return self.reasons[0]

    def to_dict(self) -> dict[str, JSON]:
        """Return it in JSON types."""
        return {
            "work_id": self.work_id,
            "state": self.state.name,
            "is_running": self.is_running,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "at": _iso(self.at),
        }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
