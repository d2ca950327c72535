"""Wiring: a Celery app and its WorkManager."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from celery import Celery, current_app

from celery_workmanager import (
    aliases,
    bootstep,
    builtin_workers,
    canvas,
    control,
    embedded,
    hidden,
    hosting,
    leaving,
    pools,
)
from celery_workmanager.announcer import Announcer
from celery_workmanager.backend import WorkManagerBackend
from celery_workmanager.canvas_drawing import canvas_of
from celery_workmanager.clock import Clock, SystemClock
from celery_workmanager.continuation import WorkContinuation, find_enqueuer_with
from celery_workmanager.database import Database, idle_within
from celery_workmanager.engine import EngineOptions
from celery_workmanager.errors import (
    AlreadyInitialized,
    ConfigurationError,
    InvalidRequest,
    NotInitialized,
    UnknownWorker,
)
from celery_workmanager.lanes import lanes_of
from celery_workmanager.manager import Manager
from celery_workmanager.node import Node
from celery_workmanager.operation import Operation
from celery_workmanager.outcome import Claim, Outcome
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.settings import PREFIX, Settings
from celery_workmanager.store import Store
from celery_workmanager.terms import Terms
from celery_workmanager.verdict import judge
from celery_workmanager.worker import Worker

_ATTRIBUTE = "workmanager"
STORE_URL = PREFIX + "store_url"


class WorkManager(Manager):
    """The durable works of a Celery app; make one for each app, it is ``app.workmanager`` from then on.

    `store_url` and `settings` (keys with or without the prefix) go before what Celery's configuration says under
    ``workmanager_…``. Raises AlreadyInitialized when the app has one, ConfigurationError on first use for bad settings.
    """

    #: Replaced by the testing kit, which holds the time.
    make_clock: ClassVar[Callable[[], Clock]] = SystemClock
    #: Makes the database of those that were given no ``store_url``: set by the Django app.
    make_database: ClassVar[Callable[[Settings], Database] | None] = None

    def __init__(self, app: Celery, store_url: str | None = None, settings: Mapping[str, Any] | None = None) -> None:
        if getattr(app, _ATTRIBUTE, None) is not None:
            raise AlreadyInitialized(str(app.main or "default"))
        if not isinstance(app, Celery):
            raise InvalidRequest("app", "a Celery app", app)
        self.app = app
        self._given = {**(settings or {}), **({} if store_url is None else {STORE_URL: store_url})}
        app.workmanager = self
        builtin_workers.register(app)
        canvas.install()
        control.install(app)
        embedded.install()
        hidden.install()
        bootstep.install(app, self._make_node, self._engine_options)
        aliases.install(app)
        leaving.install()

    @staticmethod
    def get_instance(app: Celery | None = None) -> WorkManager:
        """The WorkManager of `app` (default: the current app). Raises NotInitialized."""
        app = current_app._get_current_object() if app is None else app  # noqa: SLF001 - Celery's proxy
        found: WorkManager | None = getattr(app, _ATTRIBUTE, None)
        if found is None:
            raise NotInitialized(str(app.main or "default"))
        return found

    @staticmethod
    def is_initialized(app: Celery) -> bool:
        """Whether `app` has a WorkManager."""
        return getattr(app, _ATTRIBUTE, None) is not None

    # -- parts, made on first use: the app may be configured after its WorkManager --------------------------------

    @cached_property
    def settings(self) -> Settings:  # type: ignore[override]
        """The settings in force. Raises ConfigurationError."""
        return Settings.from_mapping(self.given_settings)

    @property
    def given_settings(self) -> dict[str, Any]:
        """What was set, unchecked: by Celery's configuration, then by the arguments."""
        given = {PREFIX + str(key).removeprefix(PREFIX): value for key, value in self._given.items()}
        return {**configured(self.app), **given}

    @cached_property
    def clock(self) -> Clock:  # type: ignore[override]
        """The clock of this process."""
        return type(self).make_clock()

    @cached_property
    def store(self) -> Store:  # type: ignore[override]
        """The store: of calls, which may take part in a transaction of the caller's."""
        settings, make = self.settings, type(self).make_database
        if not self.has_store_url and make is not None:
            return self._store_in(make(settings))
        if not self.has_store_url and _awaits_django():
            raise ConfigurationError("expected django.setup() to be called before the store is used, got: not yet")
        return self._store_in(_database_of(settings))

    @cached_property
    def engine_store(self) -> Store:
        """The same store for engines, through connections that no transaction of a caller is on."""
        own = self.store.database.apart()
        return self.store if own is self.store.database else self._store_in(own)

    @property
    def has_store_url(self) -> bool:
        """Whether a store's URL was set."""
        return STORE_URL in self.given_settings

    def _store_in(self, database: Database) -> Store:
        database.listener = self._announcer
        return Store(database, self.clock, Terms.of(self.settings), name_wait=self.settings.name_wait)

    @cached_property
    def _announcer(self) -> Announcer:
        return Announcer(self)

    @cached_property
    def result_backend(self) -> WorkManagerBackend:
        """The result backend that Worker tasks use, whatever the app's is."""
        return WorkManagerBackend(app=self.app)

    # -- what the manager asks of the app -------------------------------------------------------------------------

    def check_worker(self, request: WorkRequest) -> None:
        """Raise UnknownWorker unless the app has registered a worker of that name."""
        if not isinstance(self.app.tasks.get(request.worker_name), Worker):
            workers = [name for name, task in self.app.tasks.items() if isinstance(task, Worker)]
            raise UnknownWorker(request.worker_name, workers)

    def queue_of(self, request: WorkRequest) -> str:
        """The request's queue, or the one Celery's routing gives its worker."""
        if request.queue is not None:
            return request.queue
        task = self.app.tasks[request.worker_name]
        own = getattr(task, "queue", None)
        if own is None and not self.app.conf.task_routes:
            return str(self.app.conf.task_default_queue)
        options = {} if own is None else {"queue": own}
        routed = self.app.amqp.router.route(options, request.worker_name, (), {}, task_type=task).get("queue")
        return str(getattr(routed, "name", routed) or self.app.conf.task_default_queue)

    def continuation_of(
        self,
        signature: Mapping[str, Any],
        name: str | None = None,
        policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP,
    ) -> WorkContinuation:
        """The graph of a Celery signature (a canvas); nothing is stored.

        Raises TypeError when arguments don't fit a task, DataNotStorable when one isn't JSON in Celery's sense.
        """
        return canvas.continuation_of(signature, self, name, policy)

    def canvas_of(self, continuation: WorkContinuation) -> Any:
        """The Celery canvas of a continuation. Raises UnsupportedOperation for what no canvas can say."""
        return canvas_of(continuation, self.app)

    def complete_run(self, connection: Any, claim: Claim, outcome: Outcome) -> None:
        """Finish a run inside the caller's transaction. Raises InvalidRequest when the run has lost its work."""
        if connection is None and not self.store.database.is_joined:
            raise InvalidRequest("connection", "that of your transaction", connection)
        now, monotonic = self.clock.now(), self.clock.monotonic()
        verdict = judge(claim, outcome, now, monotonic, self.store.terms)
        if not self.store.complete(connection, verdict):
            raise InvalidRequest("run", f"the one that owns work {claim.id}", "one that has lost it")

    # -- comings and goings -------------------------------------------------------------------------------------------

    def release(self, worker: str) -> Operation:
        """Send the waiting works of a former worker to the broker, as messages of what is an ordinary task now.

        Each is deleted once its message was sent; ``skipped_ids`` stay: what runs, and members of chains.
        Raises InvalidRequest when the app still has a Worker of that name.
        """
        return leaving.release(self, worker)

    # -- what a worker asks ---------------------------------------------------------------------------------------

    def _engine_options(self) -> EngineOptions:
        limits = self.settings.limits
        return EngineOptions(
            limits.data_max_bytes,
            limits.call_max_bytes,
            slots=max(256, self.settings.max_in_flight * 2),
            max_interruptions=self.settings.max_interruptions,
            foreground_wait=self.settings.foreground_wait,
            foreground_timeout=self.settings.foreground_timeout,
            stop_grace=self.settings.stop_grace,
        )

    def _make_node(self, worker: Any, engine: Any) -> Node:
        lanes = _Lanes(self.app)
        self._announcer.settle_in(engine.host)
        return Node(
            self.engine_store,
            engine,
            self.clock,
            self.settings,
            name=str(worker.hostname),
            lanes=lanes,
            facts=lambda: lanes.facts() | {"concurrency": engine.concurrency, "pool": pools.kind_of(worker.pool_cls)},
            bucket_of=hosting.buckets_of(worker),
        )


