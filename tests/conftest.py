"""Fixtures for the services: a test without its service is skipped, or fails where services are required."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from kombu import pools
from kombu.connection import Connection

from tests import services

# Examples talk to real databases, whose speed says nothing about our code.
settings.register_profile("workmanager", deadline=None, print_blob=True)
settings.load_profile("workmanager")


#: Files with tests that use RabbitMQ.
ON_RABBITMQ = {
    "test_audience.py", "test_broker_failover.py", "test_control.py", "test_events.py", "test_intake.py",
    "test_intake_crashes.py",
}  # fmt: skip


def need(service: str) -> None:
    """Skip the test without the service; fail it where WORKMANAGER_TEST_REQUIRE_SERVICES is set."""
    reason = services.why_not(service)
    if reason is None:
        return
    services.absent[service] = reason
    if services.REQUIRED:
        pytest.fail(f"expected {service} to answer, got: {reason}", pytrace=False)
    pytest.skip(f"without {service}: {reason}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In a parallel run (``-n 2``) a file stays in one process, and so do all that share RabbitMQ's fanouts."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "rabbitmq" if Path(file).name in ON_RABBITMQ else file

    # As they come: the files with the fewest tests are the slowest ones, and would be left to the end.
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hold the list of those files complete."""
    files = {item.path.name for item in items if item.get_closest_marker("rabbitmq") is not None}
    assert files <= ON_RABBITMQ, f"expected files that use RabbitMQ in ON_RABBITMQ, got others: {files - ON_RABBITMQ}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what this run could not test."""
    if services.absent:
        reasons = ", ".join(f"{service} ({reason})" for service, reason in services.absent.items())
        terminalreporter.write_line(f"Ran without: {reasons}", yellow=True)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """An empty database of this test process's own; whoever asks for it shares it."""
    need("postgresql")
    name = f"wm_test_{os.getpid()}"
    yield services.make_database(name)
    services.drop_database(name)


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """The same on MariaDB."""
    need("mariadb")
    name = f"wm_test_{os.getpid()}"
    yield services.make_database(name, services.MARIADB_URL)
    services.drop_database(name, services.MARIADB_URL)


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis database, emptied once; tests use queue names of their own in it."""
    need("redis")
    with Connection(services.REDIS_URL) as connection:
        connection.default_channel.client.flushdb()
    return services.REDIS_URL


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """A RabbitMQ virtual host; tests use queue names of their own in it."""
    need("rabbitmq")
    return services.RABBITMQ_URL


@pytest.fixture(autouse=True, scope="module")
def own_pools() -> None:
    """Apps of one module close their connection pools; kombu would give the closed ones to those of the next."""
    for group in (pools.connections, pools.producers):
        for key, pool in list(group.items()):
            # kombu has no public word for it; producers are closed with their connections.
            if pool._closed or getattr(pool, "connections", pool)._closed:
                dict.pop(group, key)  # the group itself would hash the key once more


@pytest.fixture
def free_redis(tmp_path: Path) -> Iterator[services.RedisServer]:
    """A running Redis of this test's own, to be stopped and started at will."""
    need("redis-server")
    server = services.RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


_POSTGRESQL, _MARIADB = (pytest.param(each, marks=getattr(pytest.mark, each)) for each in ("postgresql", "mariadb"))
SERVERS = [_POSTGRESQL, _MARIADB]
STORES = ["sqlite", *SERVERS]
#: For tests of what lies above the store, or takes long.
FEW_STORES = ["sqlite", _POSTGRESQL]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store, on each database in turn; nothing is migrated yet, and nothing is left behind."""
    yield from empty_store(request, tmp_path)


def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """What such a fixture gives, by its parameter."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite3'}"
        return
    url: str = request.getfixturevalue(f"{request.param}_url")
    services.empty_database(url)
    yield url
    services.empty_database(url)
