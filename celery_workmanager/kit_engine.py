"""The testing kit's engine: runs claims in the calling thread, with the tracer that pool processes use."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from celery.local import Proxy

from celery_workmanager.clock import HeldClock
from celery_workmanager.current import Runtime
from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest, StoreBusy
from celery_workmanager.foreground import LONGEST_JSON
from celery_workmanager.ids import new_id
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.requests import worker_name_of
from celery_workmanager.settings import Limits
from celery_workmanager.slots import Slots
from celery_workmanager.store import Store
from celery_workmanager.timing import as_datetime, micros
from celery_workmanager.tracer import install, member_of, outcome_of, run_batch
from celery_workmanager.work import Result, StopReason

_SLOTS = 8

CrashPoint = Literal["claim", "start", "run", "finish"]


class KitClock(HeldClock):
    """A clock that stands still until it is advanced."""

    def __init__(self, start: int) -> None:
        super().__init__(start // 1_000_000 * 1_000_000)

    def advance(self, duration: timedelta) -> None:
        """Move on by `duration`, which may not be negative."""
        if not isinstance(duration, timedelta) or duration < timedelta(0):  # type: ignore[redundant-expr]
            raise InvalidRequest("duration", "a timedelta of zero or more", duration)
        self.move(micros(duration))

    def today(self) -> datetime:
        """The present moment, in UTC."""
        return as_datetime(self.now())


class Crashed(BaseException):
    """The imaginary process died here."""


class InlineEngine:
    """Runs claims in the calling thread, one at a time, with the tracer that pool processes use."""

    supports_batches = False
    concurrency = 1

    def __init__(self, app: Any, store: Store, clock: HeldClock, reached: Callable[[CrashPoint], None]) -> None:
        self._store, self._clock, self._reached = store, clock, reached
        self._slots = _TellingSlots(self, store.terms.limits)
        self._runtime = _runtime(app, store.terms.limits, self._slots)
        self._running: dict[str, tuple[Claim, int]] = {}
        self._seen: dict[int, int] = {}

    def start(self, on_started: Callable[[Claim, float], None], on_ended: Callable[[Claim, Outcome], None]) -> None:
        """Take the callbacks."""
        self._on_started, self._on_ended = on_started, on_ended

    def hand_over(self, batch: Sequence[Claim]) -> None:
        """Run the members of `batch`, one after the other, now."""
        for claim in batch:
            self._reached("claim")
            self._run(claim)

    def _run(self, claim: Claim) -> None:
        slot = self._slots.open()
        assert slot is not None  # noqa: S101 - runs are nested in nothing but themselves
        self._running[claim.id] = (claim, slot)
        try:
            outcome = self._outcome(claim, slot)
            self.save_progress()
        finally:
            del self._running[claim.id]
            self._slots.close(slot)
        self._reached("run")
        self._on_ended(claim, outcome)

    def begin(self, slot: int) -> bool:
        """Write RUNNING at once, so that a test that looks from inside a worker sees it; ``False``: it may not run."""
        claim = next(claim for claim, its in self._running.values() if its == slot)
        at = self._clock.monotonic()
        if not claim.start_written:
            claim.start_written = claim.id in self._store.write_starts([(claim, self._clock.now())])
        self._on_started(claim, at)
        if claim.start_written:
            self._reached("start")
        return claim.start_written

    def _outcome(self, claim: Claim, slot: int) -> Outcome:
        install(self._runtime)
        began = self._clock.monotonic()
        answer = run_batch(False, [member_of(claim, slot, self._slots.run_of(slot))])[0]
        if answer is None:
            answer = _answer_in(self._slots, slot)
        outcome = outcome_of(answer)
        # The tracer measures real time; this world's clock is the kit's.
        return replace(outcome, started_at=None if outcome.started_at is None else began)

    def save_progress(self) -> None:
        """Write the progress of what runs, as a worker does twenty times a second."""
        entries = self.progress()
        if entries:
            self._store.write_progress(entries)

    def progress(self) -> list[tuple[Claim, str]]:
        """The progress of each run that has changed since the last call."""
        found: list[tuple[Claim, str]] = []
        for claim, slot in self._running.values():
            number = self._slots.run_of(slot)
            read = self._slots.read_progress(slot)
            if read is not None and self._seen.get(number) != read[0]:
                self._seen[number] = read[0]
                found.append((claim, read[1].decode("ascii")))
        return found

    def stop(self, claim: Claim, reason: StopReason, grace: float | None) -> None:
        """Raise the stop flag; nobody is terminated here."""
        del grace
        running = self._running.get(claim.id)
        if running is not None:
            self._slots.raise_stop(running[1], reason)

    def may_start_until(self, moment: float) -> None:
        """The kit's node never loses its lease by itself."""

    def give_back(self) -> None:
        """Nothing waits here."""

    def runs(self, work_id: str) -> Claim | None:
        """The claim of a work that runs now."""
        running = self._running.get(work_id)
        return None if running is None else running[0]


