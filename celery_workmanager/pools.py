"""Celery's prefork pool, fitted so that an engine's own event loop can turn it.

The pool must not stop with the broker, so Celery's consumer runs without an event loop and the engine's thread
turns the pool. Whoever else uses the pool (ordinary tasks, remote control, the autoscaler) does so from another
thread; what they ask for hops over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import termios
from collections.abc import Callable
from pickle import HIGHEST_PROTOCOL, dumps
from select import PIPE_BUF
from struct import pack, unpack
from typing import Any

from billiard import get_start_method
from celery.concurrency import get_implementation, prefork, solo, thread
from celery.concurrency.asynpool import AsynPool

from celery_workmanager.green import is_green

__all__ = ("GEVENT", "PREFORK", "SOLO", "THREADS", "WorkPool", "kind_of", "refusal")

logger = logging.getLogger(__name__)

PREFORK, THREADS, SOLO, GEVENT = "prefork", "threads", "solo", "gevent"
#: How to ask a pipe how much it holds; ``None``: this system can't be asked.
_CAPACITY: int | None = getattr(fcntl, "F_GETPIPE_SZ", None)
#: Seconds that a dying process gets to be gone.
_BREATH = 0.005
_HOPPING = ("grow", "shrink", "maintain_pool", "terminate_job", "restart")


class _DirectPool(AsynPool):
    """Celery's asynchronous pool with a shorter way to an idle process.

    Celery's own way waits for the loop to say that the process's pipe can be written; an idle process's pipe is
    empty. What is small enough to be written whole or not at all is written at once, the rest goes Celery's way.
    """

    _armed = False
    _quick_put: Callable[[Any], None]
    on_poll_start: Callable[[], None]

    def _create_write_handlers(self, hub: Any) -> None:
        super()._create_write_handlers(hub)
        self._buffer, self._arm = self._quick_put, self.on_poll_start
        self._quick_put, self.on_poll_start = self._put, self._poll_starts

    def on_grow(self, n: int) -> None:
        """Start the new processes now; Celery's next round of maintenance may be five seconds away."""
        super().on_grow(n)
        self.maintain_pool()

    def _event_process_exit(self, hub: Any, process: Any) -> None:
        super()._event_process_exit(hub, process)
        self._miss(hub, process, _BREATH)

    def _miss(self, hub: Any, process: Any, pause: float) -> None:
        # The kernel closes the pipes of a dying process before it can be waited for. Celery looks only once, then the
        # process would be missed (and replaced) by the next round of maintenance, up to five seconds later.
        if process in self._pool and pause < 1.0:
            hub.call_later(pause, self._look_again, hub, process, pause * 2)

    def _look_again(self, hub: Any, process: Any, pause: float) -> None:
        self.maintain_pool()
        self._miss(hub, process, pause)

    def _poll_starts(self) -> None:
        # Celery's own way watches or unwatches every pipe at every turn.
        wanted = bool(self.outbound_buffer) and len(self._busy_workers) < len(self._all_inqueues)
        if wanted or self._armed:
            self._armed = wanted
            self._arm()

    def _put(self, task: Any) -> None:
        idle = None if self.outbound_buffer else self._idle_process()
        if idle is None or not self._written(task, *idle):
            self._buffer(task)

    def _idle_process(self) -> tuple[int, Any] | None:
        for fd in self._all_inqueues:
            if fd not in self._busy_workers and fd not in self._active_writes:
                return fd, self._fileno_to_inq[fd]
        return None

    def _written(self, task: Any, fd: int, process: Any) -> bool:
        body = dumps(task, protocol=HIGHEST_PROTOCOL)
        header = pack(">I", len(body))
        try:
            if not _takes_whole(fd, len(header) + len(body)):
                return False
            os.write(fd, header + body)
        except OSError:  # full, or the process is gone: Celery's way knows what to do
            return False
        job = self._cache[task[1][0]]
        # As Celery's way leaves it, for the case that the process dies before it reads this.
        job._payload = memoryview(header), memoryview(body), len(body)  # noqa: SLF001
        job._scheduled_for = job._write_to = process  # noqa: SLF001
        self._busy_workers.add(fd)
        self.write_stats[process.index] += 1
        return True


