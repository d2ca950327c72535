"""The broker is lost, another takes its place, the first comes back: works go on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from celery import Celery
from kombu.utils.url import parse_url

from tests.celery.control_site import Site, conf_of
from tests.celery.gate import Gate
from tests.celery.pool_worker import wait_until
from tests.conftest import need
from tests.services import RABBITMQ_URL, RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Broker(Protocol):
    """Something that can be lost."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Case(NamedTuple):
    """A broker, maybe another one that is down, and a worker's configuration and pool."""

    first: Broker
    second: Broker | None
    urls: list[str]
    conf: dict[str, Any]
    pool: str


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("quorum", marks=pytest.mark.rabbitmq),
    ]
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Two servers of Redis of our own, to be killed; a way to RabbitMQ (quorum queues), to be cut."""
    first: RedisServer | Gate
    second: RedisServer | None = None
    if request.param == "redis":
        need("redis-server")
        first, second = RedisServer(_made(tmp_path / "first")), RedisServer(_made(tmp_path / "second"))
        urls = [first.url, second.url]
    else:
        need("rabbitmq")
        server = parse_url(RABBITMQ_URL)
        first = Gate(server["hostname"], server["port"])
        # One URL: with quorum queues Celery waits 17 seconds for each that doesn't answer, whenever it connects.
        urls = [RABBITMQ_URL.replace(str(server["port"]), str(first.port))]
    first.start()
    conf = conf_of(request.param, tmp_path)
    yield Case(first, second, urls, conf, "prefork" if request.param == "redis" else "threads")
    for broker in (first, second):
        if broker is not None:
            broker.stop()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def hears(site: Site, url: str) -> bool:
    """Whether the worker answers to who asks through this broker."""
    client = Celery("client", broker=url, set_as_current=False)
    client.conf.control_exchange = site.conf["control_exchange"]
    # A connection of its own: one from Celery's pool may have ended with an earlier life of the broker.
    with client.connection_for_write() as connection:
        return bool(client.control.ping(timeout=0.5, connection=connection))


def test_works_go_on_while_the_broker_is_lost_and_another_takes_over(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = case.first, case.second
    monkeypatch.setenv("CONTROL_FOLDER", str(tmp_path))
    # The last is Celery's cure for tasks that a broker would deliver again: it must not touch works.
    broker = case.urls if second is not None else case.urls[0]
    conf = {**case.conf, "broker_url": broker, "worker_cancel_long_running_tasks_on_connection_loss": True}
    site = Site(tmp_path, conf, "-P", case.pool, "-c", "3")
    try:
        site.start_and_wait()
        long = site.one("until_stopped")
        (pid,) = site.wait_for_running(long)
        assert hears(site, case.urls[0])
        works = site.call("mark", count=50)
        first.stop()
        works += site.call("mark", count=50)
        site.wait_for("SUCCEEDED", *works)
        if second is not None:
            second.start()
            wait_until(lambda: hears(site, case.urls[1]), 60, "it has gone over to the second broker")
            works += site.call("mark", count=20)
            second.stop()
        works += site.call("mark", count=20)
        first.start()
        wait_until(lambda: hears(site, case.urls[0]), 60, "it is back at the first broker")
        works += site.call("mark", count=20)
        site.wait_for("SUCCEEDED", *works)
        assert site.state(long) == "RUNNING"
        long.revoke()
        wait_until(lambda: site.notes(long, "stopped"))
        starts = Counter(line["id"] for line in site.notes(event="start"))
        assert starts == Counter([long.id, *(each.id for each in works)])
        assert {line["pid"] for line in site.notes(long)} == {pid}
    finally:
        first.start()
        site.close()
