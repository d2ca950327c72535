"""A producer inside Django's transactions, in the project that the tests of Django use."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_site.settings")

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402

from celery_workmanager import OneTimeWorkRequest  # noqa: E402
from tests.benchmarks.drivers.driver import Driver, serve  # noqa: E402
from tests.django_site.celery import work_manager  # noqa: E402
from tests.django_site.models import Order  # noqa: E402
from tests.django_site.tasks import bake  # noqa: E402


class DjangoDriver(Driver):
    """What a view does: one row of its own, and a work that belongs to it."""

    def reset(self) -> None:
        call_command("migrate", run_syncdb=True, verbosity=0)
        work_manager.store.empty()
        Order.objects.all().delete()

    def transactions(self, count: int, enqueues: bool) -> None:
        """`count` transactions with a row each, and with a work each if told so."""
        for _ in range(count):
            with transaction.atomic():
                order = Order.objects.create(title="bread")
                if enqueues:
                    work_manager.enqueue(OneTimeWorkRequest(bake, {"order": order.pk}))


if __name__ == "__main__":
    serve(DjangoDriver)
