"""Task events on their way to the broker: from a thread that may wait for it, together, and made if anybody listens."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import time
from typing import Any

from celery_workmanager.audience import Audience, audience_of
from celery_workmanager.messenger import Messenger

__all__ = ("Fields", "TaskEvents")

logger = logging.getLogger(__name__)

#: What an event says, or a call that returns it, made in the thread that sends when somebody listens.
Fields = dict[str, Any] | Callable[[], dict[str, Any]]

#: More than so many may not wait; what comes then is dropped.
_MOST = 30_000
#: What comes when so many wait is made at once: unmade it holds a work's inputs, which may be large.
_MOST_UNMADE = 3_000
#: When so many have gathered it is asked at once whether somebody listens.
_MANY = 1_500
#: How many events go in one message: as many as Celery's own worker lets come together.
_TOGETHER = 24
#: Seconds that events gather while nobody listens, before it is asked whether somebody does: asking costs as much as
#: running a few works, and who has just come to listen waits so long for the first event.
_GATHERING = 0.05
_ANYBODY = Audience()


class TaskEvents:
    """Sends what it is told soon; a broker that is slow or away delays events and nothing else.

    What has gathered meanwhile is one message (``task.multi``), as in Celery's own worker where that has an event loop
    (`EventDispatcher.buffer_group`). What nobody would get is dropped unmade. `current` is the dispatcher of
    Celery's consumer, another one after each reconnect, or ``None`` while nobody wants task events.
    """

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current
        self._messenger = Messenger("workmanager-events")
        self._told: deque[tuple[str, float, Fields]] = deque()
        self._is_asked = False
        self._theirs: Any = None
        self._ours: Any = None
        self._audience: Audience | None = None
        self._is_heard = True
        self._hurry = threading.Event()

    @property
    def is_heard(self) -> bool:
        """Whether somebody got what was sent last, as far as is known."""
        return self._is_heard

    def send(self, kind: str, fields: Fields, moment: float | None = None) -> None:
        """Send an event of this moment (seconds since 1970), by default of now. Any thread."""
        waiting = len(self._told)
        if waiting == _MANY:
            self._hurry.set()
        elif waiting >= _MOST_UNMADE:
            if waiting >= _MOST:
                return
            fields = _made(fields)
        self._told.append((kind, moment or time(), fields))
        # Whoever sends clears it before it looks: it is asked once too often rather than not at all.
        if not self._is_asked:
            self._is_asked = True
            self.post(self._send_told)

    def post(self, call: Callable[[], object]) -> None:
        """Make this call in the same thread."""
        self._messenger.post(call)

    def flush(self, seconds: float) -> None:
        """Wait, at most so long, until all has been sent."""
        self._hurry.set()
        self._messenger.flush(seconds)

    def _send_told(self) -> None:
        if not self._is_heard:
            self._hurry.wait(_GATHERING)
            self._hurry.clear()
        self._is_asked = False
        while self._told:
            # What comes from now on is for those who listen by then.
            waiting = len(self._told)
            dispatcher = self._dispatcher()
            sent = 0 if dispatcher is None else self._send(dispatcher, min(waiting, _TOGETHER if self._is_heard else 1))
            if dispatcher is None or not self._is_heard:
                for _ in range(waiting - sent):
                    self._told.popleft()
                break

    def _send(self, dispatcher: Any, count: int) -> int:
        """Send `count` events, unless nobody is there; return how many were taken, and note whether they were heard."""
        audience = self._audience or _ANYBODY
        with dispatcher.mutex:
            self._is_heard = _is_there(audience)
        if not self._is_heard:
            # What a lost broker did not take is over, too.
            dispatcher.flush(groups=False)
            return 0
        for _ in range(count):
            kind, moment, fields = self._told.popleft()
            try:
                made = _made(fields)
            except Exception:  # arguments that can't be read or shown: the run says so itself
                logger.exception("Error in telling %s", kind)
            else:
                dispatcher.send(kind, **{**made, "timestamp": moment})
        dispatcher.flush()
        # Before anything has been sent a broker that is away would be waited for here, too.
        if self._audience is None and not dispatcher._outbound_buffer:  # noqa: SLF001
            self._audience = _audience_of(dispatcher)
        self._is_heard = audience.may_have_heard()
        return count

    def _dispatcher(self) -> Any:
        """One that gathers events, beside the consumer's own and by its connection."""
        theirs = self._current()
        if theirs is None:
            return None
        if theirs is not self._theirs:
            self._theirs, self._ours = theirs, self._beside(theirs)
            self._audience = None
        return self._ours

    def _beside(self, theirs: Any) -> Any:
        # It is flushed here when so many are together: Celery 5.5 sends an empty message when it is flushed once more.
        ours = theirs.app.events.Dispatcher(
            theirs.connection, channel=theirs.channel, hostname=theirs.hostname, groups=theirs.groups,
            buffer_group=frozenset({"task"}), buffer_limit=_TOGETHER + 1,
        )  # fmt: skip
        # A connection takes one message at a time.
        ours.mutex = theirs.mutex
        if self._ours is not None:
            ours.extend_buffer(self._ours)
        return ours


def _made(fields: Fields) -> dict[str, Any]:
    return fields() if callable(fields) else fields


def _audience_of(dispatcher: Any) -> Audience:
    try:
        with dispatcher.mutex:
            return audience_of(dispatcher, "task.multi")
    except Exception as error:  # noqa: BLE001  # a kombu that is another
        logger.debug("Whether anybody listens can't be known: %r", error)
        return _ANYBODY


def _is_there(audience: Audience) -> bool:
    try:
        return audience.may_be_there()
    except Exception as error:  # noqa: BLE001  # whatever the broker raises; sending meets it again
        logger.debug("Whether anybody listens can't be told: %r", error)
        return True
