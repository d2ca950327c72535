"""The site, a kit that stands in for its WorkManager, and a visitor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import _state

from celery_workmanager import OneTimeWorkRequest, WorkManager
from celery_workmanager.testing import WorkManagerTestKit
from tests.django_live import site


@pytest.fixture(scope="session", autouse=True)
def django_site(tmp_path_factory: pytest.TempPathFactory) -> None:
    site.configure(tmp_path_factory.mktemp("django"))


@pytest.fixture
def access() -> str | None:
    """The setting ``page_access``."""
    return "tests.django_live.site.may_see"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kit_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite://"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def kit(kit_url: str, access: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkManagerTestKit]:
    monkeypatch.setattr(_state, "default_app", site.app)
    monkeypatch.setattr(_state._tls, "current_app", None)
    monkeypatch.setitem(site.app.conf, "workmanager_page_access", access)
    with WorkManagerTestKit(site.app, store_url=kit_url) as kit:
        yield kit


@pytest.fixture
def wm(kit: WorkManagerTestKit) -> WorkManager:
    return kit.work_manager


@pytest.fixture
def alice() -> Any:
    from django.test import Client

    return Client(headers={"Visitor": "alice"})


@pytest.fixture
def paint(wm: WorkManager) -> Any:
    """Enqueues a work of Alice's, and returns its id."""

    def enqueue(*tags: str, request: dict[str, Any] | None = None, **inputs: Any) -> str:
        work = OneTimeWorkRequest(site.paint, inputs, tags={"alice", *tags}, **(request or {}))
        return wm.enqueue(work).ids[0]

    return enqueue
