"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.views.debug import SafeExceptionReporterFilter

from celery_workmanager.app import WorkManager
from celery_workmanager.django.access import check_access
from celery_workmanager.django.checks import check_project
from celery_workmanager.django.database import database_of
from celery_workmanager.hidden import hiding


class WorkManagerConfig(AppConfig):
    """Gives the project's database to every WorkManager that was given no ``store_url``."""

    name = "celery_workmanager.django"
    label = "celery_workmanager"
    verbose_name = "Background work"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Become the database of WorkManagers."""
        WorkManager.make_database = staticmethod(database_of)
        register(check_project, self.label)
        register(check_access, self.label)
        # Pages and mails of errors show the settings.
        SafeExceptionReporterFilter.hidden_settings = hiding(SafeExceptionReporterFilter.hidden_settings)
