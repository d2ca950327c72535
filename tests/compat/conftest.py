"""The sides with their workers, and the scenarios of all selected rows, run concurrently."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from celery.backends.redis import ResultConsumer
from redis.connection import AbstractConnection

from celery_workmanager import schema
from celery_workmanager.database import Database
from tests import services
from tests.compat.apps import Facts
from tests.compat.registry import PLAIN, POSTGRESQL, REDIS, Row
from tests.compat.side import Side

#: Scenarios at a time on one side: fewer than its worker has children, so that none waits for another.
AT_ONCE = 6


@pytest.fixture(scope="module")
def sides(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Side]]:
    """The sides that selected tests need, each with a running worker."""
    folder = tmp_path_factory.mktemp("compat")
    wanted = {side for _, side in _selected(request.session)}
    if services.why_not("postgresql") is not None:
        wanted.discard(POSTGRESQL)
    found = {side: Side(_facts(side, folder, redis_url, request), folder / side) for side in sorted(wanted)}
    try:
        for side in found.values():
            side.launch()
        for side in found.values():
            side.wait_until_ready()
        yield found
    finally:
        for side in found.values():
            side.close()
        _close_redis()


def _close_redis() -> None:
    """Close what Celery leaves open: a client for each thread that looked at a result."""
    for consumer in _living(ResultConsumer):
        consumer.stop()
        consumer._pubsub = None  # else each result that ends unsubscribes, on a new connection
    # Before the collector comes upon them: it would warn of each that is still open. And what it brings up.
    for _ in range(2):
        for connection in _living(AbstractConnection):
            connection.disconnect()
        gc.collect()


def _living(kind: type[Any]) -> list[Any]:
    # Of its type alone: `isinstance` asks the object, and a lazy one (Django's settings) would wake up to answer.
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


def _facts(side: str, folder: Path, redis: str, request: pytest.FixtureRequest) -> Facts:
    space = f"compat-{os.getpid()}-{side}"
    if side == PLAIN:
        return Facts(side, space, redis, backend=redis)
    store = f"sqlite:///{folder / side}.sqlite3"
    if side == POSTGRESQL:
        store = services.make_database(f"wm_compat_{os.getpid()}")
        request.addfinalizer(lambda: services.drop_database(f"wm_compat_{os.getpid()}"))
        database = Database(store)
        schema.migrate(database)
        database.close()
    return Facts(side, space, redis, backend=redis if side == REDIS else "workmanager", store=store)


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest, sides: dict[str, Side]) -> Iterator[Callable[[Row, str], Any]]:
    """What a row's scenario returned on a side; the scenarios of all selected rows run meanwhile."""
    runs: dict[tuple[str, str], Future[Any]] = {}
    pools = {name: ThreadPoolExecutor(AT_ONCE, thread_name_prefix=name) for name in sides}
    for row, name in _selected(request.session):
        if name in sides and not row.alone:
            runs[row.name, name] = pools[name].submit(_run, row, sides[name])

    def show(row: Row, name: str) -> Any:
        first = runs.get((row.name, name))
        if first is None:  # it runs alone, or again
            wait(runs.values(), timeout=100)
            return _run(row, sides[name])
        del runs[row.name, name]
        return first.result(timeout=100)

    yield show
    for pool in pools.values():
        pool.shutdown(cancel_futures=True)


def _run(row: Row, side: Side) -> Any:
    side.app.set_current()
    return row.scenario(side)


def _selected(session: pytest.Session) -> list[tuple[Row, str]]:
    calls = (getattr(item, "callspec", None) for item in session.items)
    params = [call.params for call in calls if call is not None]
    return [(each["row"], each["side"]) for each in params if isinstance(each.get("row"), Row)]
