"""The timekeeper: ``celery beat -S workmanager``, and ``celery worker -B``.

Any number of them may run. Each keeps time for the works of the store; one of them, whoever holds the lease of the
app's schedule, fires its entries. Nothing is kept in files.
"""

from __future__ import annotations

from typing import Any

from celery.beat import ScheduleEntry, Scheduler
from celery.utils.nodenames import gethostname
from kombu.common import ignore_errors

from celery_workmanager.beat_entries import Entries, stored_name, with_clock
from celery_workmanager.beat_works import Works, periodic_of
from celery_workmanager.errors import NotInitialized
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.store.leasing import BEAT
from celery_workmanager.timekeeper import Timekeeper
from celery_workmanager.timing import as_datetime
from celery_workmanager.version import __version__

__all__ = ("WorkManagerScheduler", "schedule_name")

#: Seconds that a first registration may take before it is looked for again.
_SOON = 0.05


def schedule_name(app: Any) -> str:
    """The name of an app's schedule in the store."""
    return stored_name(str(app.main or "default"))


class WorkManagerScheduler(Scheduler):
    """Celery's scheduler with the store in the place of its file. Raises NotInitialized without a WorkManager."""

    def __init__(self, app: Any, *args: Any, **options: Any) -> None:
        self.manager: Any = getattr(app, "workmanager", None)
        if self.manager is None:
            raise NotInitialized(str(app.main or "default"))
        #: The entries that beat fires, and the works that others stand for.
        self._ordinary: dict[str, ScheduleEntry] = {}
        self._durable: dict[str, PeriodicWorkRequest] = {}
        self._keeper: Timekeeper | None = None
        self._entries: Entries | None = None
        #: Inside `tick`; a signal's handler that comes in between must not touch what it was about to do.
        self._is_busy = False
        super().__init__(app, *args, **options)

    @property
    def name(self) -> str:
        """The schedule's name in the store: apps that share one have schedules of their own."""
        return schedule_name(self.app)

    @property
    def info(self) -> str:
        """What the banner says."""
        return f"    . store -> {self.manager.store.database.shown_url}"

    def setup_schedule(self) -> None:
        """Read the configuration; the store is not asked before the first tick."""
        super().setup_schedule()
        now = as_datetime(int(self.manager.clock.now()))
        for name, entry in self.schedule.items():
            task = self.app.tasks.get(entry.task)
            is_durable = getattr(task, "is_durable_worker", False)
            request = periodic_of(entry, task, now) if is_durable else None
            if request is None:
                self._ordinary[stored_name(name)] = with_clock(entry, self.manager.clock)
            else:
                self._durable[stored_name(name)] = request

    # -- Celery's service calls these --------------------------------------------------------------------------------

    def tick(self, *_: Any, **__: Any) -> float:
        """Do what is due; returns seconds until the next tick, at most ``beat_max_loop_interval``."""
        self._is_busy = True
        try:
            return min(self._turn(), float(self.max_interval))
        finally:
            self._is_busy = False

    def close(self) -> None:
        """Let others go on with the schedule, and say goodbye.

        Celery calls it twice: in the handler of the signal that ends beat, and when that has unwound the stack.
        """
        if self._is_busy:
            return
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            if self._entries is not None and not keeper.outage.is_on:
                keeper.guarded(self._entries.release, "Giving up the schedule")
            keeper.stop()
        super().close()

    def _turn(self) -> float:
        keeper = self._keeper
        if keeper is None:
            keeper = self._keeper = self._begin()
        if not keeper.node:
            return _SOON
        pause: float | None = keeper.guarded(lambda: self._fire(keeper.node), "Firing what is due")
        return _SOON if pause is None else pause

    def _fire(self, node: str) -> float:
        assert self._entries is not None  # noqa: S101  # made with the keeper
        return self._entries.step(node)

    def _begin(self) -> Timekeeper:
        manager = self.manager
        works = Works(manager, self._durable)
        self._entries = Entries(
            manager.engine_store,
            self.name,
            self._ordinary,
            self._publish,
            works=self._durable,
            change_works=works.write,
            longest=float(self.max_interval),
        )
        keeper = Timekeeper(
            manager.engine_store,
            manager.clock,
            manager.settings,
            name=f"celerybeat@{gethostname()}",
            facts=self._facts,
            longest=self.max_interval,
        )
        keeper.start()
        return keeper

    def _facts(self) -> dict[str, Any]:
        return {"kind": BEAT, "version": __version__, "schedule": self.name}

    # -- publishing --------------------------------------------------------------------------------------------------

    def _publish(self, entry: ScheduleEntry, task_id: str) -> None:
        """Send the entry's task. Raises SchedulingError, or OperationalError when the broker is away."""
        self.logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        options = dict(entry.options)
        options["headers"] = dict(options.get("headers") or {})
        options.setdefault("task_id", task_id)
        told = type(entry)(**{**dict(entry), "options": options})
        task = self.app.tasks.get(entry.task)
        if getattr(task, "is_durable_worker", False):
            self.apply_async(told, advance=False)
            return
        try:
            self.apply_async(told, producer=self.producer, advance=False)
        except Exception:
            self._forget_producer()
            raise

    def _forget_producer(self) -> None:
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is not None:
            ignore_errors(connection, connection.release)

    def _ensure_connected(self) -> Any:
        # One try: while the broker is away time is kept all the same, and another beat may reach it.
        return self.connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
