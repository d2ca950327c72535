"""Task events on a real transport: many in one message, none lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.events.event import get_exchange
from kombu.connection import Connection
from kombu.entity import Queue

from celery_workmanager.task_events import TaskEvents


class Listener:
    """The messages of an event exchange, as they are on the wire."""

    def __init__(self, app: Celery, connection: Connection) -> None:
        exchange = get_exchange(connection, name=app.conf.event_exchange)
        self._queue = Queue("heard", exchange, routing_key="#", channel=connection.default_channel, auto_delete=True)
        self._queue.declare()

    def messages(self) -> list[Any]:
        found = []
        while (message := self._queue.get(no_ack=True)) is not None:
            found.append(message.payload)
        return found


@pytest.fixture
def app() -> Celery:
    return Celery("told", broker="memory://told", set_as_current=False)


@pytest.fixture
def connection(app) -> Iterator[Connection]:
    with app.connection_for_write() as opened:
        yield opened


@pytest.fixture
def listener(app, connection) -> Listener:
    return Listener(app, connection)


def send(events: TaskEvents, numbers: range) -> None:
    """All of them while the thread that sends is held, as a broker that answers slowly holds it."""
    go_on = threading.Event()
    events.post(lambda: go_on.wait(20))
    for number in numbers:
        events.send("task-started", {"uuid": str(number)})
    go_on.set()
    events.flush(20)


def test_what_has_gathered_goes_in_few_messages_in_order(app, connection, listener):
    dispatcher = app.events.Dispatcher(connection, hostname="here")
    events = TaskEvents(lambda: dispatcher)
    send(events, range(30))
    messages = listener.messages()
    assert [len(message) for message in messages] == [24, 6]
    told = [event for message in messages for event in message]
    assert [event["uuid"] for event in told] == [str(number) for number in range(30)]
    assert {(event["type"], event["hostname"]) for event in told} == {("task-started", "here")}
    assert [event["timestamp"] for event in told] == sorted(event["timestamp"] for event in told)
    assert len({event["clock"] for event in told}) == 30


def test_the_consumer_s_own_events_go_by_themselves(app, connection, listener):
    dispatcher = app.events.Dispatcher(connection, hostname="here")
    events = TaskEvents(lambda: dispatcher)
    send(events, range(1))
    dispatcher.send("task-received", uuid="plain")
    assert [message["uuid"] if isinstance(message, dict) else len(message) for message in listener.messages()] == [
        1,
        "plain",
    ]


def test_while_nobody_wants_events_none_are_sent(app, connection, listener):
    events = TaskEvents(lambda: None)
    send(events, range(3))
    assert listener.messages() == []


def test_what_a_lost_broker_did_not_take_is_sent_after_the_reconnect(app, connection, listener):
    with Connection("redis://127.0.0.1:1") as lost:
        before = app.events.Dispatcher(lost, hostname="here")
        current = [before]
        events = TaskEvents(lambda: current[0])
        send(events, range(3))
        assert listener.messages() == []
        current[0] = app.events.Dispatcher(connection, hostname="here")
        send(events, range(3, 5))
    told = [event["uuid"] for message in listener.messages() for event in message]
    assert told == ["0", "1", "2", "3", "4"]
