"""The app of tests that run `celery` itself: its store is in SHOP_STORE."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_workmanager import Worker, WorkManager

app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "memory://"))
app.conf.task_default_queue = os.environ.get("SHOP_QUEUE", "celery")
app.conf.workmanager_store_url = os.environ.get("SHOP_STORE", "sqlite://")
WorkManager(app)


@app.task(base=Worker, name="shop.bake")
def bake(**_: Any) -> None:
    """Nothing."""
