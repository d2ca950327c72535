"""Who begins to listen in the middle of a drain hears all of every work that is enqueued from then on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.celery.events_in_process import adds, enqueue, is_finished, naps
from tests.celery.events_worker import EventsWorker
from tests.celery.pool_worker import ROOT, wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


def by_work(seen: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for each in sorted(seen, key=lambda each: int(each["clock"])):
        if "uuid" in each:
            found[each["uuid"]].append(each)
    return found


def assert_complete(works: list[str], seen: list[dict[str, Any]]) -> None:
    found = by_work(seen)
    for number, work_id in enumerate(works):
        received, started, succeeded = found[work_id]
        assert [each["type"] for each in found[work_id]] == ["task-received", "task-started", "task-succeeded"]
        assert (received["name"], received["kwargs"]) == ("work.add", f"{{'x': {number}, 'y': 1}}")
        assert succeeded["result"] == str(number + 1)
        assert received["timestamp"] <= started["timestamp"] <= succeeded["timestamp"]


@pytest.mark.redis
def test_on_redis(tmp_path: Path, redis_url: str) -> None:
    with EventsWorker(tmp_path, redis_url, listens=False) as worker:
        first = enqueue(worker.manager, [*adds(1500), *naps(300)])
        wait_until(lambda: is_finished(worker.manager, first[300]), 60)
        worker.listen()
        assert not is_finished(worker.manager, first[-1])  # in the middle
        after = enqueue(worker.manager, adds(150))
        wait_until(lambda: {each["uuid"] for each in worker.told("task-succeeded")} >= set(after), 60)
        assert_complete(after, worker.seen)
        # Nobody was there to hear of the first ones.
        assert first[0] not in by_work(worker.seen)


def test_in_memory(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.celery.events_in_process", store],
        capture_output=True, text=True, check=False, timeout=100, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["is in the middle"]
    assert_complete(told["after"], told["seen"])
    assert told["before"][0] not in by_work(told["seen"])
