"""Which of the project's databases the store lives in."""

from __future__ import annotations

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS

SETTING = "CELERY_WORKMANAGER_DATABASE"


def store_alias() -> str:
    """The alias of the store's database: setting ``CELERY_WORKMANAGER_DATABASE``, or "default"."""
    return str(getattr(settings, SETTING, DEFAULT_DB_ALIAS))
