"""Messages while something dies: the worker before or after its commit, the store, the broker; and bad messages."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import State
from tests import services
from tests.celery.intake_place import Place, make_place, store_of, wait_until
from tests.stores import sqlite_template  # noqa: F401

pytestmark = pytest.mark.slow

#: What a worker with two processes takes before it acknowledges something (Celery's default: four for each).
PREFETCH = 8


@pytest.fixture
def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Makes one place for a test: ``place_of(broker, store)``."""
    with suppress(StopIteration):  # nothing was made
        made: list[Any] = []

        def make(broker: str, store: str, **conf: Any) -> Place:
            if store == "postgresql":
                request.getfixturevalue("postgresql_url")
            made.append(store_of(store, tmp_path, request.getfixturevalue("sqlite_template")))
            made.append(make_place(tmp_path, broker, made[0].__enter__(), **conf))
            return made[1]

        yield make
        if made:
            made[1].close()
            made[0].__exit__(None, None, None)


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """An SQLite store that nobody can write."""
    connection = sqlite3.connect(place.store.removeprefix("sqlite:///"), isolation_level=None, timeout=10)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.rabbitmq
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
class TestAWorkerThatDies:
    def test_after_its_commit(self, place_of: Any, rabbitmq_url: str, store: str) -> None:
        """The broker delivers the message again; its id is known, and it runs once."""
        place = place_of(rabbitmq_url, store)
        dying = place.worker("dying").start(INTAKE_CRASH="after")
        task_id = place.send("shop.asked")
        wait_until(lambda: dying.is_over)
        assert place.info(task_id).state is State.ENQUEUED
        assert place.waiting_messages() == 1

        heir = place.worker("heir").start()
        place.ended(task_id)
        place.ended(place.send("shop.add", 1))
        heir.stop()
        assert place.waiting_messages() == 0
        assert len(place.runs_of(task_id)) == 1

    def test_before_its_commit(self, place_of: Any, rabbitmq_url: str, store: str) -> None:
        """The broker delivers the message again; only then it becomes a work."""
        place = place_of(rabbitmq_url, store)
        dying = place.worker("dying").start(INTAKE_CRASH="before")
        task_id = place.send("shop.asked")
        wait_until(lambda: dying.is_over)
        assert place.info(task_id) is None

        place.worker("heir").start()
        place.ended(task_id)
        assert len(place.runs_of(task_id)) == 1


@pytest.mark.redis
class TestAStoreThatIsAway:
    def test_messages_wait_with_the_broker(self, place_of: Any, redis_url: str) -> None:
        place = place_of(redis_url, "sqlite", workmanager_name_wait=0.1)
        worker = place.worker().start()
        place.ended(place.send("shop.add", 1))
        with locked(place):
            ids = [place.send("shop.asked") for _ in range(3 * PREFETCH)]
            wait_until(lambda: "messages stay with the broker unacknowledged" in worker.log)
            wait_until(lambda: place.waiting_messages() == 2 * PREFETCH)
            wait_until(lambda: worker.log.count("store") > 0)
            assert place.waiting_messages() == 2 * PREFETCH
        for task_id in ids:
            place.ended(task_id)
        assert sorted(run["id"] for run in place.runs) == sorted(ids)
        assert worker.log.count("messages stay with the broker unacknowledged") == 1

    def test_a_broker_that_dies_with_them(self, free_redis: services.RedisServer, place_of: Any) -> None:
        """What a worker has in hand becomes a work, though nothing can be acknowledged and the broker forgot it."""
        place = place_of(free_redis.url, "sqlite", workmanager_name_wait=0.1)
        worker = place.worker().start()
        with locked(place):
            ids = [place.send("shop.asked") for _ in range(3)]
            wait_until(lambda: place.waiting_messages() == 0)
            wait_until(lambda: "messages stay with the broker unacknowledged" in worker.log)
            free_redis.stop()
            free_redis.start()
        for task_id in ids:
            place.ended(task_id)
        later = place.send("shop.asked")
        place.ended(later)
        assert sorted(run["id"] for run in place.runs) == sorted([*ids, later])
        assert "Couldn't ack" not in worker.log


@pytest.mark.rabbitmq
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_bad_messages_among_good_ones(place_of: Any, rabbitmq_url: str, store: str) -> None:
    """They all wait in the broker when the worker starts, so that it takes them together."""
    place = place_of(rabbitmq_url, store, accept_content=["json", "pickle"], workmanager_call_max_bytes=1000)
    with place.channel() as channel:
        place.app.amqp.queues[place.queue].bind(channel).declare()
    good = [place.send("shop.add", 1)]
    bad = {
        "Content": place.send("shop.add", 1, serializer="pickle"),
        "DecodeError": publish(place, "{not json", task="shop.add"),
        "InvalidTaskError": publish(place, "[[1], {}]", task="shop.add"),
        "kwargs as a mapping": publish(place, "[[1], [], {}]", task="shop.add"),
        "DataTooLarge": place.send("shop.echo", "x" * 2000),
    }
    good.append(place.send("shop.add", 2))
    if store == "postgresql":  # what no check of ours sees, but the database does
        bad["out of range"] = place.send("shop.add", 1, retries=2**40)
    good.append(place.send("shop.add", 3))

    worker = place.worker().start()
    assert [place.result(task_id) for task_id in good] == [2, 3, 4]
    for said, task_id in bad.items():
        info = place.ended(task_id, State.FAILED)
        assert said in str(info.error), (said, info)
        assert info.runs == 0
        assert f"Message '{task_id}' for worker" in worker.log
    worker.stop()
    assert place.waiting_messages() == 0


def publish(place: Place, body: str, **headers: Any) -> str:
    task_id = str(uuid.uuid4())
    with place.connection() as connection, connection.Producer() as producer:
        message = {"content_type": "application/json", "content_encoding": "utf-8"}
        producer.publish(body, routing_key=place.queue, headers={"id": task_id, **headers}, **message)
    return task_id
