"""What a Celery worker needs to be a good host: changes to one worker object, each undone with it."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any
from weakref import WeakSet

from celery.worker import loops, state
from kombu.utils import functional

__all__ = (
    "brisk_loop",
    "buckets_of",
    "calm_sets",
    "exit_after",
    "handle_signals_apart",
    "retry_gently",
    "survive_losses",
    "wait_while",
)

#: A rate so fast that several works go in this time (seconds) lets them go together.
_TOGETHER = 0.05

logger = logging.getLogger(__name__)

#: Seconds that the consumer may sleep: at a shutdown, and with acknowledgements to send.
_IDLE, _BUSY = 0.5, 0.005


class _CalmSet(WeakSet[Any]):
    """A weak set that may grow in one thread while another walks through it."""

    def __iter__(self) -> Any:
        # Copying a set of references runs no Python code, so no other thread comes between.
        for reference in list(self.data):  # type: ignore[attr-defined]  # WeakSet's own set
            item = reference()
            if item is not None:
                yield item


def calm_sets() -> None:
    """Let remote control and shutdown walk through Celery's sets of requests while the engine changes them."""
    for known in (state.reserved_requests, state.active_requests):
        known.__class__ = _CalmSet


class _BriskConnection:
    """A broker connection on which the consumer doesn't sleep for two seconds.

    Without an event loop Celery's consumer looks up every two seconds. Ordinary tasks of this worker would wait
    so long for their acknowledgement (and the next ones for their delivery), a shutdown for its beginning.
    """

    def __init__(self, connection: Any, consumer: Any) -> None:
        self._connection, self._consumer = connection, consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def drain_events(self, **_timeout: float | None) -> Any:
        intake = getattr(self._consumer, "workmanager_intake", None)
        busy = self._consumer._pending_operations or _ordinary_requests() or (intake and intake.is_busy)  # noqa: SLF001
        return self._connection.drain_events(timeout=_BUSY if busy else _IDLE)


def _ordinary_requests() -> bool:
    return any(getattr(request, "claim", None) is None for request in state.reserved_requests)


def brisk_loop(consumer: Any, connection: Any, *args: Any, **options: Any) -> None:
    """Celery's loop without an event loop, quicker to notice things."""
    loops.synloop(consumer, _BriskConnection(connection, consumer), *args, **options)


def buckets_of(worker: Any) -> Callable[[str], Any]:
    """What gives the token bucket of a task by its name, as the worker's consumer keeps them; ``None``: no limit.

    These are Celery's own buckets: of ``rate_limit``, ``task_default_rate_limit`` and the remote command, and none with
    ``worker_disable_rate_limits``.
    """

    def bucket_of(name: str) -> Any:
        consumer = getattr(worker, "consumer", None)
        if consumer is None or consumer.disable_rate_limits:
            return None
        bucket = consumer.task_buckets.get(name)
        if bucket is not None:
            bucket.capacity = max(bucket.capacity, bucket.fill_rate * _TOGETHER)
        return bucket

    return bucket_of


def survive_losses(consumer: Any) -> None:
    """Keep a consumer alive that loses its broker with messages unacknowledged.

    Celery tidies up behind the lost connection first. With Redis that means to put the messages back; while Redis is
    away this fails, in Celery 5.7 with an error that ends the whole worker.
    """
    tidy_up = consumer.on_connection_error_after_connected

    def tidy_up_if_possible(error: BaseException) -> None:
        try:
            tidy_up(error)
        except Exception as failure:  # noqa: BLE001  # whatever a client without its server raises
            logger.debug("Not tidied up behind a lost connection: %r", failure)

    consumer.on_connection_error_after_connected = tidy_up_if_possible


def retry_gently() -> None:
    """Let kombu's pauses between two tries to reach the broker stop no greenlet but the one that tries.

    Celery loads that module before it applies gevent's monkey patch, so its ``sleep`` would stop the whole process.
    """
    functional.sleep = sleep  # type: ignore[attr-defined]


def handle_signals_apart() -> None:
    """Run Celery's signal handlers, which wait for runs to end, each in a greenlet of its own.

    Under gevent they'd run in the event loop, where nothing may wait, or inside a run, which would wait for itself.
    """
    if threading.current_thread() is not threading.main_thread():  # a worker inside a test
        return
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, lambda *args, run=handler: _thread.start_new_thread(run, args))


def exit_after(worker: Any, last: Callable[[], None]) -> None:
    """Let the worker shut down, then call ``last`` and exit at once: threads that nobody can end go with the process.

    Python would wait for them. In a worker that is only a part of its process, ``last`` is called and that is all.
    """
    alone = threading.current_thread() is threading.main_thread()
    stopped = worker.blueprint.on_stopped

    def on_stopped() -> None:
        stopped()
        last()
        if alone:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(worker.exitcode or 1)

    worker.blueprint.on_stopped = on_stopped


def wait_while(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait while a condition holds, at most so long; whether it holds no more."""
    deadline = monotonic() + seconds
    while condition():
        if monotonic() > deadline:
            return False
        sleep(0.005)
    return True
