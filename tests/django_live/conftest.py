"""The site, a kit that stands in for its WorkManager, and a visitor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import _state

from celery_workmanager import OneTimeWorkRequest, WorkManager
from celery_workmanager.testing import WorkManagerTestKit
from tests import services
from tests.django_live import site


@pytest.fixture(scope="session")
def django_site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    there = services.why_not("postgresql") is None
    site.configure(tmp_path_factory.mktemp("django"), request.getfixturevalue("postgresql_url") if there else None)
    from django.core.management import call_command
    from django.db import connections

    for alias in connections:
        with using(alias):
            call_command("migrate", database=alias, verbosity=0)


def using(alias: str) -> Any:
    """The store is in the database of that alias."""
    from django.test import override_settings

    return override_settings(CELERY_WORKMANAGER_DATABASE=alias)


@pytest.fixture(params=["default", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def alias(request: pytest.FixtureRequest, django_site: None) -> Iterator[str]:
    """The database that is the store, each in turn."""
    if request.param == "postgresql":
        request.getfixturevalue("postgresql_url")
    with using(request.param):
        yield request.param


@pytest.fixture
def access() -> str | None:
    """The setting ``page_access``."""
    return "tests.django_live.site.may_see"


@pytest.fixture
def kit_url() -> str | None:
    """The store's URL, where it isn't Django's own database."""
    return None


@contextmanager
def kit_for(access: str | None, url: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkManagerTestKit]:
    """A kit for the site, which views find as its WorkManager."""
    monkeypatch.setattr(_state, "default_app", site.app)
    monkeypatch.setattr(_state._tls, "current_app", None)
    monkeypatch.setitem(site.app.conf, "workmanager_page_access", access)
    with WorkManagerTestKit(site.app, url) as kit:
        yield kit


@pytest.fixture
def kit(
    alias: str, kit_url: str | None, access: str | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkManagerTestKit]:
    with kit_for(access, kit_url, monkeypatch) as kit:
        yield kit
        kit.work_manager.store.empty()


@pytest.fixture
def wm(kit: WorkManagerTestKit) -> WorkManager:
    return kit.work_manager


@pytest.fixture
def alice(kit: WorkManagerTestKit) -> Any:
    from django.test import Client

    return Client(headers={"Visitor": "alice"})


@pytest.fixture
def paint(wm: WorkManager) -> Any:
    """Enqueues a work of Alice's, and returns its id."""

    def enqueue(*tags: str, request: dict[str, Any] | None = None, **inputs: Any) -> str:
        work = OneTimeWorkRequest(site.paint, inputs, tags={"alice", *tags}, **(request or {}))
        return wm.enqueue(work).ids[0]

    return enqueue
