"""Runs and their stop: coroutine workers in Celery's pools, and whom a stop is told.

There is one event loop a thread, made when it is first needed. Greenlets share a thread, which can turn one event
loop at a time; under gevent each coroutine runs in a real thread.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any

from celery_workmanager.green import is_green

__all__ = ("drive", "watch_for_stop")

#: Seconds between two looks at the stop flag.
WATCH = 0.05
#: Real threads for coroutines, in a process of greenlets; more coroutines than that wait.
_THREADS = 256
#: What a process of Celery's prefork pool hears when a run has reached its soft time limit (billiard.pool).
_SOFT_LIMIT = getattr(signal, "SIGUSR1", None)
_local = threading.local()


def drive(coroutine: Coroutine[Any, Any, Any], stopping: Callable[[], bool], on_stopped: Callable[[], None]) -> Any:
    """Run a coroutine to its end and return its value.

    Once ``stopping()`` is true, ``on_stopped()`` is called and the coroutine cancelled. Raises what the coroutine
    raises; when it ends by cancellation :class:`asyncio.CancelledError` (which is no ``Exception``). A soft time limit
    cancels a coroutine that awaits something, and interrupts one that runs.
    """
    if is_green():
        return _drive_in_thread(coroutine, stopping, on_stopped)
    runner = getattr(_local, "runner", None) or asyncio.Runner()
    _local.runner = None
    noted: list[BaseException] = []
    try:
        with _soft_limit_noted(coroutine, noted):
            # Its own context would be the one of the thread's first run.
            watched = _watched(coroutine, stopping, on_stopped, lambda: bool(noted))
            return runner.run(watched, context=copy_context())
    finally:
        # What a worker left running in the loop must not wake up inside another work.
        if asyncio.all_tasks(runner.get_loop()):
            runner.close()
        else:
            _local.runner = runner
        if noted:
            raise noted[0]


@contextmanager
def _soft_limit_noted(coroutine: Coroutine[Any, Any, Any], noted: list[BaseException]) -> Iterator[None]:
    """Note a soft time limit that comes while the event loop runs, instead of raising it there.

    Celery's handler raises wherever the process is; in the loop's own code asyncio would log that and go on.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(_SOFT_LIMIT) if is_main and _SOFT_LIMIT is not None else None
    if _SOFT_LIMIT is None or not callable(handler):
        yield
        return

    def note(number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except Exception as limit:
            if getattr(coroutine, "cr_running", False):
                raise
            noted.append(limit)

    signal.signal(_SOFT_LIMIT, note)
    try:
        yield
    finally:
        signal.signal(_SOFT_LIMIT, handler)


async def _watched(
    coroutine: Coroutine[Any, Any, Any],
    stopping: Callable[[], bool],
    on_stopped: Callable[[], None],
    broken_off: Callable[[], bool],
) -> Any:
    watcher = asyncio.ensure_future(_watch(asyncio.current_task(), stopping, on_stopped, broken_off))
    try:
        return await coroutine
    finally:
        watcher.cancel()
        await asyncio.wait((watcher,))


async def _watch(
    main: Any, stopping: Callable[[], bool], on_stopped: Callable[[], None], broken_off: Callable[[], bool]
) -> None:
    while not (told := stopping()) and not broken_off():  # noqa: ASYNC110  # a flag in shared memory rings no asyncio.Event
        await asyncio.sleep(WATCH)
    try:
        if told:
            on_stopped()
    finally:
        main.cancel()


@cache
def _threads() -> Any:
    from gevent.threadpool import ThreadPool  # noqa: PLC0415  # only in a process of greenlets

    return ThreadPool(_THREADS)


def _drive_in_thread(
    coroutine: Coroutine[Any, Any, Any], stopping: Callable[[], bool], on_stopped: Callable[[], None]
) -> Any:
    """Wait for a real thread. What is thrown into this greenlet cancels the coroutine, and is raised when it ended."""
    thrown: list[BaseException] = []

    def run() -> tuple[Any, BaseException | None]:
        try:
            # Closed, not kept: threads that the loop makes are greenlets of this one and would wait in it for ever.
            with asyncio.Runner() as runner:
                return runner.run(_watched(coroutine, stopping, on_stopped, lambda: bool(thrown))), None
        except BaseException as error:  # noqa: BLE001  # it belongs to the greenlet that waits
            return None, error

    result = _threads().spawn(copy_context().run, run)
    while not result.ready():
        try:
            result.wait()
        except BaseException as error:  # noqa: BLE001  # a time limit, or the end of a stop's grace
            thrown.append(error)
    value, raised = result.get()
    if thrown:
        raise thrown[0]
    if raised is not None:
        raise raised
    return value


@contextmanager
def watch_for_stop(stopping: Callable[[], bool], on_stopped: Callable[[], None]) -> Iterator[None]:
    """Call ``on_stopped`` once in a thread when ``stopping()``, while the body runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH):
            if stopping():
                on_stopped()
                return

    context = copy_context()
    thread = threading.Thread(target=lambda: context.run(watch), name="workmanager-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