def _takes_whole(fd: int, size: int) -> bool:
    """Whether a pipe that one process writes to takes so many bytes either whole or not at all."""
    if size <= PIPE_BUF:
        return True
    # What is empty has room for all that it holds.
    return _CAPACITY is not None and size <= fcntl.fcntl(fd, _CAPACITY) and not _unread(fd)


def _unread(fd: int) -> int:
    count: int = unpack("i", fcntl.ioctl(fd, termios.FIONREAD, pack("i", 0)))[0]
    return count


class WorkPool(prefork.TaskPool):
    """Prefork's pool, turned by the thread of whoever sets ``post``."""

    # Celery and its tools know a pool by where its class comes from.
    __module__, __qualname__ = prefork.__name__, prefork.TaskPool.__qualname__

    Pool = _DirectPool
    on_apply: Callable[..., Any]

    #: Runs a callable in the thread that turns the pool; ``None`` before and after that thread's time.
    post: Callable[..., None] | None = None
    #: Stops the turning for good, so that the thread that calls it may use the pool itself.
    park: Callable[[], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        # Fair: a job is written to a child that is free, and to no other; until then it can be taken back.
        options.update(threads=False, semaphore=None, sched_strategy="fair")
        super().__init__(*args, **options)
        self.putlocks = False

    def on_start(self) -> None:
        """Start the processes."""
        super().on_start()
        # The consumer calls it whenever it loses the broker: it would drop jobs and block.
        self.flush = None
        self._apply_here = self.on_apply
        self.on_apply = self._apply
        for name in _HOPPING:
            setattr(self, name, self._hopping(getattr(self, name)))

    def _hopping(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def hop(*args: Any) -> None:
            if self.post is None:
                method(*args)
            else:
                self.post(_calmly, method, *args)

        return hop

    def _apply(self, *args: Any, **options: Any) -> Any:
        if self.post is None:
            return self._apply_here(*args, **options)
        self.post(_apply, self._apply_here, args, options)
        return None

    def on_close(self) -> None:
        """Nothing yet: a closed pool would no longer notice that a child died under a run we wait for."""

    def on_stop(self) -> None:
        """Stop the processes, once the engine has let go of them."""
        self._let_go()
        super().on_stop()

    def on_terminate(self) -> None:
        """Kill the processes, once the engine has let go of them."""
        self._let_go()
        super().on_terminate()

    def _let_go(self) -> None:
        if self.park is not None:
            self.park()


def _apply(apply: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    apply(*args, **options)


def _calmly(method: Callable[..., Any], *args: Any) -> None:
    try:
        method(*args)
    except ValueError as error:  # "Can't shrink pool. All processes busy!"
        logger.debug("%s: %s", getattr(method, "__name__", method), error)


def kind_of(pool_cls: Any) -> str | None:
    """Return which supported pool a class or alias is, ``None`` if works can't run in it."""
    found = get_implementation(pool_cls)
    if found in (prefork.TaskPool, WorkPool):
        return PREFORK
    if found in (thread.TaskPool, solo.TaskPool):
        return THREADS if found is thread.TaskPool else SOLO
    # By name: importing it would import gevent, which only its own users want.
    return GEVENT if (found.__module__, found.__name__) == ("celery.concurrency.gevent", "TaskPool") else None


def refusal(pool_cls: Any, start_method: str | None) -> str | None:
    """Return why works can't run in a pool, ``None`` if they can."""
    kind = kind_of(pool_cls)
    if kind is None:
        return f"expected pool prefork, threads, solo or gevent to run works, got: {_name_of(pool_cls)}"
    if kind == GEVENT and not is_green():
        return "expected gevent's monkey patch before everything else, as `celery -P gevent` applies it, got: none"
    method = start_method or "fork"
    if kind == PREFORK and (method != "fork" or get_start_method() != "fork"):
        return f"expected prefork's start method to be fork to run works, got: {method}"
    return None


def _name_of(pool_cls: Any) -> str:
    found = get_implementation(pool_cls)
    module = str(found.__module__)
    own = module.startswith("celery.concurrency.")
    return module.rpartition(".")[2] if own else f"{module}:{found.__name__}"
