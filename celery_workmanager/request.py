"""A Celery request for a claim, so that inspect, revoke, events, signals, counters and logs know of works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from time import monotonic, time
from typing import Any, ClassVar

from celery import signals
from celery.app.task import Context
from celery.exceptions import Reject
from celery.platforms import signals as platform_signals
from celery.worker import state
from celery.worker.request import Request
from kombu.utils.encoding import safe_repr

from celery_workmanager.arguments import arguments_in, is_put_back, shown
from celery_workmanager.call import errbacks_of, facts_of, shown_facts
from celery_workmanager.messenger import Messenger
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.task_events import Fields, TaskEvents
from celery_workmanager.timing import as_datetime
from celery_workmanager.verdict import last_straw
from celery_workmanager.work import State, StopReason, WorkError

__all__ = ("RequestHost", "WorkRequest")

logger = logging.getLogger(__name__)
_received_logger = logging.getLogger("celery.worker.strategy")


class RequestHost:
    """What requests need of the worker they run in, shared by all of them."""

    def __init__(
        self, app: Any, hostname: str, terminate: Callable[[WorkRequest, bool], None], *, max_interruptions: int
    ) -> None:
        self.app, self.hostname = app, hostname
        self.max_interruptions = max_interruptions
        #: Ends a run early: revoked (True) or because the worker shuts down (False).
        self.terminate = terminate
        #: The consumer, once there is one: its event dispatcher is another object after each reconnect.
        self.consumer: Any = None
        #: What is told to the broker, and to receivers of signals: neither may hold up the worker.
        self.events, self.signals = TaskEvents(self.eventer), Messenger("workmanager-signals")

    def eventer(self) -> Any:
        """Celery's event dispatcher while task events are switched on, else ``None``."""
        dispatcher = getattr(self.consumer, "event_dispatcher", None)
        if dispatcher is None or not dispatcher.enabled:
            return None
        # Without -E it is there for heartbeats alone.
        return None if dispatcher.groups and "task" not in dispatcher.groups else dispatcher

    def send(self, kind: str, fields: Fields) -> None:
        """Send an event soon, if events are switched on."""
        if self.eventer() is not None:
            self.events.send(kind, fields)

    def flush(self, seconds: float) -> None:
        """Wait, at most so long, until all is told that was told here."""
        deadline = monotonic() + seconds
        self.signals.flush(seconds)
        self.events.flush(max(0.0, deadline - monotonic()))


