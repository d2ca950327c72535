"""What a node knows of one run: the claim that started it and the outcome that ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from celery_workmanager.work import StopReason


class Ending(Enum):
    """How a run ended, as the node that ran it saw it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRY = "retry"
    #: The system stopped it (shutdown, lost constraint …): it goes back to the queue with a reason.
    STOPPED = "stopped"
    #: It never started: it goes back to the queue as if it had not been claimed.
    GIVEN_BACK = "given back"
    #: Its process died under it.
    LOST = "lost"
    #: It put other works in its place (``Task.replace``): ``output`` describes them.
    REPLACED = "replaced"


@dataclass(slots=True)  # one is made for each run, and a frozen one takes three times as long
class Outcome:
    """The end of one run, before the store has accepted it. Nobody changes it.

    ``output`` (of a ``RETRY``: the arguments of the next run, if they are others) and ``error`` are JSON texts;
    ``after`` is in seconds (``RETRY`` only); ``started_at`` is
    ``time.monotonic()`` of the start, ``None`` when the worker's code never began; ``runtime`` in seconds.
    """

    ending: Ending
    output: str | None = None
    error: str | None = None
    after: float | None = None
    reason: StopReason = StopReason.NOT_STOPPED
    started_at: float | None = None
    runtime: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a periodic work stands; moments in microseconds."""

    #: How many periods have ended.
    count: int
    #: The nominal moment of the occurrence that is due or running.
    at: int
    #: What the next run's moment was set to, if it was, and how often that has been changed.
    override_at: int | None = None
    override_generation: int = 0
    #: The override was set or cleared while the work ran: it is for the run after this one.
    override_is_new: bool = False
    #: A run of this period was begun and ended before its time, by the system.
    was_begun: bool = False


@dataclass(slots=True, eq=False)
class Claim:
    """A work that this node owns: the row as it was claimed, and the token that fences its run.

    ``inputs`` are JSON texts, the work's own input first, then the output of each prerequisite in order.
    """

    id: str
    worker: str
    queue: str
    token: int
    node: str
    run_attempt_count: int
    interruptions: int
    generation: int
    inputs: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    #: RUNNING was already written before the hand-over (a work that was interrupted before).
    start_written: bool = False
    #: Microseconds since 1970 UTC: the moment from which delays of this work count.
    enqueued_at: int = 0
    #: Likewise the moment from which it could be claimed; ``None`` when that must be worked out again.
    run_at: int | None = None
    #: Of periodic work.
    standing: Standing | None = None
    #: Its place among those that may be claimed, before `run_at`: smaller first, below 0 expedited.
    urgency: int = 0
    #: It counts under limits of the fleet until its run has ended.
    has_permits: bool = False
    #: Others depend on it.
    has_children: bool = False
    #: Called with the outcome that the store has written; with ``None`` when the run had lost its work.
    told: Callable[[Outcome | None], None] | None = None
