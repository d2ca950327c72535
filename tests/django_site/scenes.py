"""What happens in a project with a worker beside it: `python -m tests.django_site.scenes NAME`, one process each."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import django

django.setup()

from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State  # noqa: E402
from tests.django_site.celery import work_manager  # noqa: E402
from tests.django_site.models import Order  # noqa: E402
from tests.django_site.shop import chain  # noqa: E402
from tests.django_site.tasks import bake, fill, rise, sell  # noqa: E402


def wait_for(ids: Iterable[str], state: State = State.SUCCEEDED) -> None:
    """Return when the works are in this state."""
    wanted, until = list(ids), time.monotonic() + 30
    while {info.state for info in work_manager.infos_of(wanted)} != {state}:
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


def hold(seconds: str = "0") -> None:
    """A view's transaction stays open, with rows of a chain in its hands, while a worker finishes other works."""
    later = OneTimeWorkRequest(bake, {"order": 0}, initial_delay=3600)
    work_manager.enqueue_unique_work("later", ExistingWorkPolicy.KEEP, later)
    with tempfile.TemporaryDirectory() as folder:
        oven = Path(folder, "oven")
        rising = rise.delay(oven=str(oven)).id
        wait_for([rising], State.RUNNING)
        with transaction.atomic():
            held = chain(work_manager, Order.objects.create(title="held")).enqueue()
            work_manager.enqueue_unique_work("later", ExistingWorkPolicy.APPEND, OneTimeWorkRequest(bake, {"order": 1}))
            until = time.monotonic() + float(seconds)
            oven.touch()
            if connection.vendor == "sqlite":  # one writer at a time: the worker's words wait, and none is lost
                time.sleep(float(seconds))
            else:
                _in_thread(lambda: _finish_others(rising, held.ids, until))
        wait_for([rising, *held.ids])
    assert {(work.run_attempt_count, work.runs) for work in work_manager.infos_of([rising, *held.ids])} == {(1, 1)}


def _finish_others(rising: str, held: Sequence[str], until: float) -> None:
    """What ran before the transaction began, and one chain after the other until it may end."""
    wait_for([rising])
    while True:
        with transaction.atomic():
            made = chain(work_manager, Order.objects.create(title="free")).enqueue()
        wait_for(made.ids)
        assert work_manager.infos_of(held) == []
        if time.monotonic() >= until:
            return


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
    {each.__name__: each for each in (requests, crash, after_the_crash, hold)}[sys.argv[1]](*sys.argv[2:])
