"""What happens in a project with a worker beside it: `python -m tests.django_site.scenes NAME`, one process each."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable

import django

django.setup()

from django.db import transaction  # noqa: E402
from django.test import Client  # noqa: E402

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State  # noqa: E402
from tests.django_site.celery import work_manager  # noqa: E402
from tests.django_site.models import Order  # noqa: E402
from tests.django_site.shop import chain  # noqa: E402
from tests.django_site.tasks import bake, fill, sell  # noqa: E402


def wait_for(ids: Iterable[str]) -> None:
    """Return when the works have succeeded."""
    wanted, until = list(ids), time.monotonic() + 30
    while {info.state for info in work_manager.infos_of(wanted)} != {State.SUCCEEDED}:
        assert time.monotonic() < until, [(info.id, info.state, info.error) for info in work_manager.infos_of(wanted)]
        time.sleep(0.02)


def requests() -> None:
    """A view's chain runs, and so does one that a work enqueued in its own transaction."""
    wait_for(Client().get("/order/bread/").json()["ids"])
    sold = sell.delay("bun").id
    wait_for([sold, fill.delay("pie").id])
    assert work_manager.get_work_info_by_id(sold).output_data == {"order": Order.objects.get(title="bun").pk}
    pie = Order.objects.get(title="pie")
    wait_for(info.id for info in work_manager.get_work_infos_for_unique_work(f"order-{pie.pk}"))


def crash() -> None:
    """The process dies between the commit and all that is done after it."""
    with transaction.atomic():
        transaction.on_commit(lambda: os._exit(3))
        chain(work_manager, Order.objects.create(title="crash")).enqueue()


def after_the_crash() -> None:
    """Its works run all the same."""
    order = Order.objects.get(title="crash")
    works = work_manager.get_work_infos_for_unique_work(f"order-{order.pk}")
    assert len(works) == 2
    wait_for(work.id for work in works)


def hold() -> None:
    """A view's transaction stays open, with rows of a chain in its hands, while a worker finishes another chain."""
    later = OneTimeWorkRequest(bake, {"order": 0}, initial_delay=3600)
    work_manager.enqueue_unique_work("later", ExistingWorkPolicy.KEEP, later)
    with transaction.atomic():
        held = chain(work_manager, Order.objects.create(title="held")).enqueue()
        work_manager.enqueue_unique_work("later", ExistingWorkPolicy.APPEND, OneTimeWorkRequest(bake, {"order": 1}))

        def others() -> None:
            with transaction.atomic():
                made = chain(work_manager, Order.objects.create(title="free")).enqueue()
            wait_for(made.ids)
            assert work_manager.infos_of(held.ids) == []

        _in_thread(others)
    wait_for(held.ids)


def _in_thread(call: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - told to who waits
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    {each.__name__: each for each in (requests, crash, after_the_crash, hold)}[sys.argv[1]]()
