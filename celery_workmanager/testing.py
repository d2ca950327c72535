"""A testing kit for projects that use durable works: everything in this process, the time in your hands.

It runs the same dispatcher, rules and store as a worker; only the pool is replaced, by a call in your own thread.
(WorkManager: ``work-testing``, ``WorkManagerTestInitHelper`` and ``TestDriver``.)
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Self, get_args

from celery import Celery

from celery_workmanager import schema
from celery_workmanager.app import STORE_URL, WorkManager, configured
from celery_workmanager.dispatcher import Dispatcher
from celery_workmanager.errors import InvalidRequest, WorkManagerError, WorkNotFound
from celery_workmanager.ids import check_id
from celery_workmanager.kit_engine import Crashed, CrashPoint, InlineEngine, KitClock, run_worker
from celery_workmanager.lease import Lease
from celery_workmanager.store import pausing
from celery_workmanager.timing import SECOND
from celery_workmanager.tracer import install
from celery_workmanager.upkeep import Upkeep
from celery_workmanager.work import State, StopReason

__all__ = ["KitClock", "TestDriver", "WorkManagerTestKit", "run_worker"]

_MOST_RUNS = 100_000
#: The kit's node never dies of a lease, whatever its clock says.
_FOR_EVER = 3650 * 86400.0
_NODE = "kit"
#: What the app's own WorkManager is lent.
_PARTS = ("clock", "settings", "store")


class _AnyLane(Mapping[int, str]):
    """The kit's node consumes every queue and knows every worker."""

    def __getitem__(self, lane: int) -> str:
        return ""

    def __contains__(self, lane: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_ANY = _AnyLane()


class TestDriver:
    """Tells works that what they wait for has happened (WorkManager: ``TestDriver``)."""

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(self, kit: WorkManagerTestKit) -> None:
        self._kit = kit

    def set_initial_delay_met(self, id: str | uuid.UUID) -> None:
        """Let the initial delay of a work have passed; backoff and override it leaves alone. Raises WorkNotFound."""
        self._kit.delay_met(self._known(id))

    def set_period_delay_met(self, id: str | uuid.UUID) -> None:
        """Let what a periodic work waits for between its runs have passed, or the moment its next run was set to.

        The initial delay of its first run and a backoff it leaves alone. Raises WorkNotFound, InvalidRequest for
        one-time work.
        """
        work_id = self._known(id)
        info = self._kit.work_manager.get_work_info_by_id(work_id)
        if info is None or info.periodicity_info is None:
            raise InvalidRequest("work whose period has passed", "periodic", work_id)
        is_delayed = info.initial_delay and not info.period_count and info.next_schedule_time_override is None
        if info.state is State.ENQUEUED and not is_delayed and not info.run_attempt_count:
            self._kit.work_manager.store.make_due(work_id)

    def stop_running_work_with_reason(self, id: str | uuid.UUID, reason: StopReason) -> None:
        """Stop a run as the system would. Raises WorkNotFound, InvalidRequest when it doesn't run."""
        if not isinstance(reason, StopReason) or reason is StopReason.NOT_STOPPED:  # type: ignore[redundant-expr]
            raise InvalidRequest("reason", "a StopReason other than NOT_STOPPED", reason)
        self._kit.stop(self._known(id), reason)

    def _known(self, id: str | uuid.UUID) -> str:
        work_id = check_id(id)
        if self._kit.work_manager.get_work_info_by_id(work_id) is None:
            raise WorkNotFound(work_id)
        return work_id


class WorkManagerTestKit:
    """A store, a held clock and an imaginary node.

    `app`: the app whose workers are run (default: a new one, which has the shared tasks); if it has a WorkManager, the
    kit stands in for it until `close`, calls of the one itself included. `store_url`: default a store in memory; a
    server's store is migrated and **emptied**. In a Django project the default is its database, whose migrations and
    rows are the affair of Django's own test cases.
    `profile`: "android" for Android's own limits. Also a context manager.
    """

    def __init__(self, app: Celery | None = None, store_url: str | None = None, profile: str | None = None) -> None:
        self.app = Celery("workmanager-kit", broker="memory://", set_as_current=False) if app is None else app
        self._before: WorkManager | None = getattr(self.app, "workmanager", None)
        self._own: dict[str, Any] = {}
        self.clock = KitClock(time.time_ns() // 1000)
        self.work_manager = self._stand_in(store_url, profile)
        self.driver = TestDriver(self)
        self._crash_at: CrashPoint | None = None
        self._delays_met: set[str] = set()
        self._busy = threading.local()
        self._prepare_store()
        self._upkeep = Upkeep(self.work_manager.store, self.clock, self.work_manager.settings)
        self._dispatcher: Dispatcher | None = None

    def _stand_in(self, store_url: str | None, profile: str | None) -> WorkManager:
        self.app.workmanager = None
        steps = set(self.app.steps["worker"])
        given = {} if profile is None else {"profile": profile}
        is_elsewhere = STORE_URL in configured(self.app) if self._before is None else self._before.has_store_url
        if store_url is None and (WorkManager.make_database is None or is_elsewhere):
            store_url = "sqlite://"
        manager = _KitManager(self.app, store_url, given)
        manager.kit = self
        if self._before is not None:
            self.app.steps["worker"] = steps
            # Somebody may hold the app's own WorkManager: its calls are for the kit now.
            lent = {part: getattr(manager, part) for part in _PARTS}
            self._own = {part: vars(self._before).pop(part) for part in _PARTS if part in vars(self._before)}
            vars(self._before).update(lent)
        return manager

    def _take_back(self) -> None:
        if self._before is not None:
            for part in _PARTS:
                del vars(self._before)[part]
            vars(self._before).update(self._own)
        self.app.workmanager = self._before

    def _prepare_store(self) -> None:
        database = self.work_manager.store.database
        schema.migrate(database)
        store = self.work_manager.store
        if any(node.name != _NODE and node.lease_until > time.time() * SECOND for node in store.nodes()):
            raise WorkManagerError(f"expected a store without workers, got: {database.shown_url} with a running one")
        self._empty()
        store.after_commit = self.look

    def _empty(self) -> None:
        # What others made they empty, or roll back.
        if self.work_manager.store.database.migrated_by is None:
            self.work_manager.store.empty()

    def close(self) -> None:
        """Close the store and give the app its WorkManager back."""
        store = self.work_manager.store
        store.after_commit = None
        self._empty()
        store.close()
        self._take_back()
        install(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- running ----------------------------------------------------------------------------------------------------

    def run_until_idle(self) -> int:
        """Run what is due, and what that unblocks, until nothing is; returns how many runs there were."""
        runs = 0
        while self.run_one():
            runs += 1
            if self._dispatcher is None:
                break  # the node has crashed
            if runs > _MOST_RUNS:
                raise WorkManagerError(f"expected to become idle, got: more than {_MOST_RUNS} runs")
        return runs

    def run_one(self, id: str | uuid.UUID | None = None) -> bool:
        """Run the most urgent due work (or the given one, if it is due) once; returns whether there was a run."""
        if getattr(self._busy, "running", False):
            raise WorkManagerError("expected to be called from outside a worker, got: a run inside a run")
        self._busy.running = True
        try:
            self._let_time_pass()
            return self._turn(None if id is None else check_id(id))
        finally:
            self._busy.running = False

    def _turn(self, work_id: str | None) -> bool:
        self._ran = False
        dispatcher = self._live_dispatcher()
        try:
            if work_id is None:
                dispatcher.step()
            else:
                token = secrets.randbits(62)
                dispatcher.take(self.work_manager.store.claim_one(work_id, dispatcher.node, token))
            dispatcher.accepting = False  # one run, whatever else is due
            while not dispatcher.is_idle:
                dispatcher.step()
            dispatcher.accepting = True
            if self._ran:
                self._reached("finish")
        except Crashed:
            self._dispatcher = None
        return self._ran

    def _live_dispatcher(self) -> Dispatcher:
        """The node's dispatcher; a new node when the last one died."""
        if self._dispatcher is None:
            store = self.work_manager.store
            self._engine = InlineEngine(self.app, store, self.clock, self._reached)
            dispatcher = Dispatcher(store, self._engine, self.clock, lambda: _ANY, max_in_flight=1)
            lease = Lease(
                store, dispatcher, self.clock, _NODE, length=_FOR_EVER, stop_grace=0.0, facts=lambda: {"pool": "kit"}
            )
            dispatcher.start()
            lease.step()
            self._dispatcher = dispatcher
        return self._dispatcher

    def _reached(self, point: CrashPoint) -> None:
        if point == "claim":
            self._ran = True
        if self._crash_at == point:
            self._crash_at = None
            raise Crashed

    def _let_time_pass(self) -> None:
        store = self.work_manager.store
        for work_id in list(self._delays_met):
            info = self.work_manager.get_work_info_by_id(work_id)
            if info is not None and info.next_schedule_time_override is not None:
                continue
            if info is None or info.runs or (info.state is State.ENQUEUED and store.make_due(work_id)):
                self._delays_met.discard(work_id)
        store.promote()
        store.expire()

    def keep_up(self) -> None:
        """Do what upkeep does in time: promote, expire, heal, sweep and prune by retention."""
        self._let_time_pass()
        self._upkeep.heal(trust_leases=True)
        self.work_manager.store.sweep("")
        pausing.go_on(self.work_manager.store, {})
        self.work_manager.store.prune(only_expired=True)

    # -- what may happen to a node ------------------------------------------------------------------------------------

    def crash_after(self, point: CrashPoint) -> None:
        """Let the node's process die at the next passage of `point`; its work is healed by `lose_node`.

        "claim": before the worker's code; "start": RUNNING was written; "run": the code has run, its end is not
        written; "finish": the end was written.
        """
        if point not in get_args(CrashPoint):
            raise InvalidRequest("crash point", f"one of {', '.join(get_args(CrashPoint))}", point)
        self._crash_at = point

    def lose_node(self) -> None:
        """The node's process has died and its lease run out: its works go back to the queue, a new node takes over."""
        store = self.work_manager.store
        self._dispatcher = None
        store.give_up([node.id for node in store.nodes()])
        self._upkeep.heal(trust_leases=True)

    def delay_met(self, work_id: str) -> None:
        """See `TestDriver.set_initial_delay_met`."""
        self._delays_met.add(work_id)
        self._let_time_pass()

    def stop(self, work_id: str, reason: StopReason) -> None:
        """See `TestDriver.stop_running_work_with_reason`."""
        if self._dispatcher is None or self._engine.runs(work_id) is None:
            raise InvalidRequest("work to stop", "running", work_id)
        self._dispatcher.stop([work_id], reason, None)

    def look(self) -> None:
        """What a worker does when the bell rings: stop runs whose works are no longer its own, save progress."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        for work_id in list(dispatcher.runs):
            claim = self._engine.runs(work_id)
            if claim is not None and self.work_manager.store.owned(claim.node).get(work_id) != claim.token:
                dispatcher.stop([work_id], StopReason.CANCELLED_BY_APP, None)


class _KitManager(WorkManager):
    """A WorkManager whose time is the kit's."""

    kit: WorkManagerTestKit

    @property
    def clock(self) -> KitClock:  # type: ignore[override]
        return self.kit.clock
