"""The project's Celery app, as Celery's own guide for Django has it, and its WorkManager."""

from __future__ import annotations

import os

from celery import Celery

from celery_workmanager import WorkManager

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_site.settings")

app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
work_manager = WorkManager(app)