class WorkRequest(Request):
    """Celery's view of one handed-over claim.

    Built for every work on the busiest thread of a node, so it holds four facts and works out everything else
    when somebody asks.
    """

    # These shadow the slots of Celery's class, which its constructor fills from a broker message.
    acknowledged = True
    _root_id = property(lambda self: facts_of(self.claim.options).get("root", self.id))
    _parent_id = property(lambda self: facts_of(self.claim.options).get("parent"))
    _on_ack = _on_reject = staticmethod(lambda *_: None)
    _connection_errors = ()
    _utc = _decoded = True
    _content_type = _content_encoding = None
    _ignore_result = True
    _message = None
    _type = property(lambda self: self.claim.worker)
    _app = property(lambda self: self.host.app)
    _hostname = property(lambda self: self.host.hostname)
    # After a reconnect Celery gives its new dispatcher to each request that is here; the host knows it anyway.
    _eventer = property(lambda self: self.host.eventer(), lambda _self, _eventer: None)
    _argsrepr = property(lambda self: self._shown[0])
    _kwargsrepr = property(lambda self: self._shown[1])
    _args = property(lambda self: self._call[0])
    _kwargs = property(lambda self: self._call[1])
    _body = property(lambda self: (*self._call, {}))
    _payload = _body
    _already_revoked = False
    #: The signal that an operator chose to end it by.
    signum: int | None = None
    _is_timing_out = False
    #: When it was received (seconds since 1970), until that is told.
    _received_at: float | None = None
    groups: ClassVar[list[Any]] = []
    stamps = property(lambda self: facts_of(self.claim.options).get("stamps", {}))
    stamped_headers = property(lambda self: list(self.stamps))
    errbacks = property(lambda self: errbacks_of(facts_of(self.claim.options)) or None)

    def __init__(self, claim: Claim, task: Any, host: RequestHost) -> None:
        self.claim, self.host, self._task = claim, host, task
        self.id = claim.id
        call = claim.options.get("call")
        self.name = claim.worker if call in (None, 1) else call.get("shadow", claim.worker)

    @property
    def task(self) -> Any:
        """The task, once somebody needs it to exist."""
        return self._task

    @property
    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments_in(self.claim.inputs, self.claim.options)

    @property
    def _shown(self) -> tuple[str, str]:
        return shown(self.host.app, self.claim.inputs, self.claim.options)

    @property
    def _eta(self) -> datetime | None:
        """The moment before which it didn't run, if it had to wait for one."""
        at = self.claim.run_at
        return None if at is None or at <= self.claim.enqueued_at else as_datetime(at)

    @property
    def _expires(self) -> datetime | None:
        return as_datetime(self.claim.options.get("expires"))

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Hard and soft limit in seconds, as Celery orders them."""
        options, task = self.claim.options, self._task
        return (
            options.get("time_limit") or getattr(task, "time_limit", None),
            options.get("soft_time_limit") or getattr(task, "soft_time_limit", None),
        )

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Where a message would have come from."""
        claim = self.claim
        priority = facts_of(claim.options).get("priority")
        again = claim.interruptions > 0 or is_put_back(claim.inputs, claim.options)
        return {"exchange": "", "routing_key": claim.queue, "priority": priority, "redelivered": again}

    _delivery_info = delivery_info

    @property
    def _request_dict(self) -> dict[str, Any]:
        request = {
            "id": self.id, "task": self._type, "root_id": self.id, "parent_id": None, "correlation_id": self.id,
            "args": self._args, "kwargs": self._kwargs, "retries": self.claim.run_attempt_count,
            "hostname": self._hostname, "delivery_info": self.delivery_info, "ignore_result": True,
            "reply_to": None, "timelimit": list(self.time_limits),
        }  # fmt: skip
        return request | shown_facts(facts_of(self.claim.options))

    @property
    def _context(self) -> Context:
        return Context(self._request_dict)

    # What happens to it, in order

    def receive(self, *, is_short: bool) -> None:
        """Tell that the work was received: counters, log, signal, event.

        While nobody listens, events of one that `is_short` are told together, when it ends or after all takes a while.
        """
        state.task_reserved(self)
        shown = None
        if _received_logger.isEnabledFor(logging.INFO):
            shown = args, kwargs = self._shown
            facts = {"id": self.id, "name": self.name, "args": args, "kwargs": kwargs}
            _received_logger.info("Task %(name)s[%(id)s] received", facts, extra={"data": facts})
        consumer = self.host.consumer
        if signals.task_received.receivers:
            signals.task_received.send(sender=consumer, request=self)
        if is_short and not self.host.events.is_heard:
            self._received_at = time()
        else:
            self._tell("task-received", self._received if shown is None else partial(self._received, shown))
        for callback in getattr(consumer, "on_task_message", None) or ():
            callback(self)

    def _received(self, shown: tuple[str, str] | None = None) -> dict[str, Any]:
        args, kwargs = shown or self._shown
        eta, expires = self._eta, self._expires
        return {
            "uuid": self.id, "name": self.name, "args": args, "kwargs": kwargs, "root_id": self._root_id,
            "parent_id": self._parent_id, "retries": self.claim.run_attempt_count,
            "eta": eta and eta.isoformat(), "expires": expires and expires.isoformat(),
        }  # fmt: skip

    def accept(self, pid: int, started_at: float, *, is_over: bool = False) -> None:
        """Tell that it started at ``started_at`` (``time.monotonic()``); `is_over`: its end is told at once."""
        self.worker_pid = pid
        self.time_start = time() - (monotonic() - started_at)
        if is_over:  # counted, as in `state.task_accepted`, but it leaves those that run in the same breath
            state.total_count[self.name] += 1
            state.all_total_count[0] += 1
        else:
            state.task_accepted(self)
        if self._received_at is None:
            self._tell("task-started", {"uuid": self.id})
        elif not is_over:
            self._tell_beginning()

    def finish(self, outcome: Outcome, shown: str | None, *, cancelled: StopReason | None = None) -> None:
        """Tell how it ended (`shown`: its result, or its exception). The engine calls it once.

        `cancelled`: because its work was cancelled, for this reason. Otherwise its end is told when it is written.
        """
        state.task_ready(self)
        if self._already_revoked:
            return
        if cancelled is not None:
            is_ended = outcome.ending is Ending.STOPPED
            if is_ended and cancelled is StopReason.USER:
                # The store told of it before the operator's own message came.
                self.signum = int(platform_signals.signum("TERM"))
            self.announce_revoked(terminated=is_ended)
        elif self.host.eventer() is not None and outcome.ending not in _UNTOLD:
            self.claim.told = partial(self._tell_end, outcome, shown)

    def _tell_end(self, outcome: Outcome, shown: str | None, written: Outcome | None) -> None:
        self.claim.told = None  # which holds this request, and its outcome
        if written is None:
            self.host.events.post(self._tell_loss)
        elif written.ending is Ending.SUCCEEDED:
            result = shown if written is outcome else None
            self._tell("task-succeeded", {"uuid": self.id, "result": result or "", "runtime": written.runtime})
        else:
            self._tell_failure(written, shown if written is outcome else None)

    def _tell_loss(self) -> None:
        """It ended without knowing that it had lost its work; when that was cancelled, nobody else has told it."""
        info = self.host.app.workmanager.get_work_info_by_id(self.id)
        if info is not None and info.state is State.CANCELLED:
            self.announce_revoked(terminated=True)

    def _tell_failure(self, outcome: Outcome, shown: str | None) -> None:
        last = last_straw(self.claim, outcome, self.host.max_interruptions)
        if last is not None:
            shown = safe_repr(last)
        error = WorkError.from_json(outcome.error) if outcome.error else None
        if error is not None and (error.module, error.exc_type) == _REJECTED:
            self.tell("task-rejected", requeue=False)
        self.tell(
            "task-failed" if last is not None or outcome.ending is Ending.FAILED else "task-retried",
            exception=shown or _said(outcome, error),
            traceback=error.traceback if error else "",
        )

    def tell(self, kind: str, **fields: Any) -> None:
        """Send a task event, if the task sends any."""
        self._tell(kind, {"uuid": self.id, **fields})

    def _tell(self, kind: str, fields: Fields) -> None:
        if self._received_at is not None:
            self._tell_beginning()
        if self._sends_events:
            self.host.events.send(kind, fields)

    @property
    def _sends_events(self) -> bool:
        return (self._task is None or self._task.send_events) and self.host.eventer() is not None

    def _tell_beginning(self) -> None:
        """Tell what was put off, as of the moments when it happened."""
        received_at, self._received_at = self._received_at, None
        if self._sends_events:
            self.host.events.send("task-received", self._received, received_at)
            if self.time_start is not None:
                self.host.events.send("task-started", {"uuid": self.id}, self.time_start)

    def send_event(self, type: str, **fields: Any) -> None:
        """Send a task event that Celery's own code asks for."""
        # It tells of a hard time limit, and maybe again when the process has ended. The outcome is told once, maybe
        # meanwhile, by another thread.
        if not self._is_timing_out:
            self.tell(type, **fields)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Tell the task's hooks and signals of a time limit."""
        self._is_timing_out = True
        try:
            super().on_timeout(soft, timeout)
        finally:
            self._is_timing_out = False

    def announce_revoked(self, terminated: bool) -> None:
        """Tell that an operator revoked it, or the app cancelled it."""
        logger.info("Discarding revoked task: %s[%s]", self.name, self.id)
        self._already_revoked = True
        facts = {"terminated": terminated, "signum": self.signum, "expired": False}
        self.tell("task-revoked", **facts)
        signals.task_revoked.send(self._task, request=self._context, **facts)

    # What Celery's remote control and shutdown call

    def terminate(self, _pool: Any = None, signal: Any = None, **_: Any) -> None:
        """End it because of ``revoke(terminate=True)``; which process that is, the engine knows best."""
        self.signum = int(platform_signals.signum(signal or "TERM"))
        self.host.terminate(self, True)

    def cancel(self, *_pool_and_signal: Any, **_: Any) -> None:
        """End it because of a cold shutdown: it goes back to the queue."""
        self.host.terminate(self, False)


_REJECTED = (Reject.__module__, Reject.__name__)
#: A run that never began, and one whose work another call goes on with: Celery tells of neither.
_UNTOLD = (Ending.GIVEN_BACK, Ending.REPLACED)


def _said(outcome: Outcome, error: WorkError | None) -> str:
    """What is said of a run that ended without an exception at hand."""
    if error is not None:
        return f"{error.exc_type}({error.message!r})"
    return _SAID.get(outcome.ending) or f"Stopped({outcome.reason.name})"


_SAID = {Ending.FAILED: "Result.failure", Ending.RETRY: "Result.retry", Ending.LOST: "WorkerLostError"}
