"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class WorkManagerConfig(AppConfig):
    """Gives the project's database to every WorkManager that has no ``workmanager_store_url``."""

    name = "celery_workmanager.django"
    label = "celery_workmanager"
    verbose_name = "Background work"
    default_auto_field = "django.db.models.BigAutoField"
