"""What ``manage.py check`` says of the project's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery._state import _get_active_apps
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names
from django.db import connections, router

from celery_workmanager.app import WorkManager
from celery_workmanager.django.addresses import url_of
from celery_workmanager.django.aliases import SETTING, store_alias
from celery_workmanager.errors import ConfigurationError
from celery_workmanager.settings import PREFIX, Settings

_LABEL = "celery_workmanager"
_SETTINGS_PREFIX = "CELERY_" + PREFIX.upper()
#: Seconds; Python's own default, and Django's.
_TIMEOUT = 5
_ROUTER = "celery_workmanager.django.router.WorkManagerRouter"


def check_project(**_: Any) -> list[CheckMessage]:
    """The settings, the database they name, and the Celery app."""
    return [*_settings(), *_database(), *_managers()]


def _apps_managers() -> list[WorkManager]:
    return [app.workmanager for app in _get_active_apps() if WorkManager.is_initialized(app)]


def _settings() -> Iterator[CheckMessage]:
    found = {key: getattr(settings, key) for key in dir(settings) if key.startswith(_SETTINGS_PREFIX)}
    try:
        Settings.from_mapping(found, _SETTINGS_PREFIX)
        for manager in _apps_managers():
            Settings.from_mapping(manager.given_settings)
    except ConfigurationError as error:
        yield Error(str(error), id=f"{_LABEL}.E001")


def _database() -> Iterator[CheckMessage]:
    alias = store_alias()
    if alias not in connections:
        known = ", ".join(map(repr, connections))
        yield Error(f"expected {SETTING} to be one of {known}, got: {alias!r}", id=f"{_LABEL}.E002")
        return
    connection = connections[alias]
    try:
        url_of(connection)
    except ConfigurationError as error:
        yield Error(str(error), id=f"{_LABEL}.E003")
    if not connection.settings_dict["AUTOCOMMIT"]:
        yield Error(f"expected database {alias!r} to have AUTOCOMMIT, got: False", id=f"{_LABEL}.E004")
    yield from _routes(alias)
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        yield from _sqlite(alias, connection.settings_dict["OPTIONS"])


def _routes(alias: str) -> Iterator[CheckMessage]:
    work = apps.get_model(_LABEL, "Work")
    places = {router.db_for_read(work), router.db_for_write(work)}
    if places == {alias} and router.allow_migrate_model(alias, work):
        return
    yield Error(
        f"expected the database routers to let the store's tables be in {alias!r}, and to look for them there",
        hint=f"Put {_ROUTER!r} first in DATABASE_ROUTERS.",
        id=f"{_LABEL}.E005",
    )


def _sqlite(alias: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    where = f"DATABASES[{alias!r}]['OPTIONS']"
    if str(options.get("transaction_mode")).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Warning(
            f"expected {where} to have transaction_mode IMMEDIATE, got: {options.get('transaction_mode')!r}",
            hint="A transaction that has read, and then wants to write, is refused if a worker wrote meanwhile.",
            id=f"{_LABEL}.W003",
        )
    if "journal_mode=wal" not in str(options.get("init_command")).lower().replace(" ", ""):
        yield Warning(
            f"expected {where} to have init_command 'PRAGMA journal_mode=WAL', got: {options.get('init_command')!r}",
            hint="Without it readers and writers wait for each other. Workers set it, and SQLite keeps it in the file.",
            id=f"{_LABEL}.W004",
        )
    if options.get("timeout", _TIMEOUT) < _TIMEOUT:
        yield Warning(
            f"expected {where} to have a timeout of at least {_TIMEOUT} seconds, got: {options['timeout']!r}",
            hint="SQLite has one writer at a time: the others wait for it.",
            id=f"{_LABEL}.W005",
        )


def _managers() -> Iterator[CheckMessage]:
    managers = _apps_managers()
    if not managers:
        yield Warning(
            "expected a Celery app with a WorkManager, got: none",
            hint="Write `WorkManager(app)` beside your Celery app, and import that in your project's __init__.py.",
            id=f"{_LABEL}.W001",
        )
    for manager in managers:
        if manager.has_store_url:
            yield Warning(
                f"expected app {manager.app.main!r} to have no store URL, got one: its works are kept there, apart"
                " from the project's transactions",
                hint=f"Remove {_SETTINGS_PREFIX}STORE_URL, or 'celery_workmanager.django' from INSTALLED_APPS.",
                id=f"{_LABEL}.W002",
            )
