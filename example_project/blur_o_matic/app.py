"""The Celery app with its WorkManager: `celery -A example_project.blur_o_matic.app worker` runs the works."""

from __future__ import annotations

from celery import Celery

from celery_workmanager import WorkManager

app = Celery("blur_o_matic")
app.config_from_object("example_project.blur_o_matic.config")
work_manager = WorkManager(app)
