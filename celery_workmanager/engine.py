"""An engine runs claims in a Celery worker's own pool; this is what the engines of all pools have in common.

Everything happens in one thread of the engine; what other threads ask for reaches it through an inbox. So there
are no locks, and a hand-over, a stop or a signal handler never waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar

from celery.worker import state

from celery_workmanager import tracer
from celery_workmanager.current import Runtime
from celery_workmanager.engine_options import EngineOptions
from celery_workmanager.flights import Flight, Job
from celery_workmanager.foreground import LONGEST_JSON
from celery_workmanager.hosting import wait_while
from celery_workmanager.landing import GIVEN_BACK, Landing, OnEnded
from celery_workmanager.outcome import Claim
from celery_workmanager.request import RequestHost, WorkRequest
from celery_workmanager.slots import Slots
from celery_workmanager.work import StopReason

__all__ = ("BaseEngine", "EngineOptions", "OnEnded", "OnStarted")

logger = logging.getLogger(__name__)

OnStarted = Callable[[Claim, float], None]

#: Seconds between two looks into the slots while something is in flight.
TICK = 0.01
#: A batch whose running member takes longer than this (seconds) gives its unstarted members back.
STUCK = 0.05


class BaseEngine:
    """What engines share: flights, slots, the tick, stopping, giving back.

    Make it before the pool forks. ``on_revoked(claim)`` is called when an operator revoked a claim that is here.
    """

    supports_batches: ClassVar[bool] = False
    #: Seconds between the signal that ends a stopped run's process and the one that can't be ignored.
    kill_after = 5.0

    def __init__(self, worker: Any, options: EngineOptions) -> None:
        self.worker = worker
        # Twice, because the slot of a run that was ended stays taken until its process is certainly gone.
        places = max(worker.max_concurrency or 0, worker.min_concurrency or 0)
        self.slots = Slots(max(options.slots, 2 * places), area=max(options.data_max_bytes, 1024) + LONGEST_JSON)
        self.runtime = Runtime(
            worker.app, self.slots, options.data_max_bytes, options.call_max_bytes, str(worker.hostname)
        )
        tracer.install(self.runtime)
        self._options = options
        self.host = RequestHost(
            worker.app, str(worker.hostname), self._ask_end, max_interruptions=options.max_interruptions
        )
        self.on_revoked: Callable[[Claim], None] | None = None
        self._on_started: OnStarted = lambda _claim, _at: None
        self._tasks: Any = {}
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._waiting: deque[Job] = deque()
        self._jobs: dict[Job, None] = {}
        self._flights: dict[str, tuple[Flight, Job]] = {}
        self._landing = Landing(self.slots, self._flights)
        self._giving_back = False
        #: The pool is out of our hands.
        self._released = False
        self._thread: threading.Thread | None = None

    # Any thread

    @property
    def concurrency(self) -> int:
        """How many claims can run at the same time, once the autoscaler (if there is one) has seen them waiting."""
        scaler = getattr(self.worker, "autoscaler", None)
        # Of a pool that can't grow it must not hear that something waits: it would crash the worker.
        if scaler is None or not hasattr(self.worker.pool, "grow"):
            return self.places
        return max(self.places, int(scaler.max_concurrency))

    @property
    def places(self) -> int:
        """How many claims can run at the same time right now."""
        raise NotImplementedError

    def start(self, on_started: OnStarted, on_ended: OnEnded) -> None:
        """Start the engine's thread; the pool runs already."""
        self._on_started, self._landing.on_ended = on_started, on_ended
        self._tasks = self.runtime.app.tasks
        self.host.consumer = getattr(self.worker, "consumer", None)
        self._thread = threading.Thread(target=self._turn, name="workmanager-engine", daemon=True)
        self._thread.start()

    def hand_over(self, batch: Sequence[Claim]) -> None:
        """Run these claims, in order, in one process. Returns at once."""
        self._post(self._take, batch)

    def stop(self, claim: Claim, reason: StopReason, grace: float | None = None) -> None:
        """Ask a run to stop; its process is terminated when it still runs it ``grace`` seconds later (None: never)."""
        self._post(self._stop, claim.id, claim.token, reason, grace)

    def stop_all(self, reason: StopReason, grace: float | None = None, *, sparing: bool = False) -> None:
        """Ask every run to stop (`sparing` those in the foreground); what hasn't started is given back."""
        self._post(self._stop_all, reason, grace, sparing)

    def wait_for_foreground(self, reason: StopReason) -> None:
        """Wait for runs in the foreground as long as they may be waited for; the others end now for `reason`."""
        if self._options.foreground_wait > 0 and self._has_foreground():
            logger.warning("Waiting up to %g seconds for works in the foreground", self._options.foreground_wait)
            self.stop_all(reason, 0.0, sparing=True)
            wait_while(self._has_foreground, self._options.foreground_wait)

    def _has_foreground(self) -> bool:
        return any(flight.is_in_foreground(self.slots) for flight, _ in list(self._flights.values()))

    def may_start_until(self, moment: float) -> None:
        """Let no run begin after ``moment`` (``time.monotonic()``), when the node's lease ends."""
        # In line behind the stops: what belonged to a lost lease must not begin under the next one.
        self._post(self.slots.may_start_until, moment)

    def give_back(self) -> None:
        """Give back what hasn't started; from now on nothing starts."""
        self._post(self._give_back)

    @property
    def busy(self) -> bool:
        """Whether anything that was handed over has no outcome yet."""
        return not self._released and bool(self._flights or self._inbox)

    def end_all(self, wait: float = 8.0) -> bool:
        """End every run now, as a cold shutdown does; ``True`` when all have ended within ``wait`` seconds."""
        self.give_back()
        self.stop_all(StopReason.SYSTEM_PROCESSING, 0.0)
        wait_while(lambda: self.busy, wait)
        return not self._flights

    def let_go(self) -> None:
        """End what still runs and leave the pool to whoever calls this. Nothing runs after it."""
        if not self._released:
            if self.busy:
                self.end_all()
            self._park()
            self._released = True

    def _park(self) -> None:
        raise NotImplementedError

    def progress(self) -> list[tuple[Claim, str]]:
        """Return the newest progress (JSON text) of each run that has some since the last call."""
        return self._landing.progress(flight for job in list(self._jobs) for flight in job.flights)

    def _post(self, what: Callable[..., None], *args: Any) -> None:
        if not self._released:
            self._inbox.append((what, args))
            self._wake()

    def _ask_end(self, request: WorkRequest, revoked: bool) -> None:
        self._post(self._end_early, request.claim, revoked)

    # What each kind of pool does its own way

    def _wake(self) -> None:
        raise NotImplementedError

    def _turn(self) -> None:
        raise NotImplementedError

    def _submit(self, job: Job, members: list[tracer.Member]) -> bool:
        """Put a job into the pool; ``False`` when the pool takes nothing any more."""
        raise NotImplementedError

    def _later(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        raise NotImplementedError

    def _terminate(self, _flight: Flight, _force: bool) -> bool:
        """End the process that runs a flight; ``False`` when this pool can't."""
        return False

    def _alone(self, _claim: Claim) -> bool:
        """Whether a claim must not share a job with others."""
        return False

    # The engine's thread from here on

    def _limits(self, claim: Claim) -> tuple[float | None, float | None]:
        task, options = self._tasks.get(claim.worker), claim.options
        hard, soft = (None, None) if task is None else (task.time_limit, task.soft_time_limit)
        return (options.get("time_limit") or hard, options.get("soft_time_limit") or soft) if options else (hard, soft)

    def _empty_inbox(self) -> None:
        while self._inbox:
            what, args = self._inbox.popleft()
            try:
                what(*args)
            except Exception:  # one bad request must not stop the engine
                logger.exception("Error in the engine, in %s", getattr(what, "__name__", what))

    def _take(self, batch: Sequence[Claim]) -> None:
        flights = [self._received(claim, is_short=self.supports_batches and len(batch) > 1) for claim in batch]
        together: list[Flight] = []
        for flight in flights:
            if flight.over:
                continue
            if not self.supports_batches or (len(batch) > 1 and self._alone(flight.claim)):
                self._enqueue([flight])
            else:
                together.append(flight)
        if together:
            self._enqueue(together)
        self._pump()

    def _received(self, claim: Claim, *, is_short: bool) -> Flight:
        flight = Flight(claim, WorkRequest(claim, self._tasks.get(claim.worker), self.host))
        try:
            flight.request.receive(is_short=is_short)
        except Exception:  # a listener of the user's: the work runs all the same
            logger.exception("Error in telling Celery that %s[%s] was received", claim.worker, claim.id)
        if self._giving_back:
            self._landing.end(flight, GIVEN_BACK)
        elif claim.id in state.revoked:
            self._revoke(flight, terminated=False)
            self._landing.end(flight, GIVEN_BACK)
        return flight

    def _enqueue(self, flights: list[Flight]) -> None:
        job = Job(flights)
        self._waiting.append(job)
        for flight in flights:
            self._flights[flight.claim.id] = (flight, job)

    def _pump(self) -> None:
        """Fill the pool, one job a process: what waits here can still be taken back without a trace."""
        while self._waiting and len(self._jobs) < self.places:
            job = self._waiting[0]
            flights = [flight for flight in job.flights if not flight.over]
            if len(flights) > self.slots.available:
                return
            self._waiting.popleft()
            if flights:
                job.flights = flights
                self._launch(job)

    def _launch(self, job: Job) -> None:
        members = []
        for flight in job.flights:
            slot = self.slots.open()
            assert slot is not None  # noqa: S101  # _pump counted them
            flight.slot, flight.number = slot, self.slots.run_of(slot)
            members.append(tracer.member_of(flight.claim, slot, flight.number))
        self._jobs[job] = None
        try:
            taken = self._submit(job, members)
        except Exception:  # a dead pool: what never started goes back
            logger.exception(
                "Error in handing %s[%s] to the pool", job.flights[0].claim.worker, job.flights[0].claim.id
            )
            taken = False
        if not taken:
            self._forget(job)
            for flight in job.flights:
                self._landing.end(flight, GIVEN_BACK)

    def _forget(self, job: Job, free_after: float = 0.0) -> None:
        """A job has left the pool; its slots are free once no process can write into them."""
        if self._jobs.pop(job, self) is self:
            return
        slots = [flight.slot for flight in job.flights]
        if free_after:
            self._later(free_after, self._free, slots)
        else:
            self._free(slots)

    def _free(self, slots: list[int]) -> None:
        for slot in slots:
            self.slots.close(slot)

    # What comes back from the pool

    def _returned(self, job: Job, answers: Sequence[tracer.Answer | None]) -> None:
        # Its process is free: it is fed before its answers are looked at.
        was_here = self._jobs.pop(job, self) is None
        self._pump()
        for flight, answer in zip(job.flights, answers, strict=True):
            self._landing.end_with(flight, answer or self._landing.answer_in_slot(flight))
        if was_here:
            self._free([flight.slot for flight in job.flights])

    def _failed(self, job: Job, exc: BaseException) -> None:
        """The process of a job is gone, or will be in a moment."""
        for flight in job.flights:
            self._landing.end_without_answer(flight, exc)
        # A killed process may take a moment to die.
        self._forget(job, free_after=2.0)
        self._pump()

    def _timed_out(self, job: Job, soft: bool, timeout: float) -> None:
        request = job.flights[0].request
        try:
            request.on_timeout(soft, timeout)
        except Exception:  # the hooks and signals of the user's task
            logger.exception("Error in the hooks of %s, after its time limit", request.name)

    # The tick

    def _tick(self) -> None:
        now = monotonic()
        for job in list(self._jobs):
            for flight in job.flights:
                if not flight.over:
                    self._look_at(flight, job, now)
        self._pump()  # the pool may have grown

    def _look_at(self, flight: Flight, job: Job, now: float) -> None:
        started = self.slots.started(flight.slot)
        if started is None:
            return
        if not flight.announced:
            flight.announced = True
            flight.request.accept(self.slots.pid(flight.slot), started)
            self._on_started(flight.claim, started)
        if self._options.is_overdue(self.slots.foreground(flight.slot), now) and flight.stop is None:
            reason, grace = StopReason.FOREGROUND_SERVICE_TIMEOUT, self._options.stop_grace
            self._stop(flight.claim.id, flight.claim.token, reason, grace)
        if len(job.flights) == 1:
            return
        if self.slots.ended(flight.slot) is not None:
            answer = self._landing.answer_in_slot(flight)
            if answer is not None:
                self._landing.end_with(flight, answer)
        elif not job.withdrawn and now - started > STUCK:
            self._withdraw(job)

    def _withdraw(self, job: Job) -> None:
        """Give back the members of a job that haven't started; those that just do answer for themselves."""
        job.withdrawn = True
        for flight in job.flights:
            if not flight.over and self.slots.started(flight.slot) is None and self.slots.withdraw(flight.slot):
                self._landing.end(flight, GIVEN_BACK)

    # Stopping

    def _give_back(self) -> None:
        self._giving_back = True
        while self._waiting:
            for flight in self._waiting.popleft().flights:
                self._landing.end(flight, GIVEN_BACK)
        for job in list(self._jobs):
            self._withdraw(job)

    def _stop_all(self, reason: StopReason, grace: float | None, sparing: bool) -> None:
        for flight, _ in list(self._flights.values()):
            if not (sparing and flight.is_in_foreground(self.slots)):
                self._stop(flight.claim.id, flight.claim.token, reason, grace)

    def _stop(self, work_id: str, token: int, reason: StopReason, grace: float | None) -> None:
        flight, job = self._flights.get(work_id, (None, None))
        if flight is None or job is None or flight.claim.token != token:
            return
        if flight.stop is None:
            flight.stop = reason
            if flight.slot >= 0:
                self.slots.raise_stop(flight.slot, reason)
        if flight.slot < 0:
            self._landing.end(flight, GIVEN_BACK)
            return
        if self.slots.withdraw(flight.slot):
            self._landing.end(flight, GIVEN_BACK)
        elif grace is not None:
            self._later(grace, self._terminate_still, flight, job, False)

    def _terminate_still(self, flight: Flight, job: Job, force: bool) -> None:
        """Terminate the process of a run, if it is still that run it runs."""
        if flight.over or self.slots.ended(flight.slot) is not None:
            return
        # So that the process can't be inside another member when the signal arrives.
        self._withdraw(job)
        if self._terminate(flight, force) and not force:
            self._later(self.kill_after, self._terminate_still, flight, job, True)

    def _end_early(self, claim: Claim, revoked: bool) -> None:
        flight, _ = self._flights.get(claim.id, (None, None))
        if flight is None:
            return
        if revoked:
            self._revoke(flight, terminated=True)
        reason = StopReason.USER if revoked else StopReason.SYSTEM_PROCESSING
        self._stop(claim.id, flight.claim.token, reason, 0.0)

    def _revoke(self, flight: Flight, *, terminated: bool) -> None:
        flight.request.announce_revoked(terminated)
        if self.on_revoked is not None:
            self.on_revoked(flight.claim)
