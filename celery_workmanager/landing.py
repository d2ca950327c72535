"""How a flight ends: from the answer of its process, or from what a dead one left in its slot."""

from __future__ import annotations

import logging
import marshal
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from traceback import format_exception
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from celery_workmanager import tracer
from celery_workmanager.flights import Flight, Job
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.slots import Slots
from celery_workmanager.work import StopReason

__all__ = ("GIVEN_BACK", "Landing", "OnEnded")

logger = logging.getLogger(__name__)

OnEnded = Callable[[Claim, Outcome], None]
GIVEN_BACK = Outcome(Ending.GIVEN_BACK)
#: How a run ends that was told to stop and did.
_UNDONE = (Ending.STOPPED, Ending.GIVEN_BACK)
#: Why a run is stopped whose work is cancelled. The store may tell it sooner than the command that an operator gave.
_CANCELLED = (StopReason.CANCELLED_BY_APP, StopReason.USER)


class Landing:
    """Ends flights, each once, and collects what they told on the way."""

    def __init__(self, slots: Slots, flying: dict[str, tuple[Flight, Job]]) -> None:
        self._slots, self._flying = slots, flying
        self._last_progress: deque[tuple[Claim, str]] = deque()
        self.on_ended: OnEnded = lambda _claim, _outcome: None

    def end(self, flight: Flight, outcome: Outcome, shown: str | None = None) -> None:
        """Tell the outcome of a flight: the first one counts."""
        if flight.over:
            return
        flight.over = True
        self._flying.pop(flight.claim.id, None)
        if flight.slot >= 0:
            text = self._new_progress(flight)
            if text is not None:
                self._last_progress.append((flight.claim, text))
        try:
            self._tell_celery(flight, outcome, shown)
        except Exception:  # whatever listens there: the node must know how it ended
            logger.exception("Error in telling Celery that %s[%s] ended", flight.claim.worker, flight.claim.id)
        self.on_ended(flight.claim, outcome)

    def _tell_celery(self, flight: Flight, outcome: Outcome, shown: str | None) -> None:
        if outcome.started_at is not None and not flight.announced:
            flight.announced = True
            flight.request.accept(self._slots.pid(flight.slot), outcome.started_at, is_over=True)
        is_cancelled = flight.stop in _CANCELLED and outcome.ending in _UNDONE
        flight.request.finish(outcome, shown, cancelled=flight.stop if is_cancelled else None)

    def end_with(self, flight: Flight, answer: tracer.Answer | None) -> None:
        """End a flight as its process says; without an answer its process broke off."""
        if flight.over:
            return
        if answer is None:
            self.end(flight, self._lost(flight))
        else:
            self.end(flight, tracer.outcome_of(answer), answer[7])

    def end_without_answer(self, flight: Flight, exc: BaseException) -> None:
        """End a flight whose process is gone because of ``exc``."""
        if flight.over:
            return
        answer = self.answer_in_slot(flight)
        if answer is not None:
            self.end_with(flight, answer)
        elif self._slots.started(flight.slot) is None:
            self.end(flight, GIVEN_BACK)
        elif flight.stop is None and isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
            text = "".join(format_exception(exc))
            self.end(flight, self._begun(flight, Ending.FAILED, error=tracer.error_text(exc, text)), repr(exc))
        else:
            self.end(flight, self._lost(flight))

    def answer_in_slot(self, flight: Flight) -> tracer.Answer | None:
        """Return the answer that its process kept in the slot, if it came that far."""
        found = self._slots.read_outcome(flight.slot)
        return None if found is None else marshal.loads(found)  # noqa: S302  # our own process wrote it

    def progress(self, flights: Iterable[Flight]) -> list[tuple[Claim, str]]:
        """Return the newest progress of each of the flights, and of those that ended, if it is new."""
        found: list[tuple[Claim, str]] = []
        while self._last_progress:
            found.append(self._last_progress.popleft())
        for flight in flights:
            text = None if flight.over else self._new_progress(flight)
            if text is not None:
                found.append((flight.claim, text))
        return found

    def _new_progress(self, flight: Flight) -> str | None:
        slot = flight.slot
        if self._slots.progress_sequence(slot) == flight.seen:
            return None
        found = self._slots.read_progress(slot)
        if found is None or self._slots.run_of(slot) != flight.number:
            return None
        flight.seen = found[0]
        return found[1].decode("ascii")

    def _lost(self, flight: Flight) -> Outcome:
        if flight.stop is not None:
            return self._begun(flight, Ending.STOPPED, reason=flight.stop)
        logger.error("The process of %s[%s] was lost", flight.claim.worker, flight.claim.id)
        return self._begun(flight, Ending.LOST)

    def _begun(self, flight: Flight, ending: Ending, **facts: Any) -> Outcome:
        started = self._slots.started(flight.slot) or monotonic()
        return Outcome(ending, started_at=started, runtime=monotonic() - started, **facts)
