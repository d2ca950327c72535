"""What views and tests have in common."""

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest
from tests.django_site.models import Order
from tests.django_site.tasks import bake, deliver


def chain(manager: Any, order: Order, policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP) -> Any:
    """Bake and deliver an order, once."""
    first = OneTimeWorkRequest(bake, {"order": order.pk}, tags={"order"})
    return manager.begin_unique_work(f"order-{order.pk}", policy, first).then(
        OneTimeWorkRequest(deliver, tags={"order"})
    )


def app_with(**settings: Any) -> Celery:
    """Another app in this project, with the same workers."""
    made = Celery("other", set_as_current=False)
    made.config_from_object("django.conf:settings", namespace="CELERY")
    made.conf.update({f"workmanager_{key}": value for key, value in settings.items()})
    for worker in (bake, deliver):
        made.tasks.setdefault(worker.name, worker)
    return made
