"""Broker messages for workers: each becomes a work, once, and is acknowledged after that is committed.

The consumer's thread takes messages and sends acknowledgements; a thread of our own writes the works, many in one
transaction. A store that is away leaves messages unacknowledged, so that the prefetch limit stops further ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.worker import state
from celery.worker.strategy import default
from kombu.exceptions import KombuError
from sqlalchemy.exc import DBAPIError

from celery_workmanager.canvas import continuation_of_call
from celery_workmanager.continuation import WorkContinuation
from celery_workmanager.database import is_conflict
from celery_workmanager.errors import StoreError, WorkManagerError
from celery_workmanager.messages import MessageCall, call_in, id_in
from celery_workmanager.outage import Outage
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store import passage
from celery_workmanager.waiters import tell_refused
from celery_workmanager.work import WorkError

__all__ = ("Intake", "strategy")

logger = logging.getLogger(__name__)

#: Messages that are written in one transaction.
MOST = 500
#: Seconds to wait after the store refused, doubled up to the longest.
PAUSE, LONGEST_PAUSE = 0.05, 2.0
#: Errors whose sentence is enough.
_EXPLAINED = (WorkManagerError, InvalidTaskError, KombuError)


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Return what handles the messages of a worker (Celery's ``Task.Strategy``); built again after each reconnect."""
    manager = getattr(app, "workmanager", None)
    if manager is None:
        return default(task, app, consumer, **options)  # without a store it is an ordinary task
    intake = getattr(consumer, "workmanager_intake", None)
    if intake is None:
        intake = consumer.workmanager_intake = Intake(consumer, manager)

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        del callbacks  # they see the work when a node takes it
        intake.take(Letter(task, message, body, ack, reject, consumer.connection, intake.delivery_of(message)))

    return handle


@dataclass(slots=True, eq=False)
class Letter:
    """A message in our hands, and what answers it."""

    task: Any
    message: Any
    body: Any
    ack: Callable[..., Any]
    reject: Callable[..., Any]
    #: The broker connection that brought it; another one can't answer it.
    connection: Any
    #: Options that the way of the message says.
    delivery: dict[str, Any]


