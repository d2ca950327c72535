"""A kit with Android's limits on each store in turn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import make_url

from celery_workmanager import OneTimeWorkRequest, WorkInfo, WorkManager
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance import workers
from tests.conformance.periods import Periods
from tests.conftest import STORES


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    workers.ran.clear()
    workers.actions.clear()
    yield
    workers.ran.clear()
    workers.actions.clear()


@pytest.fixture(params=STORES)
def kit_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite://"
    url = make_url(request.getfixturevalue(f"{request.param}_url"))
    if request.param == "mariadb":
        return url.render_as_string(hide_password=False)
    # Durability has its own tests; here only time would be lost.
    fast = url.update_query_dict({"options": "-c synchronous_commit=off"})
    return fast.render_as_string(hide_password=False)


@pytest.fixture
def kit(kit_url: str) -> Iterator[WorkManagerTestKit]:
    with WorkManagerTestKit(workers.app, store_url=kit_url, profile="android") as kit:
        yield kit


@pytest.fixture
def server_kit(kit_url: str) -> Iterator[WorkManagerTestKit]:
    with WorkManagerTestKit(workers.app, store_url=kit_url) as kit:
        yield kit


@pytest.fixture
def wm(kit: WorkManagerTestKit) -> WorkManager:
    return kit.work_manager


@pytest.fixture
def periods(kit: WorkManagerTestKit) -> Periods:
    return Periods(kit)


class Works:
    """Short words for what most tests do."""

    def __init__(self, kit: WorkManagerTestKit) -> None:
        self.kit, self.wm = kit, kit.work_manager

    def request(self, do: str = "nothing", n: Any = None, **options: Any) -> OneTimeWorkRequest:
        """A request for `act`, which does `do`."""
        data = {"do": do, **({} if n is None else {"n": n})}
        return OneTimeWorkRequest(workers.act, data, **options)

    def enqueue(self, do: str = "nothing", **options: Any) -> str:
        """Enqueue one and return its id."""
        return self.wm.enqueue(self.request(do, **options)).id

    def info(self, request: OneTimeWorkRequest | str) -> WorkInfo:
        info = self.find(request)
        assert info is not None
        return info

    def find(self, request: OneTimeWorkRequest | str) -> WorkInfo | None:
        return self.wm.get_work_info_by_id(request if isinstance(request, str) else request.id)

    def state(self, request: OneTimeWorkRequest | str) -> str:
        return self.info(request).state.name

    def states(self, *requests: OneTimeWorkRequest) -> list[str]:
        return [self.state(each) for each in requests]

    @property
    def now(self) -> datetime:
        return self.kit.clock.today()


@pytest.fixture
def works(kit: WorkManagerTestKit) -> Works:
    return Works(kit)
