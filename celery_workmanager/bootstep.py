"""The part of a Celery worker that runs works: a step of the worker, not of its consumer.

A consumer's step stops with the broker, a worker's step doesn't.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from celery import bootsteps, signals
from celery.worker import state
from celery.worker.components import Beat, Pool

from celery_workmanager import control, hosting, pools
from celery_workmanager.engine import BaseEngine, EngineOptions
from celery_workmanager.engine_gevent import GeventEngine
from celery_workmanager.engine_prefork import PreforkEngine
from celery_workmanager.engine_solo import SoloEngine
from celery_workmanager.engine_threads import ThreadsEngine
from celery_workmanager.outcome import Claim
from celery_workmanager.work import StopReason

__all__ = ("MakeNode", "Node", "WorkStep", "install")

logger = logging.getLogger(__name__)

#: Seconds that a worker waits at its end for events and signals that are on their way.
_FAREWELL = 2.0
_ENGINES: dict[str, type[BaseEngine]] = {
    pools.PREFORK: PreforkEngine,
    pools.THREADS: ThreadsEngine,
    pools.SOLO: SoloEngine,
    pools.GEVENT: GeventEngine,
}


class Node(Protocol):
    """What claims works, hands them to an engine and commits their outcomes."""

    def start(self) -> None:
        """Start the engine (``engine.start``) and the claiming."""

    def shutting_down(self) -> None:
        """Stop claiming and give back what hasn't started. In a signal handler, maybe twice: must not wait."""

    def drain(self, unless: Callable[[], bool]) -> None:
        """Wait until nothing runs any more and every outcome is committed, or until `unless` says not to."""

    def terminate(self) -> None:
        """Commit every outcome there is, without waiting for others: every run has been ended."""

    def close(self) -> None:
        """Let go of everything. After ``drain`` or ``terminate``."""

    def revoked(self, claim: Claim) -> None:
        """An operator revoked this claim: cancel the work. In the engine's thread."""

    def revoke(self, ids: Sequence[str], tags: Sequence[str], reason: StopReason) -> None:
        """An operator revoked works, here or anywhere: cancel them. In the consumer's thread: must not wait."""


MakeNode = Callable[[Any, BaseEngine], Node]


