"""Short words for tests of periodic work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery_workmanager import (
    ExistingPeriodicWorkPolicy,
    PeriodicWorkRequest,
    UpdateResult,
)
from tests.conformance.workers import act

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
KEEP, UPDATE = ExistingPeriodicWorkPolicy.KEEP, ExistingPeriodicWorkPolicy.UPDATE
REENQUEUE = ExistingPeriodicWorkPolicy.CANCEL_AND_REENQUEUE
IMMEDIATELY, NEXT_RUN = UpdateResult.APPLIED_IMMEDIATELY, UpdateResult.APPLIED_FOR_NEXT_RUN


class Periods:
    """Short words for what most tests of periodic work do; times are minutes after the test's beginning."""

    def __init__(self, kit: Any) -> None:
        self.kit, self.wm = kit, kit.work_manager
        self.began = kit.clock.today()

    def request(self, do: str = "nothing", n: Any = None, **options: Any) -> PeriodicWorkRequest:
        if "schedule" not in options:
            options.setdefault("repeat_interval", HOUR)
        data = {"do": do, **({} if n is None else {"n": n})}
        return PeriodicWorkRequest(act, data, **options)

    def enqueue(self, do: str = "nothing", **options: Any) -> str:
        return self.wm.enqueue(self.request(do, **options)).id

    def put(self, name: str, policy: ExistingPeriodicWorkPolicy, do: str = "nothing", **options: Any) -> Any:
        return self.wm.enqueue_unique_periodic_work(name, policy, self.request(do, **options))

    def update(self, work_id: str, do: str = "nothing", **options: Any) -> UpdateResult:
        return self.wm.update_work(self.request(do, id=work_id, **options))

    def info(self, work_id: str) -> Any:
        info = self.wm.get_work_info_by_id(work_id)
        assert info is not None
        return info

    def next(self, work_id: str) -> float:
        """When it runs next."""
        at = self.info(work_id).next_schedule_time
        return (at - self.began) / MINUTE

    def at(self, minutes: float) -> datetime:
        return self.began + minutes * MINUTE

    def run_at(self, minutes: float) -> int:
        """Let it become that late, and run what is due."""
        self.kit.clock.advance(self.at(minutes) - self.kit.clock.today())
        return self.kit.run_until_idle()

    def takes(self, minutes: float, then: Callable[[Any], Any] = lambda _: None) -> Callable[[Any], Any]:
        """What a worker does that needs this long."""

        def act(worker: Any) -> Any:
            self.kit.clock.advance(minutes * MINUTE)
            return then(worker)

        return act