class _TellingSlots(Slots):
    """Slots that tell of a start and of progress at once, where a worker looks every few milliseconds."""

    def __init__(self, engine: InlineEngine, limits: Limits) -> None:
        super().__init__(_SLOTS, area=limits.data_max_bytes + LONGEST_JSON, outcome_area=limits.call_max_bytes)
        self._engine = engine

    def stamp_start(self, slot: int, now: float, pid: int) -> bool:
        return self._engine.begin(slot) and super().stamp_start(slot, now, pid)

    def write_progress(self, slot: int, run: int, progress: bytes) -> None:
        super().write_progress(slot, run, progress)
        with suppress(StoreBusy):  # the worker itself holds SQLite's only write lock
            self._engine.save_progress()


def _answer_in(slots: Slots, slot: int) -> Any:
    kept = slots.read_outcome(slot)
    assert kept is not None  # noqa: S101 - the tracer says so by answering None
    return marshal.loads(kept)  # noqa: S302 - written by this process


def _runtime(app: Any, limits: Limits, slots: Slots | None = None) -> Runtime:
    slots = slots or Slots(_SLOTS, area=limits.data_max_bytes + LONGEST_JSON, outcome_area=limits.call_max_bytes)
    return Runtime(app, slots, limits.data_max_bytes, limits.call_max_bytes, "kit")


_RESULTS: dict[Ending, Callable[[Data], Result]] = {
    Ending.SUCCEEDED: Result.success,
    Ending.FAILED: Result.failure,
}


def run_worker(
    worker: Any,
    input_data: Mapping[str, Any] | None = None,
    *,
    run_attempt_count: int = 0,
    tags: Iterable[str] = (),
    id: str | None = None,
) -> Result:
    """Run one worker once, without a manager or a store (WorkManager: ``TestListenableWorkerBuilder``).

    An exception is a failure, as everywhere; its traceback is logged.
    """
    task = worker() if isinstance(worker, type) else worker
    if isinstance(task, Proxy):  # a task as its decorator returns it
        task = task._get_current_object()  # noqa: SLF001 - Celery's own way
    name = worker_name_of(worker)
    runtime = _runtime(_OneTaskApp(name, task), Limits.server())
    text = Data.of(input_data, "input_data").to_json()
    claim = Claim(
        id=id or new_id(),
        worker=name,
        queue="",
        token=1,
        node="kit",
        run_attempt_count=run_attempt_count,
        interruptions=0,
        generation=0,
        inputs=[text],
        options={"tags": sorted(tags)},
    )
    return _result_of(_run_alone(runtime, claim))


class _OneTaskApp:
    """What a run needs of an app."""

    def __init__(self, name: str, task: Any) -> None:
        self._app = task.app
        task.name = name  # of a class that was never registered
        self.tasks = {name: task}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)


def _run_alone(runtime: Runtime, claim: Claim) -> Outcome:
    slot = runtime.slots.open()
    assert slot is not None  # noqa: S101 - fresh slots
    install(runtime)
    try:
        answer = run_batch(False, [member_of(claim, slot, runtime.slots.run_of(slot))])[0]
        return outcome_of(answer or _answer_in(runtime.slots, slot))
    finally:
        install(None)


def _result_of(outcome: Outcome) -> Result:
    if outcome.ending is Ending.RETRY:
        return Result.retry(outcome.after)
    if outcome.ending not in _RESULTS:
        raise InvalidRequest("run", "ended by its own result", outcome.ending.value)
    return _RESULTS[outcome.ending](Data.from_json(outcome.output or "{}"))