class Intake:
    """Makes works of the messages of one consumer."""

    def __init__(self, consumer: Any, manager: Any) -> None:
        self._consumer, self._manager = consumer, manager
        self._letters: deque[Letter] = deque()
        self._arrived = threading.Event()
        self._thread: threading.Thread | None = None
        self._unanswered = 0
        self._waits = False
        self._outage = Outage("messages stay with the broker unacknowledged")

    # -- the consumer's thread ----------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a message will be answered soon."""
        return self._unanswered > 0 and not self._waits

    def delivery_of(self, message: Any) -> dict[str, Any]:
        """What the way of a message says: the queue it came through, and its priority."""
        found: dict[str, Any] = {"queue": self._queue_of(message)}
        # Elsewhere (Redis) 0 is what is most urgent, and what a message has that says nothing.
        if self._consumer.connection.transport.driver_type == "amqp" and message.properties.get("priority"):
            found["priority"] = message.properties["priority"]
        return found

    def _queue_of(self, message: Any) -> str:
        """The queue that brought the message; where the broker doesn't say, the likeliest of this worker's."""
        info = message.delivery_info or {}
        tags = {tag: name for name, tag in list(self._consumer.task_consumer._active_tags.items())}  # noqa: SLF001
        if info.get("consumer_tag") in tags:
            return str(tags[info["consumer_tag"]])
        queues = dict(self._consumer.app.amqp.queues.consume_from)
        exchange, key = info.get("exchange") or "", info.get("routing_key")
        if not exchange and key in queues:
            return str(key)
        bound = [
            name for name, queue in queues.items() if queue.exchange is not None and queue.exchange.name == exchange
        ]
        exactly = [name for name in bound if queues[name].routing_key == key]
        return str(next(iter([*exactly, *bound, *queues]), key))

    def take(self, letter: Letter) -> None:
        """Take a message; it is answered later."""
        self._unanswered += 1
        self._letters.append(letter)
        self._arrived.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._turn, name="workmanager-intake", daemon=True)
            self._thread.start()

    def _answer(self, letters: Sequence[Letter], error: BaseException | None) -> None:
        self._unanswered -= len(letters)
        for letter in letters:
            if letter.connection is not self._consumer.connection:
                continue  # the broker delivers it again, and then its id is known
            answer = letter.ack if error is None else letter.reject
            answer(logger, self._consumer.connection_errors)
            if error is not None:
                signals.task_rejected.send(sender=self._consumer, message=letter.message, exc=error)

    # -- the intake's thread ------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        while True:
            self._arrived.wait()
            self._arrived.clear()
            while self._letters:
                self._admit([self._letters.popleft() for _ in range(min(MOST, len(self._letters)))])

    def _admit(self, letters: Sequence[Letter]) -> None:
        readable: list[tuple[Letter, passage.Arrival]] = []
        for letter in letters:
            try:
                readable.append((letter, self._read(letter)))
            except Exception as error:  # noqa: BLE001  # whatever is wrong with one message is no other's fault
                self._refuse(letter, error)
        if readable:
            self._store(readable)

    def _read(self, letter: Letter) -> passage.Arrival:
        call = call_in(letter.message, letter.body)
        options = {**call.options, **letter.delivery}
        continuation = work_of_call(letter.task, call, options, self._manager)
        revoked = call.id in state.revoked
        return passage.Arrival(call.id, self._manager.steps_of(continuation), call.retries, revoked, call.released)

    def _store(self, letters: Sequence[tuple[Letter, passage.Arrival]]) -> None:
        """Write works together; where that fails, in halves, until the bad one stands alone."""
        manager = self._manager
        arrivals = [arrival for _, arrival in letters]
        try:
            self._patiently(lambda: passage.take_in(manager.engine_store, arrivals, manager.queue_of))
        except Exception as error:  # noqa: BLE001  # of whatever kind: it belongs to one of them
            if len(letters) == 1:
                self._refuse(letters[0][0], error)
                return
            half = len(letters) // 2
            self._store(letters[:half])
            self._store(letters[half:])
        else:
            self._consumer.call_soon(self._answer, [letter for letter, _ in letters], None)

    def _refuse(self, letter: Letter, error: Exception) -> None:
        """Reject a message; whoever waits for the call finds it FAILED."""
        task_id, name = id_in(letter.message, letter.body), letter.task.name
        logger.error(
            "Message %r for worker %r can't become a work and is rejected: %s: %s",
            task_id, name, type(error).__name__, error,
            exc_info=None if isinstance(error, _EXPLAINED) else error,
        )  # fmt: skip
        try:
            request = OneTimeWorkRequest(name, id=task_id, queue=letter.delivery["queue"])
            text = WorkError.from_exception(error, "").to_json()
            self._patiently(lambda: passage.put_failed(self._manager.engine_store, request, str(request.queue), text))
            tell_refused(self._manager.app, request.id, letter.message.properties.get("reply_to"), error)
        except Exception:  # without a usable id nobody can wait for it
            logger.debug("Nobody is told of message %s", task_id, exc_info=True)
        self._consumer.call_soon(self._answer, [letter], error)

    def _patiently(self, change: Callable[[], Any]) -> None:
        """Make a change; while the store is away, try again and again."""
        pause = PAUSE
        while True:
            try:
                change()
            except (StoreError, DBAPIError, OSError) as error:
                if isinstance(error, DBAPIError) and not is_conflict(error):
                    raise
                self._waits = True
                self._outage.away(error)
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self._waits = False
                self._outage.back()
                return


def work_of_call(task: Any, call: MessageCall, options: dict[str, Any], manager: Any) -> WorkContinuation:
    """Return the work that a message stands for, with all that follows it; ``options`` are ``apply_async``'s.

    Arguments that don't fit are no reason to refuse it: as in Celery it runs and fails, with all that hangs on that.
    """
    try:
        return continuation_of_call(task, call.args, call.kwargs, options, manager)
    except TypeError as error:
        if isinstance(error, WorkManagerError):
            raise
        return continuation_of_call(task, call.args, call.kwargs, options, manager, typed=False)
