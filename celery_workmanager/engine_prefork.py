"""The engine for prefork: Celery's pool of processes, turned by our own event loop in our own thread."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from celery_workmanager import tracer
from celery_workmanager.engine import TICK, BaseEngine, EngineOptions
from celery_workmanager.flights import Flight, Job
from celery_workmanager.outcome import Claim

__all__ = ("PreforkEngine",)

logger = logging.getLogger(__name__)

#: Seconds that the last answers of processes are waited for.
PATIENCE = 3.0
#: How many objects gather before this process looks for cycles among them. A work leaves none, but it is a dozen
#: objects that live until its end is written, so that Python's own 700 would look at them again and again.
_YOUNG = 10_000


class PreforkEngine(BaseEngine):
    """Runs claims in the processes of a :class:`~celery_workmanager.pools.WorkPool`."""

    supports_batches = True

    def __init__(self, worker: Any, options: EngineOptions) -> None:
        super().__init__(worker, options)
        # All that is imported by now stays, here and in the processes that will be forked: no search for cycles need
        # go through it again, for a tenth of a second each time.
        gc.freeze()
        self._pool = worker.pool
        self._hub = Hub(Timer())
        self._waker, self._wake_end = socket.socketpair()
        self._waker.setblocking(False)
        self._wake_end.setblocking(False)
        self._awake = False
        self._ticking = False
        self._parking = False
        self._parked = threading.Event()

    @property
    def places(self) -> int:
        """How many processes there are; the autoscaler changes it."""
        pool = self._pool._pool  # noqa: SLF001  # Celery's pool keeps billiard's there
        return 0 if pool is None else int(pool._processes)  # noqa: SLF001

    def start(self, on_started: Any, on_ended: Any) -> None:
        """Let our loop turn the pool from now on."""
        self._hub.add_reader(self._waker, self._woken)
        self._pool.register_with_event_loop(self._hub)
        self._pool.post, self._pool.park = self._post, self.let_go
        _gather_more()
        super().start(on_started, on_ended)

    # The loop

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with suppress(BlockingIOError):  # it is full of wake-ups already
                self._wake_end.send(b"\0")

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            self._waker.recv(4096)
        # Before the inbox is emptied: what comes later wakes the loop again.
        self._awake = False
        self._empty_inbox()
        self._keep_ticking()

    def _turn(self) -> None:
        loop = self._hub.create_loop()
        while not self._parking:
            try:
                next(loop)
            except StopIteration:
                loop = self._hub.create_loop()
            except Exception:  # a child's pipe, a callback: the next turn must come
                logger.exception("Error in the engine's loop")
                loop = self._hub.create_loop()
        self._pool.post = None
        self._parked.set()
        # Children that this thread forked are killed by the kernel when it ends (PR_SET_PDEATHSIG), in the middle
        # of whatever they finish after the engine let go; so it stays until the process goes.
        threading.Event().wait()

    def _keep_ticking(self) -> None:
        if not self._ticking and self._jobs:
            self._ticking = True
            self._hub.call_later(TICK, self._on_tick)

    def _on_tick(self) -> None:
        self._ticking = False
        try:
            self._tick()
        finally:
            self._keep_ticking()

    def _later(self, seconds: float, what: Any, *args: Any) -> None:
        self._hub.call_later(seconds, what, *args)

    # The pool

    def _alone(self, claim: Claim) -> bool:
        # The pool counts and times jobs, not their members.
        pool = self._pool._pool  # noqa: SLF001
        return (
            claim.start_written
            or any(self._limits(claim))
            or pool.timeout is not None
            or pool.soft_timeout is not None
            or pool._maxtasksperchild is not None  # noqa: SLF001
            or pool._max_memory_per_child is not None  # noqa: SLF001
        )

    def _submit(self, job: Job, members: list[tracer.Member]) -> bool:
        pool = self._pool._pool  # noqa: SLF001
        if pool is None:
            return False
        hard, soft = self._limits(job.flights[0].claim)
        job.handle = pool.apply_async(
            tracer.run_batch,
            (self._shows(job), members),
            callback=partial(self._returned, job),
            error_callback=partial(self._gone, job),
            timeout_callback=partial(self._timed_out, job),
            timeout=hard,
            soft_timeout=soft,
        )
        self._keep_ticking()
        return job.handle is not None

    def _shows(self, job: Job) -> bool:
        """Whether task events want to be shown what is returned."""
        # Of what takes a few milliseconds nobody is missed who comes meanwhile.
        return self.host.eventer() is not None and (len(job.flights) == 1 or self.host.events.is_heard)

    def _gone(self, job: Job, einfo: Any) -> None:
        exc = einfo.exception
        self._failed(job, exc.exc if isinstance(exc, ExceptionWithTraceback) else exc)

    def _terminate(self, flight: Flight, force: bool) -> bool:
        pid = self.slots.pid(flight.slot)
        signum = signal.SIGKILL if force else flight.request.signum or signal.SIGTERM
        self._pool._pool.terminate_job(pid, signum)  # noqa: SLF001
        return True

    # The end

    def _park(self) -> None:
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._post(self._stop_turning)
        self._parked.wait(10.0)

    def _stop_turning(self, patience: float = PATIENCE) -> None:
        outbound = self._pool._pool.outbound_buffer  # noqa: SLF001
        over = [job for job in self._jobs if job.handle is not None and all(flight.over for flight in job.flights)]
        # What a process has taken it will answer, though all is known by now; one whose answer nobody hears lingers for
        # half a minute before it exits (billiard, ``Worker._ensure_messages_consumed``).
        if patience > 0 and any(job.handle not in outbound for job in over):
            self._later(TICK, self._stop_turning, patience - TICK)
            return
        self._parking = True
        for job in over:
            # Given back long ago, but no process will ever take it: the pool must not wait for it.
            job.handle.discard()
            if job.handle in outbound:
                outbound.remove(job.handle)


def _gather_more() -> None:
    """Let this process, in which nobody's runs are, look for cycles less often; not those that it forks."""
    first, *others = before = gc.get_threshold()
    if 0 < first < _YOUNG:
        gc.set_threshold(_YOUNG, *others)
        os.register_at_fork(after_in_child=partial(gc.set_threshold, *before))
