"""The app of workers of all versions: it uses only what each has. Works note which version and which worker ran them.

`python -m tests.upgrade.upgrade_app` lets a process of some version enqueue, and prints the ids.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import Constraints, ExistingWorkPolicy, Limit, OneTimeWorkRequest, Worker, WorkManager

SETTINGS = {"lease": 4.0, "poll_interval": 0.2, "stop_grace": 1.0}


def build(store_url: str, folder: str, version: str) -> Celery:
    """An app with its worker."""
    made = Celery("upgrade", broker="memory://", set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    WorkManager(made, store_url=store_url, settings=SETTINGS)

    @made.task(bind=True, base=Worker, name="upgrade.step", shared=False)
    def step(self: Any, nap: float = 0.0) -> dict[str, str]:
        note(folder, event="start", id=self.work_id, version=version, worker=os.getsid(0))
        until = time.monotonic() + nap
        while time.monotonic() < until and not self.is_stopped:
            time.sleep(0.01)
        note(folder, event="end", id=self.work_id, version=version)
        return {"by": version}

    return made


def note(folder: str, **facts: Any) -> None:
    """Append one line, whole, whoever writes at the same time."""
    handle = os.open(Path(folder) / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def enqueue(manager: Any) -> dict[str, list[str]]:
    """A chain, a fan-out with a join, a unique name, constraints, limits and delays, in every version's words."""

    def step(**options: Any) -> Any:
        return OneTimeWorkRequest("upgrade.step", options.pop("input", {"nap": 0.02}), **options)

    chain = [step() for _ in range(3)]
    manager.begin_with(chain[0]).then(chain[1]).then(chain[2]).enqueue()
    wide, last = [step() for _ in range(4)], step()
    manager.begin_with(wide).then(last).enqueue()
    named = [step() for _ in range(3)]
    for each in named:
        manager.enqueue_unique_work("ledger", ExistingWorkPolicy.APPEND_OR_REPLACE, each)
    various = [
        step(constraints=Constraints(requires_storage_not_low=True)),
        step(concurrency=Limit("door", 1)),
        step(concurrency=Limit("door", 1)),
        step(initial_delay=0.5),
        step(tags={"urgent"}, priority=9),
    ]
    manager.enqueue(various)
    return {
        "chain": [each.id for each in chain],
        "join": [*(each.id for each in wide), last.id],
        "named": [each.id for each in named],
        "various": [each.id for each in various],
    }


if "UPGRADE_STORE" in os.environ:
    app = build(os.environ["UPGRADE_STORE"], os.environ["UPGRADE_FOLDER"], os.environ["UPGRADE_VERSION"])

if __name__ == "__main__":
    own = WorkManager.get_instance(app)
    print(json.dumps(enqueue(own)))
    own.store.close()
    sys.exit()
