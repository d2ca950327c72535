"""The engine for gevent: runs claims in greenlets of Celery's gevent pool.

Threads, locks and queues are gevent's there (``celery -P gevent`` patches them before anything else), so the engine
and the node are greenlets too, and nothing here has to know gevent by name.
"""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from celery_workmanager import tracer
from celery_workmanager.engine import EngineOptions, OnEnded, OnStarted
from celery_workmanager.engine_cooperative import CooperativeEngine
from celery_workmanager.flights import Flight, Job
from celery_workmanager.work import StopReason

__all__ = ("GeventEngine",)


class GeventEngine(CooperativeEngine):
    """Runs claims in the greenlets of Celery's ``gevent`` pool."""

    def __init__(self, worker: Any, options: EngineOptions) -> None:
        super().__init__(worker, options)
        self._line: SimpleQueue[tuple[Job, list[tracer.Member]]] = SimpleQueue()
        #: Jobs whose run has time limits (hard, soft; seconds), as long as there is one to come.
        self._limited: dict[Job, tuple[float | None, float | None]] = {}

    @property
    def places(self) -> int:
        """How many greenlets the pool has at most; the autoscaler changes it."""
        return int(self._pool._pool.size)  # noqa: SLF001  # not every Celery tells its own number then

    def start(self, on_started: OnStarted, on_ended: OnEnded) -> None:
        """Start the engine's greenlets."""
        super().start(on_started, on_ended)
        threading.Thread(target=self._feed, name="workmanager-feeder", daemon=True).start()

    def _feed(self) -> None:
        # The pool lets whoever hands it something wait while it is full, of ordinary tasks too; so not the engine.
        while True:
            job, members = self._line.get()
            job.handle = self._pool._pool.spawn(tracer.run_batch, self.host.eventer() is not None, members)  # noqa: SLF001
            job.handle.link(partial(self._post, self._done, job))

    def _submit(self, job: Job, members: list[tracer.Member]) -> bool:
        claim = job.flights[0].claim
        hard, soft = self._limits(claim)
        hard, soft = hard or self.worker.time_limit, soft or self.worker.soft_time_limit
        if hard or soft:
            self._limited[job] = hard, soft
        self._line.put((job, members))
        return True

    def _done(self, job: Job, greenlet: Any) -> None:
        self._limited.pop(job, None)
        # One that was killed before it ran counts as successful, with the GreenletExit as its value.
        if isinstance(greenlet.value, list):
            self._returned(job, greenlet.value)
        else:
            self._failed(job, greenlet.exception or greenlet.value)

    # Ending a run

    def _terminate(self, flight: Flight, _force: bool) -> bool:
        _, job = self._flights[flight.claim.id]
        job.handle.kill(block=False)
        return True

    def _tick(self) -> None:
        super()._tick()
        now = monotonic()
        for job, limits in list(self._limited.items()):
            flight = job.flights[0]
            started = None if flight.over else self.slots.started(flight.slot)
            if started is not None:
                self._limit(job, flight, now - started, *limits)

    def _limit(self, job: Job, flight: Flight, age: float, hard: float | None, soft: float | None) -> None:
        if hard is not None and age >= hard:
            del self._limited[job]
            # Marked before it is killed: what it says then doesn't count.
            self.slots.raise_stop(flight.slot, StopReason.TIMEOUT)
            self._timed_out(job, False, hard)
            self._landing.end_without_answer(flight, TimeLimitExceeded(hard))
            job.handle.kill(block=False)
        elif soft is not None and age >= soft:
            self._limited[job] = hard, None
            self._timed_out(job, True, soft)
            job.handle.kill(SoftTimeLimitExceeded(soft), block=False)
