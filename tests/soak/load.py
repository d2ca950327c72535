"""A gentle load: a worker, and a thread that enqueues works of many kinds at a steady pace."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from celery_workmanager import ExistingWorkPolicy, Limit, OneTimeWorkRequest, PeriodicWorkRequest, WorkManager, schema
from celery_workmanager.policies import ExistingPeriodicWorkPolicy
from tests.story import story_app
from tests.story.workers import StoryWorker

#: Finished works are kept for two minutes, so that the store reaches its size soon.
SETTINGS: dict[str, Any] = {"retention": 120.0, "prune_interval": 5.0}


class Load:
    """Works for one store until it is stopped."""

    def __init__(self, folder: Path, url: str, rate: float) -> None:
        self.folder, self.url, self._rate = folder, url, rate
        self.manager = WorkManager.get_instance(story_app.build(url, **SETTINGS))
        schema.migrate(self.manager.store.database)
        self.worker = StoryWorker(folder, url, **SETTINGS)
        self.enqueued = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)

    def start(self) -> None:
        self.worker.start()
        for number in range(5):
            request = PeriodicWorkRequest("story.step", {"nap": 0.0}, repeat_interval=1)
            self.manager.enqueue_unique_periodic_work(f"tick-{number}", ExistingPeriodicWorkPolicy.KEEP, request)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)
        self.worker.terminate()
        self.worker.end()
        self.manager.store.close()

    def _produce(self) -> None:
        dice, begun = random.Random(7), time.monotonic()
        while not self._over.is_set():
            self.enqueued += self._some(dice)
            ahead = self.enqueued / self._rate - (time.monotonic() - begun)
            self._over.wait(max(0.0, ahead))

    def _some(self, dice: random.Random) -> int:
        """One call of some kind; returns how many works it made."""
        kind = dice.randrange(6)
        requests = [self._request(dice) for _ in range(dice.randint(2, 8))]
        if kind == 0:
            self.manager.begin_with(requests[0]).then(requests[1:-1] or requests[-1:]).then(
                self._request(dice)
            ).enqueue()
        elif kind == 1:
            for each in requests:
                name = f"name-{dice.randrange(50)}"
                self.manager.enqueue_unique_work(name, dice.choice(tuple(ExistingWorkPolicy)), each)
        elif kind == 2:
            late = [self._request(dice, initial_delay=dice.uniform(0.1, 20), tags={"late"}) for _ in requests]
            self.manager.enqueue(late)
            self.manager.cancel_work_by_id(late[0].id)
        elif kind == 3:
            self.manager.enqueue([self._request(dice, concurrency=Limit("two", 2)) for _ in requests])
        else:
            self.manager.enqueue(requests)
        return len(requests)

    def _request(self, dice: random.Random, **options: Any) -> OneTimeWorkRequest:
        ending = dice.choice(["success"] * 18 + ["failure", "retry"])
        return OneTimeWorkRequest("story.step", {"nap": dice.choice([0, 0, 0.05]), "ending": ending}, **options)
