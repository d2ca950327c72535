"""Whether anybody hears what is published to an event exchange: an event that nobody would get needn't be made.

An audience never says no unless the broker did: of what can't be known, or isn't as it is known here, somebody is
taken to listen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from celery.events import EventDispatcher
from kombu.transport import virtual
from kombu.transport.virtual.exchange import TopicExchange

__all__ = ("Audience", "audience_of")


class Audience:
    """Of which nothing can be known without a round trip (AMQP), or nothing is known here."""

    def may_be_there(self) -> bool:
        """Whether what is published now may reach anybody. Raises what the broker raises."""
        return True

    def may_have_heard(self) -> bool:
        """Whether what the calling thread has published since it last asked may have reached anybody."""
        return True


class BoundQueues(Audience):
    """The queues that kombu itself would put a message into, by a table of bindings (in memory, in files and so on)."""

    def __init__(self, channel: Any, exchange: str, routing_key: str) -> None:
        self._channel, self._exchange, self._routing_key = channel, exchange, routing_key

    def may_be_there(self) -> bool:
        """Whether a queue is bound."""
        kind = self._channel.typeof(self._exchange)
        if type(kind).deliver is not TopicExchange.deliver:  # not declared yet
            return True
        try:
            table = self._channel.get_table(self._exchange)
        except KeyError:
            return False
        return bool(kind.lookup(table, self._exchange, self._routing_key, None))


class Subscribers(Audience):
    """Those whom Redis handed a message: PUBLISH returns their number, which kombu drops.

    Pub/sub keeps nothing: who wasn't among them when something was published never gets it.
    """

    def __init__(self, channel: Any) -> None:
        self._channel, self._acquire = channel, channel.conn_or_acquire
        self._teller = get_ident()
        self._client: Any = None
        self._received: int | None = None
        channel.conn_or_acquire = self._conn_or_acquire

    def may_have_heard(self) -> bool:
        """Whether Redis counted anybody, or nothing was counted, as when the broker is away."""
        received, self._received = self._received, None
        return received != 0

    @contextmanager
    def _conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        # The consumer's own events have other subscribers, and go by the same channel.
        if client is not None or get_ident() != self._teller:
            with self._acquire(client) as found:
                yield found
            return
        # Kombu makes a client for each command, by the pool of the channel, which costs more than the command.
        if self._client is None or self._client.connection_pool is not self._channel.pool:
            with self._acquire() as found:
                found.set_response_callback("PUBLISH", self._counted)
                self._client = found
        yield self._client

    def _counted(self, received: int, **_: Any) -> int:
        self._received = (self._received or 0) + received
        return received


def audience_of(dispatcher: Any, routing_key: str) -> Audience:
    """Return the audience of what `dispatcher` publishes with this key, in the thread that calls and publishes."""
    if any(getattr(type(dispatcher), name) is not getattr(EventDispatcher, name) for name in _OWN):
        return Audience()  # an app's own class may send elsewhere
    if not isinstance(dispatcher.connection.transport, virtual.Transport):
        return Audience()
    channel = dispatcher.producer.channel
    if type(channel).basic_publish is not virtual.Channel.basic_publish:
        return Audience()
    if dispatcher.connection.transport.driver_type == "redis" and dispatcher.exchange.type == "fanout":
        return Subscribers(channel)
    if dispatcher.exchange.type == "topic" and type(channel)._lookup is virtual.Channel._lookup:  # noqa: SLF001
        return BoundQueues(channel, dispatcher.exchange.name, routing_key)
    return Audience()


#: How Celery's dispatcher publishes.
_OWN = ("send", "publish", "_publish", "flush")
