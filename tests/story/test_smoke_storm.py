"""Two real workers in a storm of faults: nothing is lost, nothing finishes twice, no order is broken.

`WORKMANAGER_STORM_SEED=…` repeats the dice of a storm (not its timing); `WORKMANAGER_STORM_SECONDS=…` makes it longer.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import State, WorkManager, schema
from celery_workmanager.query import WorkQuery
from tests import services
from tests.story import story_app
from tests.story.audit import Audit
from tests.story.cluster import running_cluster
from tests.story.cluster import why_not as why_no_cluster
from tests.story.storm import Chaos, Notes, Producers
from tests.story.workers import StoryWorker, wait_until

SECONDS = float(os.environ.get("WORKMANAGER_STORM_SECONDS", "18"))
LEASE = 3.0
SETTINGS: dict[str, Any] = {"lease": LEASE, "poll_interval": 0.5, "max_interruptions": 1000, "stop_grace": 1.0}
QUIET = 90.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 2 * QUIET)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_and_nothing_finishes_twice_in_a_storm(kind, tmp_path, capsys):
    """Workers, children, broker and database fall and get up again; the books are right at the end."""
    seed = int(os.environ.get("WORKMANAGER_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    with ExitStack() as stack:
        broker = cluster = None
        url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
        if kind == "postgresql":
            for reason in (why_no_cluster(), services.why_not("redis-server")):
                if reason:
                    pytest.skip(reason)
            cluster = stack.enter_context(running_cluster())
            url = cluster.url
            broker = services.RedisServer(tmp_path)
            broker.start()
            stack.callback(broker.stop)
        manager = WorkManager.get_instance(story_app.build(url, **SETTINGS))
        schema.migrate(manager.store.database)
        stack.callback(manager.store.close)
        workers = _workers(stack, tmp_path, url, "memory://" if broker is None else broker.url)
        notes, begun = Notes(), time.monotonic()
        producers = Producers(manager, notes, seed)
        producers.start()
        try:
            Chaos(workers, notes, broker, cluster, random.Random(seed)).rage(SECONDS)
        finally:
            producers.stop()
        calm = _is_calm_in_time(manager, notes)
        infos = manager.get_work_infos(WorkQuery())
        audit = Audit(notes, infos, story_app.lines(tmp_path), LEASE)
        with capsys.disabled():
            print(audit.table(f"storm on {kind}, WORKMANAGER_STORM_SEED={seed}", time.monotonic() - begun))
        assert not audit.anomalies, "\n".join([f"{tmp_path}, seed {seed}", *audit.anomalies[:20]])
        assert calm


def _workers(stack: ExitStack, folder: Path, url: str, broker: str) -> list[StoryWorker]:
    workers = [
        StoryWorker(folder, url, broker=broker, pool=pool, name=name, **SETTINGS)
        for name, pool in (("one", "prefork"), ("two", "threads"))
    ]
    for worker in workers:
        stack.callback(worker.end)
        worker.start()
    return workers


def _is_calm_in_time(manager: WorkManager, notes: Notes) -> bool:
    unfinished = WorkQuery.from_states(State.ENQUEUED, State.RUNNING, State.BLOCKED)

    def calm() -> bool:
        return all(info.id in notes.delayed for info in manager.get_work_infos(unfinished))

    try:
        wait_until(calm, QUIET)
    except AssertionError:
        return False
    return True