find_enqueuer_with(WorkManager.get_instance)


def _awaits_django() -> bool:
    """Whether this is a Django project with our app, whose apps are not loaded yet."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return False
    return any(str(each).startswith("celery_workmanager.django") for each in conf.settings.INSTALLED_APPS)


def _database_of(settings: Settings) -> Database:
    return Database(
        settings.store_url,
        lock_wait=settings.name_wait,
        idle=idle_within(settings.lease),
        is_pooled=settings.transaction_pooling,
    )


class _Lanes:
    """The lanes a worker serves: its queues, which may change while it runs, by its registered workers."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._of: tuple[tuple[str, ...], int] | None = None
        self._lanes: Mapping[int, str] = {}

    def __call__(self) -> Mapping[int, str]:
        queues = tuple(self._app.amqp.queues.consume_from)
        key = (queues, len(self._app.tasks))
        if key != self._of:
            self._lanes = lanes_of(queues, self._workers())
            self._of = key
        return self._lanes

    def _workers(self) -> list[str]:
        return [name for name, task in self._app.tasks.items() if isinstance(task, Worker)]

    def facts(self) -> dict[str, Any]:
        """What a node tells of itself with its lease."""
        return {"queues": sorted(self._app.amqp.queues.consume_from), "workers": sorted(self._workers())}


def configured(app: Celery) -> dict[str, Any]:
    """Celery's configuration under our prefix, whatever its namespace and case."""
    space = f"{app.namespace}_".lower() if app.namespace else ""
    found: dict[str, Any] = {}
    for key in app.conf:
        name = str(key).lower().removeprefix(space)
        if name.startswith(PREFIX):
            found[name] = app.conf[key]
    return found
