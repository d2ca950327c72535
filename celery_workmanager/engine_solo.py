"""The engine for solo: runs claims in one thread of its own, in turns with the ordinary tasks of the worker.

Solo means one at a time. Celery's solo pool runs a task in the thread that reads from the broker; a work must not
stop that one, nor the node, so it has a thread of its own. Ordinary tasks stay where they are and wait there for their
turn, first come, first served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from celery.worker import state

from celery_workmanager.engine import OnEnded, OnStarted
from celery_workmanager.engine_threads import ThreadsEngine

__all__ = ("SoloEngine",)

#: Seconds between two looks, while an ordinary task waits for its turn, at whether the worker has to stop.
_LOOK = 0.1


class SoloEngine(ThreadsEngine):
    """Runs claims one by one, and none while Celery's ``solo`` pool runs a task."""

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="workmanager-solo")

    def start(self, on_started: OnStarted, on_ended: OnEnded) -> None:
        """Let ordinary tasks wait for their turn from now on."""
        apply = self._pool.on_apply
        self._pool.on_apply = lambda *args, **options: self._in_turn(apply, *args, **options)
        super().start(on_started, on_ended)

    def _in_turn(self, apply: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run an ordinary task while the thread of the works waits for it."""
        turn, over = threading.Event(), threading.Event()

        def pause() -> None:
            turn.set()
            over.wait()

        self._executor.submit(pause)
        try:
            while not turn.wait(_LOOK):
                # It may wait for long; its message, not acknowledged yet, goes back to the broker.
                state.maybe_shutdown()
            return apply(*args, **options)
        finally:
            over.set()
