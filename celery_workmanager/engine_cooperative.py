"""What the engines of threads, solo and gevent share: their pools turn themselves, so a bell and a few timers do."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from celery_workmanager.engine import TICK, BaseEngine, EngineOptions, OnEnded, OnStarted

__all__ = ("CooperativeEngine",)

#: Seconds to sleep when nothing is in flight and nobody asks for anything.
_IDLE = 60.0


class CooperativeEngine(BaseEngine):
    """Turns in a thread (or greenlet) of its own, woken by a bell, and at each tick while something is in flight."""

    def __init__(self, worker: Any, options: EngineOptions) -> None:
        super().__init__(worker, options)
        self._pool = worker.pool
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._timers: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._order = count()
        self._parking = False

    @property
    def places(self) -> int:
        """How many threads or greenlets the pool has at most."""
        return int(self._pool.limit)

    def start(self, on_started: OnStarted, on_ended: OnEnded) -> None:
        """Start the engine's thread; the pool runs already."""
        stop = self._pool.on_stop

        def let_go_and_stop() -> None:
            self.let_go()
            # It would wait for ever for a thread that doesn't end.
            if not self._flights:
                stop()

        self._pool.on_stop = let_go_and_stop
        super().start(on_started, on_ended)

    def _wake(self) -> None:
        self._bell.put(None)

    def _later(self, seconds: float, what: Any, *args: Any) -> None:
        heappush(self._timers, (monotonic() + seconds, next(self._order), what, args))

    def _turn(self) -> None:
        next_tick = 0.0
        while not self._parking:
            self._wait()
            self._empty_inbox()
            now = monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._inbox.append(heappop(self._timers)[2:])
                self._empty_inbox()
            if self._jobs and now >= next_tick:
                next_tick = now + TICK
                self._inbox.append((self._tick, ()))
                self._empty_inbox()

    def _wait(self) -> None:
        timeout = TICK if self._jobs else _IDLE
        if self._timers:
            timeout = min(timeout, max(0.0, self._timers[0][0] - monotonic()))
        try:
            self._bell.get(timeout=timeout)
            while True:
                self._bell.get_nowait()
        except Empty:
            pass

    def _park(self) -> None:
        self._post(setattr, self, "_parking", True)
