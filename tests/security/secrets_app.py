"""An app whose store, broker and input hold secrets; its workers keep them to themselves."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_workmanager import Result, Worker, WorkManager

STORE, BROKER, QUEUE = "SECRETS_STORE", "SECRETS_BROKER", "SECRETS_QUEUE"


def build(store: str, broker: str, queue: str) -> Celery:
    made = Celery("secrets", broker=broker, set_as_current=False)
    made.conf.update(task_default_queue=queue, broker_connection_retry_on_startup=True, task_send_sent_event=True)
    made.conf.update(workmanager_store_url=store, workmanager_lease=5, workmanager_poll_interval=0.2)
    WorkManager(made)

    @made.task(base=Worker, name="secrets.keep", shared=False)
    def keep(secret: str, **more: Any) -> Any:
        return Result.success()

    @made.task(base=Worker, name="secrets.fail", shared=False)
    def fail(secret: str, **more: Any) -> Any:
        raise ValueError("this worker fails")

    @made.task(base=Worker, name="secrets.retry", shared=False, bind=True, max_retries=1)
    def retry(self: Any, secret: str, **more: Any) -> Any:
        self.update_state(state="PROGRESS", meta={"secret": secret})
        raise self.retry(exc=ValueError("this worker fails"), countdown=0)

    @made.task(base=Worker, name="secrets.strange", shared=False)
    def strange(secret: str, **more: Any) -> Any:
        return {"secret": {secret}}

    @made.task(base=Worker, name="secrets.long", shared=False)
    def long(secret: str, **more: Any) -> Any:
        return Result.success({"secret": secret * 500_000})

    return made


if STORE in os.environ:
    app = build(os.environ[STORE], os.environ[BROKER], os.environ[QUEUE])