class WorkStep(bootsteps.StartStopStep):
    """Starts a node with the worker and stops it before the pool. Each app has a subclass of its own."""

    # Beat (`worker -B`) is forked before our threads begin: a child that inherits their locks would hang.
    requires = (Pool, Beat)
    make_node: Callable[..., Node]
    options: Callable[[], EngineOptions]

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.engine: BaseEngine | None = None
        self.node: Node | None = None

    def include_if(self, worker: Any) -> bool:
        """Not in pools that can't run works."""
        reason = pools.refusal(worker.pool_cls, getattr(worker, "pool_start_method", None))
        if reason is not None:
            logger.error("This worker runs no works: %s", reason)
        return reason is None

    def create(self, worker: Any) -> None:
        """Make the shared memory and the engine, before the pool forks."""
        engine = _ENGINES[pools.kind_of(worker.pool_cls) or ""](worker, type(self).options())
        self.engine, self.node = engine, type(self).make_node(worker, engine)
        engine.on_revoked = self.node.revoked
        worker.workmanager_step = self

    def start(self, worker: Any) -> None:
        """Start the node; the pool runs, the consumer doesn't yet and maybe never will."""
        assert self.node is not None  # noqa: S101  # create made it
        worker.consumer.loop = hosting.brisk_loop
        hosting.survive_losses(worker.consumer)
        hosting.calm_sets()
        control.listen()
        if pools.kind_of(worker.pool_cls) == pools.GEVENT:
            hosting.handle_signals_apart()
        self._soften(worker)
        _running[worker.hostname] = self
        self.node.start()

    def _soften(self, worker: Any) -> None:
        """A cold shutdown waits first (``worker_soft_shutdown_timeout``), before it tells anybody anything."""
        wait = worker.wait_for_soft_shutdown

        def wait_softly() -> None:
            self.shutting_down()
            seconds = worker.app.conf.worker_soft_shutdown_timeout
            if self.engine is None or not self.engine.busy:
                wait()
                return
            if seconds > 0:
                logger.warning("Initiating Soft Shutdown, terminating in %s seconds", seconds)
                self.engine.stop_all(StopReason.SYSTEM_PROCESSING, sparing=True)
                hosting.wait_while(self._anything_runs, seconds)
            self.engine.wait_for_foreground(StopReason.SYSTEM_PROCESSING)
            # Celery ends the requests that it knows to be active; a run that just began isn't one yet.
            self.engine.stop_all(StopReason.SYSTEM_PROCESSING, 0.0)

        worker.wait_for_soft_shutdown = wait_softly

    def _anything_runs(self) -> bool:
        return (self.engine is not None and self.engine.busy) or bool(len(state.active_requests))

    def shutting_down(self) -> None:
        """The worker will stop: start nothing more. Runs inside the signal handler."""
        if self.node is not None:
            self.node.shutting_down()

    def stop(self, worker: Any) -> None:
        """Warm shutdown: wait for what runs. It may become a cold one meanwhile."""
        self.shutting_down()
        if self.node is not None:
            self.node.drain(_is_cold)
        if _is_cold():
            self.terminate(worker)
        else:
            self._let_go(worker)

    def terminate(self, worker: Any) -> None:
        """Cold shutdown: end what runs; it goes back to the queue."""
        self.shutting_down()
        if self.engine is None or self.engine.end_all():
            self._end(worker)
        else:
            # Not before they are really gone may others run what they run.
            hosting.exit_after(worker, lambda: self._end(worker))

    def _end(self, worker: Any) -> None:
        if self.node is not None:
            self.node.terminate()
        self._let_go(worker)

    def _let_go(self, worker: Any) -> None:
        _running.pop(worker.hostname, None)
        if self.engine is not None and self.node is not None:
            self.engine.let_go()
            self.node.close()
            # What was told at last is on its way in threads that end with the process.
            self.engine.host.flush(_FAREWELL)
        self.engine = self.node = None


def _is_cold() -> bool:
    return state.should_terminate not in (None, False)


_running: dict[str, WorkStep] = {}


def install(app: Any, make_node: MakeNode, options: Callable[[], EngineOptions] = EngineOptions) -> None:
    """Make the workers of an app run works.

    ``make_node(worker, engine)`` is called in each worker, before its pool forks; ``options()`` just before.
    """
    members = {"make_node": staticmethod(make_node), "options": staticmethod(options), "__module__": __name__}
    app.steps["worker"].add(type(f"WorkStep{id(app):x}", (WorkStep,), members))
    signals.worker_init.connect(_prepare, weak=False, dispatch_uid="celery_workmanager.prepare")
    signals.worker_shutting_down.connect(_shut_down, weak=False, dispatch_uid="celery_workmanager.shut_down")


def _runs_works(app: Any) -> bool:
    steps = app.steps["worker"]
    return any(isinstance(step, type) and issubclass(step, WorkStep) for step in steps)


def _prepare(sender: Any, **_: Any) -> None:
    """Before the worker builds its steps: no event loop, and a prefork pool that lets us turn it."""
    if not _runs_works(sender.app):
        return
    if pools.refusal(sender.pool_cls, getattr(sender, "pool_start_method", None)) is not None:
        return
    sender.use_eventloop = False
    kind = pools.kind_of(sender.pool_cls)
    if kind == pools.PREFORK:
        sender.pool_cls = pools.WorkPool
    elif kind == pools.GEVENT:
        hosting.retry_gently()


def _shut_down(**_: Any) -> None:
    for step in list(_running.values()):
        step.shutting_down()
