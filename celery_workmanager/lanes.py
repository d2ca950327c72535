"""A lane stands for everything a node must offer to run a work. Pure.

Nodes claim by lane, so works that no node may run now cost a claim nothing, however many there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from celery_workmanager.constraints import Constraints, key_of
from celery_workmanager.errors import WorkManagerError

#: Works that run when something changes, not when a node has room: they are never claimed in batches.
TRIGGER = "trigger"
#: Works under a limit of the whole fleet: they are claimed together with its permits.
LIMIT = "limit"

_LIMITS = frozenset(("concurrency", "rate"))
#: The options that give a work another lane than that of its queue and worker.
_TELLING = _LIMITS | {"constraints"}


@lru_cache(maxsize=4096)
def lane_of(queue: str, worker: str, constraints_key: str = "", mark: str = "") -> int:
    """The lane of works for `worker` in `queue`: a signed 64-bit number, the same in every process.

    `constraints_key`: of the set of constraints (`Constraints.key`); `mark`: `TRIGGER`, `LIMIT` or nothing.
    """
    text = f"{queue}\0{worker}"
    if constraints_key or mark:
        text += f"\0{constraints_key}\0{mark}"
    digest = blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def lanes_of(queues: Iterable[str], workers: Iterable[str]) -> dict[int, str]:
    """The lanes a node serves that consumes `queues` and knows `workers`, with the worker name of each.

    Lanes of works with constraints or limits are not among them: there may be any number.
    """
    names = list(workers)
    return {lane_of(queue, worker): worker for queue in queues for worker in names}


@dataclass(frozen=True, slots=True)
class Lane:
    """What a lane stands for. What triggers its works is not part of it."""

    queue: str
    worker: str
    constraints: Constraints = Constraints.NONE
    mark: str = ""

    @classmethod
    def of(cls, queue: str, worker: str, options: Mapping[str, Any], *, is_overdue: bool = False) -> Lane:
        """The lane of a work with `options`; one whose deadline has passed waits for its limits only."""
        limited = LIMIT if options.keys() & _LIMITS else ""
        if is_overdue or "constraints" not in options:
            return cls(queue, worker, mark=limited)
        constraints = Constraints.from_json(options["constraints"])
        if not constraints.content_uri_triggers or "triggered" in options:
            return cls(queue, worker, _untriggered(constraints), limited)
        return cls(queue, worker, _untriggered(constraints), TRIGGER)

    @property
    def number(self) -> int:
        """The lane as rows carry it."""
        return lane_of(self.queue, self.worker, self.constraints.key, self.mark)


def _untriggered(constraints: Constraints) -> Constraints:
    return replace(
        constraints, content_uri_triggers=(), trigger_content_update_delay=None, trigger_content_max_delay=None
    )


def lane_with(queue: str, worker: str, options: Mapping[str, Any], *, is_overdue: bool = False) -> int:
    """The lane of a work with `options`, as `Lane.of` says; also with constraints that only a later version knows."""
    if not options.keys() & _TELLING:
        return lane_of(queue, worker)
    mark = LIMIT if options.keys() & _LIMITS else ""
    asked = {} if is_overdue else options.get("constraints", {})
    if asked.get("content_uri_triggers") and "triggered" not in options:
        mark = TRIGGER
    return lane_of(queue, worker, key_of(asked), mark)


def lane_read(number: int, queue: str, worker: str, options: str) -> Lane | None:
    """What the lane `number` stands for, by one of its works; ``None`` when this version can't tell."""
    given = json.loads(options)
    for is_overdue in (False, True):
        try:
            lane = Lane.of(queue, worker, given, is_overdue=is_overdue)
        except WorkManagerError:
            continue  # constraints of a later version
        if lane.number == number:
            return lane
    return None
