"""A worker, its works and a listener that comes in the middle of a drain, all in one process: the broker in memory."""

from __future__ import annotations

import json
import sys
import threading
from functools import partial
from typing import Any

from celery.contrib.testing.worker import start_worker

from celery_workmanager import OneTimeWorkRequest, WorkManager, schema
from tests.celery import events_app
from tests.celery.pool_worker import wait_until


def main(store: str) -> None:
    """Print the ids that were enqueued after it had begun to listen, and all events that it heard."""
    app = events_app.build("memory://", store)
    manager = WorkManager.get_instance(app)
    schema.migrate(manager.store.database)
    seen: list[dict[str, Any]] = []
    with start_worker(app, concurrency=2, pool="threads", perform_ping_check=False, task_events=True):
        before = enqueue(manager, [*adds(1000), *naps(100)])
        wait_until(lambda: is_finished(manager, before[100]), 60)
        receiver = app.events.Receiver(app.connection_for_read(), handlers={"*": seen.append})
        ready = threading.Event()
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        threading.Thread(target=partial(receiver.capture, wakeup=False), daemon=True).start()
        ready.wait(20)
        is_in_the_middle = not is_finished(manager, before[-1])
        after = enqueue(manager, adds(100))
        wait_until(lambda: all(is_finished(manager, each) for each in after), 60)
        wait_until(lambda: {each["uuid"] for each in list(seen) if each["type"] == "task-succeeded"} >= set(after), 20)
        receiver.should_stop = True
    print(json.dumps({"before": before, "after": after, "seen": seen, "is in the middle": is_in_the_middle}))


def adds(count: int) -> list[OneTimeWorkRequest]:
    """Works that are drained as fast as they can be."""
    return [OneTimeWorkRequest("work.add", {"x": number, "y": 1}) for number in range(count)]


def naps(count: int) -> list[OneTimeWorkRequest]:
    """Works that let a drain last: two at a time, a hundred take a second."""
    return [OneTimeWorkRequest("work.nap", {"seconds": 0.02}) for _ in range(count)]


def enqueue(manager: WorkManager, works: list[OneTimeWorkRequest]) -> list[str]:
    """Enqueue works at once; return their ids."""
    manager.enqueue(works)
    return [str(each.id) for each in works]


def is_finished(manager: WorkManager, work_id: str) -> bool:
    """Whether a work has its end."""
    info = manager.get_work_info_by_id(work_id)
    return info is not None and info.state.is_finished


if __name__ == "__main__":
    main(*sys.argv[1:])
