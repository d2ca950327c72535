"""The Celery app of the site: `celery -A example_project.website worker` runs the works."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from celery_workmanager import ExistingPeriodicWorkPolicy, PeriodicWorkRequest, WorkManager

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.website.settings")

app = Celery("blur_o_matic_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["example_project.blur_o_matic", "example_project.website"])
work_manager = WorkManager(app)

SWEEP = "sweep"


@worker_ready.connect
def plan_the_sweep(**_: Any) -> None:
    """Ask for the periodic work at every start: by its unique name it stays one work."""
    from example_project.website.tasks import sweep  # noqa: PLC0415  (Django is set up by now)

    work_manager.enqueue_unique_periodic_work(
        SWEEP,
        ExistingPeriodicWorkPolicy.UPDATE,
        PeriodicWorkRequest(sweep, repeat_interval=timedelta(minutes=15), tags={SWEEP}),
    )
