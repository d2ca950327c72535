"""What can be paused: the works of a queue, with a tag or of a unique name, and a node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from celery_workmanager.checks import check_text
from celery_workmanager.errors import InvalidRequest


class PauseKind(StrEnum):
    """What a pause is named by."""

    QUEUE = "queue"
    #: A worker's name is a tag of all its works.
    TAG = "tag"
    NAME = "name"
    #: A node by its name: it is drained.
    NODE = "node"

    @property
    def marks_works(self) -> bool:
        """Whether works are marked for it; the others are looked at by nodes alone."""
        return self in (PauseKind.TAG, PauseKind.NAME)


class PausePhase(IntEnum):
    """How far a pause, or the end of one, has been carried out."""

    PAUSED = 0
    #: In force; works that existed before are being marked.
    PAUSING = 1
    #: Not in force; works that were marked are being freed.
    RESUMING = 2


@dataclass(frozen=True, slots=True)
class PauseTarget:
    """What a pause is about."""

    kind: PauseKind
    label: str

    @classmethod
    def of(cls, queue: Any = None, tag: Any = None, name: Any = None, node: Any = None) -> PauseTarget:
        """Return what exactly one of the four names. Raises InvalidRequest."""
        values = zip(PauseKind, (queue, tag, name, node), strict=True)
        given = {kind: value for kind, value in values if value is not None}
        if len(given) != 1:
            raise InvalidRequest(
                "pause", "of exactly one of queue, tag, name and node", " and ".join(given) or "none of them"
            )
        ((kind, label),) = given.items()
        return cls(kind, check_text("unique name" if kind is PauseKind.NAME else kind.value, label))

    def __str__(self) -> str:
        return f"{'unique name' if self.kind is PauseKind.NAME else self.kind.value} {self.label!r}"


@dataclass(frozen=True, slots=True)
class PauseInfo:
    """A pause that is in force."""

    kind: PauseKind
    label: str
    since: datetime | None
    #: Whether every work that existed before it has been marked; until then `pause` is at it, or nodes carry it on.
    is_complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON types."""
        since = None if self.since is None else self.since.isoformat()
        return {"kind": self.kind.value, "label": self.label, "since": since, "is_complete": self.is_complete}


@dataclass(frozen=True, slots=True)
class LanePauses:
    """The queues, tags and nodes that are paused, as far as nodes care: a tag may be a worker's name."""

    queues: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> LanePauses:
        """Return those of kinds and labels."""
        labels: dict[str, set[str]] = {kind.value: set() for kind in PauseKind}
        for kind, label in pairs:
            labels[kind].add(label)
        return cls(*(frozenset(labels[kind]) for kind in (PauseKind.QUEUE, PauseKind.TAG, PauseKind.NODE)))

    def cover(self, queue: str, worker: str) -> bool:
        """Whether works for `worker` in `queue` may not be claimed."""
        return queue in self.queues or worker in self.tags
