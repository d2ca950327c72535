"""What is done behind the views."""

from __future__ import annotations

import time
from pathlib import Path

from celery import shared_task

from celery_workmanager import Worker


@shared_task(base=Worker)
def bake(order: int) -> dict[str, int]:
    return {"baked": order}


@shared_task(base=Worker)
def deliver(baked: int) -> dict[str, int]:
    return {"delivered": baked}


@shared_task(base=Worker)
def rise(oven: str) -> None:
    """Until the oven is there."""
    while not Path(oven).exists():
        time.sleep(0.02)


@shared_task(base=Worker, bind=True)
def sell(self, title: str, *, fails: bool = False) -> str:
    """Its rows and its end are committed together."""
    from django.db import transaction

    from tests.django_site.models import Order

    with transaction.atomic():
        self.complete(result={"order": Order.objects.create(title=title).pk})
        if fails:
            raise RuntimeError("both are taken back")
    return "ignored"


@shared_task(base=Worker, bind=True)
def sell_outside(self) -> None:
    self.complete(result={})


@shared_task(base=Worker)
def fill(title: str) -> None:
    """Writes to the project's database from within a work, and enqueues another one there."""
    from django.db import transaction

    from tests.django_site.celery import work_manager
    from tests.django_site.models import Order
    from tests.django_site.shop import chain

    with transaction.atomic():
        chain(work_manager, Order.objects.create(title=title)).enqueue()
