"""An app for proving pools: its works leave lines in append-only files, whatever pool they run in."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, current_task
from celery.exceptions import SoftTimeLimitExceeded

from celery_workmanager import ForegroundInfo, Worker, WorkManager

FOLDER = "POOLS_APP_FOLDER"


def note(file: str, **facts: Any) -> None:
    """Append a line, whole, whoever else writes at the same time."""
    handle = os.open(Path(os.environ[FOLDER]) / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), "pid": os.getpid(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def build(store_url: str, broker: str = "memory://", **conf: Any) -> Celery:
    """The app; the tests' own process makes one too, to enqueue and to look."""
    made = Celery("pools", broker=broker, set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, **conf)
    WorkManager(made, store_url=store_url)
    _add_workers(made)
    _add_long(made)
    _add_coroutines(made)

    @made.task(name="pools.ordinary", shared=False, ignore_result=True)
    def ordinary(number: int, seconds: float = 0.0) -> None:
        note("ordinary", number=number, event="start")
        time.sleep(seconds)
        note("ordinary", number=number, event="end")

    return made


def _add_workers(app: Celery) -> None:
    @app.task(base=Worker, bind=True, name="pools.mark", shared=False)
    def mark(self: Any) -> None:
        note("marks", id=self.work_id)

    @app.task(base=Worker, bind=True, name="pools.nap", shared=False)
    def nap(self: Any, seconds: float) -> dict[str, Any]:
        before = self.work_id
        note("naps", id=before, event="start")
        time.sleep(seconds)
        note("naps", id=self.work_id, event="end")
        return {"same": before == self.work_id == self.request.id == current_task.request.id}

    @app.task(base=Worker, bind=True, name="pools.listen", shared=False)
    def listen(self: Any) -> None:
        note("listeners", id=self.work_id, event="start")
        gap, last = 0.0, time.monotonic()
        while not self.is_stopped:
            time.sleep(0.005)
            now = time.monotonic()
            gap, last = max(gap, now - last), now
        note("listeners", id=self.work_id, event=self.stop_reason.name, gap=gap)

    @app.task(base=Worker, bind=True, name="pools.deaf", shared=False)
    def deaf(self: Any) -> None:
        note("deaf", id=self.work_id, event="start")
        try:
            while True:
                time.sleep(0.02)
        except SoftTimeLimitExceeded:
            note("deaf", id=self.work_id, event="soft")
            raise

    @app.task(base=Worker, bind=True, name="pools.hog", shared=False)
    def hog(self: Any, megabytes: int) -> None:
        kept.append(bytearray(os.urandom(1) * (megabytes << 20)))
        note("marks", id=self.work_id, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _add_long(app: Celery) -> None:
    @app.task(base=Worker, bind=True, name="pools.front", shared=False)
    def front(self: Any) -> None:
        self.set_progress(percent=1)
        self.set_foreground(ForegroundInfo(7, "Packing the parcels"))
        while not self.is_stopped and not (Path(os.environ[FOLDER]) / "enough").exists():
            time.sleep(0.005)
        note("fronts", id=self.work_id, event=self.stop_reason.name)


#: What works of this process never gave back.
kept: list[bytearray] = []


def _add_coroutines(app: Celery) -> None:
    @app.task(base=Worker, bind=True, name="pools.doze", shared=False)
    async def doze(self: Any, seconds: float) -> dict[str, Any]:
        before = self.work_id
        note("naps", id=before, event="start")
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(time.sleep, seconds / 2)
        note("naps", id=self.work_id, event="end")
        return {"same": before == self.work_id == self.request.id == current_task.request.id}

    @app.task(base=Worker, bind=True, name="pools.linger", shared=False)
    async def linger(self: Any) -> None:
        note("listeners", id=self.work_id, event="start")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("listeners", id=self.work_id, event=self.stop_reason.name, thread=threading.get_native_id())
            raise


if FOLDER in os.environ and "POOLS_APP_STORE" in os.environ:
    app = build(
        os.environ["POOLS_APP_STORE"],
        os.environ.get("POOLS_APP_BROKER", "memory://"),
        **json.loads(os.environ.get("POOLS_APP_CONF", "{}")),
    )
