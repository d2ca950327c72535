"""What a dispatcher asks of the engine that runs its claims, and what it keeps of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from celery_workmanager.outcome import Claim, Outcome
from celery_workmanager.work import StopReason


class Engine(Protocol):
    """What runs claims: a pool of processes or threads, or the testing kit in its own thread."""

    supports_batches: bool

    @property
    def concurrency(self) -> int:
        """How many works can run at once now."""

    def start(self, on_started: Callable[[Claim, float], None], on_ended: Callable[[Claim, Outcome], None]) -> None:
        """Take the callbacks; exactly one `on_ended` comes for each claim."""

    def hand_over(self, batch: Sequence[Claim]) -> None:
        """Run the members of `batch` one after the other in one process; never blocks."""

    def stop(self, claim: Claim, reason: StopReason, grace: float | None) -> None:
        """Tell a run to stop; after `grace` seconds its process is terminated (``None``: never)."""

    def may_start_until(self, moment: float) -> None:
        """No run begins after `moment` (monotonic seconds): the node's lease ends then."""

    def give_back(self) -> None:
        """Nothing that hasn't begun begins any more."""

    def progress(self) -> list[tuple[Claim, str]]:
        """The progress of each run that has changed since the last call (JSON texts)."""


@dataclass(slots=True, eq=False)
class Run:
    """A claim in the engine's hands; times are monotonic seconds."""

    claim: Claim
    handed_over_at: float
    started_at: float | None = None
    stopping: bool = False
