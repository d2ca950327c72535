"""For projects with several databases: the store's tables are in one of them only."""

from __future__ import annotations

from typing import Any

from celery_workmanager.django.aliases import store_alias

_LABEL = "celery_workmanager"


class WorkManagerRouter:
    """Knows the store's tables, and has no opinion of any others. For setting ``DATABASE_ROUTERS``."""

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        """Where rows of `model` are read."""
        return store_alias() if model._meta.app_label == _LABEL else None  # noqa: SLF001 - Django's own way

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        """Whether tables of `app_label` may be in `db`."""
        return db == store_alias() if app_label == _LABEL else None
