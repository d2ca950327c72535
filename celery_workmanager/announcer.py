"""Tells Celery of changes that no run of a work tells of: our signals, and task events where they are sent."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from time import time
from typing import Any

from celery import signals
from celery.app.task import Context

from celery_workmanager.arguments import shown
from celery_workmanager.call import facts_of
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.messenger import Messenger
from celery_workmanager.request import RequestHost
from celery_workmanager.signals import SIGNALS
from celery_workmanager.timing import as_datetime

__all__ = ("Announcer",)

logger = logging.getLogger(__name__)

_NEW = (Change.ENQUEUED, Change.BLOCKED)
_OVER = (Change.CANCELLED, Change.EXPIRED)
#: Seconds that a process waits at its exit for events that are on their way.
_FAREWELL = 1.0


class Announcer:
    """The listener of an app's store: tells in the thread that made the change, in a worker in one of its own.

    `manager` is the sender of the signals.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._host: RequestHost | None = None
        self._hosted_in: int | None = None

    @property
    def _app(self) -> Any:
        return self._manager.app

    def settle_in(self, host: RequestHost) -> None:
        """From now on this process is a worker, whose threads must wait for no receiver."""
        self._host, self._hosted_in = host, os.getpid()

    @property
    def _worker(self) -> RequestHost | None:
        # A pool's process inherits the worker's host, but not its threads.
        return self._host if self._hosted_in == os.getpid() else None

    # -- Listener ---------------------------------------------------------------------------------------------

    def wants(self, change: Change) -> bool:
        """Whether a signal has a receiver, or events are sent."""
        if SIGNALS[change].receivers:
            return True
        if change in _NEW:
            return self._sends_sent
        return change in _OVER and (self._sends_ends or self._has_receivers_of_revoked)

    def heard(self, change: Change, works: Sequence[WorkEvent]) -> None:
        """Tell of `works`."""
        worker = self._worker
        if worker is None:
            self._tell(change, works)
        elif not worker.signals.post(partial(self._tell, change, works)):
            logger.warning("Receivers of signals are too slow: %d works %s were not told", len(works), change.value)

    def _tell(self, change: Change, works: Sequence[WorkEvent]) -> None:
        SIGNALS[change].send(sender=self._manager, works=list(works))
        if change in _NEW and self._sends_sent:
            for each in works:
                self._tell_sent(each)
        elif change in _OVER:
            self._tell_over(change, works)

    # -- task events --------------------------------------------------------------------------------------------

    @cached_property
    def _sends_sent(self) -> bool:
        return bool(self._app.conf.task_send_sent_event)

    @property
    def _sends_ends(self) -> bool:
        return self._sends_sent or (self._worker is not None and self._worker.eventer() is not None)

    @property
    def _has_receivers_of_revoked(self) -> bool:
        # Celery sends this one in workers only.
        return self._worker is not None and bool(signals.task_revoked.receivers)

    def _tell_sent(self, work: WorkEvent) -> None:
        request = work.request
        if request is None:
            return
        call = request.call
        options = {} if call is None else {"call": call.option}
        text = request.input_data.to_json() if call is None else call.arguments
        args, kwargs = shown(self._app, [text], options)
        facts = facts_of(options)
        queue = self._manager.queue_of(request)
        now = as_datetime(int(self._manager.clock.now()))
        self._send(
            work, "task-sent", name=work.worker_name, args=args, kwargs=kwargs, root_id=facts.get("root", work.id),
            parent_id=facts.get("parent"), retries=0, eta=_moment(now, request.initial_delay or None),
            expires=_moment(now, request.expires), queue=queue, exchange="", routing_key=queue,
        )  # fmt: skip

    def _tell_over(self, change: Change, works: Sequence[WorkEvent]) -> None:
        """Tell of works that end while no node has them."""
        facts = {"terminated": False, "signum": None, "expired": change is Change.EXPIRED}
        for each in works:
            if each.node is not None:
                continue  # that node ends its run, and tells
            if self._sends_ends:
                self._send(each, "task-revoked", **facts)
            if self._has_receivers_of_revoked:
                task = self._app.tasks.get(each.worker_name)
                signals.task_revoked.send(task, request=Context(id=each.id, task=each.worker_name), **facts)

    def _send(self, work: WorkEvent, kind: str, **fields: Any) -> None:
        task = self._app.tasks.get(work.worker_name)
        if task is not None and not task.send_events:
            return
        worker = self._worker
        if worker is not None and worker.eventer() is not None:
            worker.send(kind, {"uuid": work.id, **fields})
        elif self._sends_sent:
            self._publisher.send(kind, {"uuid": work.id, **fields})

    @cached_property
    def _publisher(self) -> _Publisher:
        return _Publisher(self._app)


def _moment(now: datetime, at: timedelta | datetime | None) -> str | None:
    if isinstance(at, timedelta):
        at = now + at
    return None if at is None else at.isoformat()


class _Publisher:
    """Sends events from a process that is no worker: soon, and without anybody waiting for the broker."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._dispatcher = app.events.Dispatcher(enabled=False)
        self._messenger = Messenger("workmanager-sent")
        atexit.register(self._messenger.flush, _FAREWELL)

    def send(self, kind: str, fields: dict[str, Any]) -> None:
        self._messenger.post(partial(self._publish, kind, {**fields, "timestamp": time()}))

    def _publish(self, kind: str, fields: dict[str, Any]) -> None:
        policy = self._app.conf.task_publish_retry_policy
        with self._app.producer_or_acquire() as producer:
            self._dispatcher.publish(kind, fields, producer, retry=True, retry_policy=policy)
