"""A database that answers late, or not at all: a node takes no more than it can keep, and stops in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celery_workmanager import OneTimeWorkRequest, State, WorkManager, schema
from celery_workmanager.database import Database
from celery_workmanager.errors import StoreUnavailable
from tests import services
from tests.proxy import proxied
from tests.story import story_app
from tests.story.workers import StoryWorker, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.postgresql, pytest.mark.timeout(180)]

_IN_HAND = text("SELECT count(*) FROM workmanager_work WHERE node IS NOT NULL AND state IN (0, 1)")
MOST = 8


@pytest.fixture
def url(postgresql_url: str) -> str:
    services.empty_database(postgresql_url)
    return postgresql_url


@pytest.fixture
def manager(url: str) -> Iterator[WorkManager]:
    """A caller with a way of its own."""
    made = WorkManager.get_instance(story_app.build(url))
    schema.migrate(made.store.database)
    yield made
    made.store.close()


def requests(number: int, nap: float = 0.0) -> list[OneTimeWorkRequest]:
    return [OneTimeWorkRequest("story.step", {"nap": nap}) for _ in range(number)]


def test_a_node_with_a_slow_database_takes_no_more_than_it_may_hold_and_keeps_its_lease(
    url: str, manager: WorkManager, tmp_path: Path
):
    """Each answer takes a fifth of a second: ends are written late, and until then nothing is claimed for them."""
    works = requests(48)
    ids = [each.id for each in works]
    most = 0

    def done() -> bool:
        nonlocal most
        with manager.store.database.plain() as connection:
            most = max(most, int(connection.execute(_IN_HAND).scalar_one()))
        return all(info.state.is_finished for info in manager.infos_of(ids))

    with proxied(url) as (proxy, way):
        worker = StoryWorker(tmp_path, way, lease=8, max_in_flight=MOST)
        worker.start()
        try:
            wait_until(manager.store.nodes, what="the node is there")
            proxy.answer_late(0.2)
            nodes = {node.id for node in manager.store.nodes()}
            manager.enqueue(works)
            wait_until(done, 120, what="all have ended")
            assert {node.id for node in manager.store.nodes()} == nodes
        finally:
            proxy.heal()
            worker.end()
    # What it may have in hand, and what ended while the claim for its successors was under way.
    assert 0 < most <= 2 * MOST
    infos = manager.infos_of(ids)
    assert {(info.state, info.interruptions) for info in infos} == {(State.SUCCEEDED, 0)}
    assert len([line for line in story_app.lines(tmp_path) if line["event"] == "start"]) == len(ids)


def test_a_node_whose_database_answers_no_more_stops_its_runs_before_others_may_take_them(
    url: str, manager: WorkManager, tmp_path: Path
):
    """No error says so: the connections stay open. The other node runs the work when the first has stopped."""
    (work,) = requests(1, nap=90)
    with proxied(url) as (proxy, way):
        first, second = StoryWorker(tmp_path, way, lease=6), StoryWorker(tmp_path, url, name="two", lease=6)
        try:
            first.start()
            wait_until(manager.store.nodes, what="the node is there")
            manager.enqueue(work)
            wait_until(lambda: manager.infos_of([work.id])[0].state is State.RUNNING, what="it runs")
            proxy.swallow()
            second.start()
            wait_until(lambda: len(_of(tmp_path, "start")) > 1, what="the other node runs it")
            (ended,) = _of(tmp_path, "end")
            assert (ended["said"], ended["at"] < _of(tmp_path, "start")[1]["at"]) == ("stopped", True)
            manager.cancel_work_by_id(work.id)
            proxy.heal()
        finally:
            first.end()
            second.end()
    assert manager.infos_of([work.id])[0].state is State.CANCELLED


def _of(folder: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in story_app.lines(folder) if line["event"] == event]


def test_a_caller_who_finds_no_free_connection_is_told_so(url: str, manager: WorkManager):
    """Not for ever does he wait, and not with an error of the pool's."""
    database = Database(url)
    engine = database.engine()
    engine.pool._timeout = 0.05  # type: ignore[attr-defined]  # half a minute by default
    held = [engine.connect() for _ in range(15)]
    with pytest.raises(StoreUnavailable, match="no free connection"), database.transaction():
        pass
    for each in held:
        each.close()
    database.close()
