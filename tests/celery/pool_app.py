"""An app whose node is a toy: claims come from a file, outcomes go to another. No store is involved.

A test appends lines of JSON to ``claims``; the worker appends one line for each start and each outcome to
``outcomes``, and its tasks append what they do to ``ran``.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import bootstep, tracer
from celery_workmanager.engine import EngineOptions
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.work import StopReason
from celery_workmanager.worker import Worker

FOLDER = Path(os.environ["POOL_APP_FOLDER"])
BATCH = int(os.environ.get("POOL_APP_BATCH", "1"))
DEPTH = int(os.environ.get("POOL_APP_DEPTH", "1"))

app = Celery("pool_app", broker=os.environ.get("POOL_APP_BROKER", "memory://"), set_as_current=True)
app.conf.update(
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get("POOL_APP_CONF", "{}")),
)


def note(file: str, **facts: Any) -> None:
    """Append a line, whole, whoever else writes at the same time."""
    handle = os.open(FOLDER / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"at": time.monotonic(), "pid": os.getpid(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


@app.task(base=Worker)
def noop(n: int, text: str = "") -> dict[str, int]:
    """Nothing: for figures."""
    return {"n": n}


@app.task(base=Worker, bind=True)
def mark(self: Any) -> None:
    """Leave a mark and end."""
    note("ran", id=self.work_id)


@app.task(base=Worker)
def look_for_cycles() -> dict[str, Any]:
    """How Python looks for cycles here."""
    return {"pid": os.getpid(), "frozen": gc.get_freeze_count(), "threshold": gc.get_threshold()}


@app.task(base=Worker, bind=True)
def nap(self: Any, seconds: float = 0.05) -> dict[str, int]:
    """Sleep, whatever happens."""
    note("ran", id=self.work_id)
    time.sleep(seconds)
    note("napped", id=self.work_id)
    return {"pid": os.getpid()}


@app.task(base=Worker, bind=True)
def wait_for_stop(self: Any) -> None:
    """Run until it is told to stop."""
    note("ran", id=self.work_id)
    while not self.is_stopped:
        time.sleep(0.005)
    note("stopped", id=self.work_id, reason=self.stop_reason.name)


@app.task(base=Worker, bind=True)
def stubborn(self: Any) -> None:
    """Run until it is killed."""
    note("ran", id=self.work_id)
    while True:
        time.sleep(0.05)


@app.task(base=Worker, bind=True)
def report(self: Any, steps: int = 3) -> None:
    """Tell progress."""
    for step in range(steps):
        self.set_progress(step=step)
        time.sleep(0.03)


@app.task(base=Worker, bind=True)
def suicide(self: Any) -> None:
    """Die as by the OOM killer."""
    note("ran", id=self.work_id)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def ordinary(number: int) -> None:
    """An ordinary Celery task beside the works."""
    note("ordinary", number=number)


LATE = float(os.environ.get("POOL_APP_LATE", "0"))

if LATE:
    on_time = tracer.run_batch

    @wraps(on_time)
    def run_late(*args: Any) -> Any:
        """As in a process that gets no processor for a moment, after its last run and before it says so."""
        answers = on_time(*args)
        time.sleep(LATE)
        return answers

    tracer.run_batch = run_late  # type: ignore[assignment]


class ToyNode:
    """Hands over what stands in the file; knows nothing of a store."""

    def __init__(self, worker: Any, engine: Any) -> None:
        self.worker, self.engine = worker, engine
        self.flying: dict[str, Claim] = {}
        self.todo: deque[dict[str, Any]] = deque()
        self.read_to = 0
        self.token = 0
        self.claiming = True
        self.closed = False
        self.starts: dict[str, float] = {}
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.engine.start(self._started, self._ended)
        self.thread.start()
        children = getattr(self.worker.pool, "_pool", None)
        pids = [child.pid for child in children._pool] if children else []
        note("outcomes", event="ready", children=pids, parent=os.getpid(), threshold=gc.get_threshold())

    def _started(self, claim: Claim, at: float) -> None:
        note("outcomes", event="started", id=claim.id)

    def _ended(self, claim: Claim, outcome: Any) -> None:
        self.flying.pop(claim.id)
        if claim.told is not None:
            claim.told(outcome)
        again = outcome.ending is Ending.GIVEN_BACK and self.claiming
        if again:
            order = {"id": claim.id, "worker": claim.worker, "input": json.loads(claim.inputs[0])}
            self.todo.append({**order, **claim.options})
        note(
            "outcomes", event="ended", id=claim.id, ending=outcome.ending.name, output=outcome.output,
            error=outcome.error, reason=outcome.reason.name, after=outcome.after,
            started=outcome.started_at is not None, runtime=outcome.runtime,
        )  # fmt: skip

    def _run(self) -> None:
        while not self.closed:
            self._read()
            if self.claiming:
                self._claim()
            for claim, text in self.engine.progress():
                note("outcomes", event="progress", id=claim.id, progress=json.loads(text))
            time.sleep(0.002)

    def _read(self) -> None:
        with (FOLDER / "claims").open("rb") as file:
            file.seek(self.read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read_to += len(line)
                self._heed(json.loads(line))

    def _heed(self, order: dict[str, Any]) -> None:
        if "stop" not in order:
            self.todo.append(order)
            return
        claim = self.flying.get(order["stop"])
        if claim is not None:
            self.engine.stop(claim, StopReason[order["reason"]], order["grace"])

    def _claim(self) -> None:
        while self.todo and len(self.flying) < max(1, self.engine.concurrency) * DEPTH * BATCH:
            batch = [self._claimed(self.todo.popleft()) for _ in range(min(BATCH, len(self.todo)))]
            for claim in batch:
                self.flying[claim.id] = claim
            self.engine.hand_over(batch)

    def _claimed(self, order: dict[str, Any]) -> Claim:
        self.token += 1
        options: dict[str, Any] = {key: order[key] for key in ("time_limit", "soft_time_limit", "call") if key in order}
        inputs = [json.dumps(order.get("input", {}))]
        worker = order["worker"]
        return Claim(order["id"], worker, "celery", self.token, "toy", 0, 0, 0, inputs, options)

    def shutting_down(self) -> None:
        self.claiming = False
        self.engine.give_back()

    def drain(self, unless: Any) -> None:
        while self.flying and not unless():
            time.sleep(0.005)

    def terminate(self) -> None:
        note("outcomes", event="terminated", left=sorted(self.flying))

    def close(self) -> None:
        self.closed = True
        self.thread.join(5)
        note("outcomes", event="closed")

    def revoked(self, claim: Claim) -> None:
        note("outcomes", event="revoked", id=claim.id)

    def revoke(self, ids: Sequence[str], tags: Sequence[str], reason: StopReason) -> None:
        note("outcomes", event="heard", ids=list(ids), tags=list(tags), reason=reason.name)


if os.environ.get("POOL_APP_BENCH"):
    from tests.celery.pool_bench import BenchNode as ToyNode  # type: ignore[assignment]

bootstep.install(app, ToyNode, EngineOptions)
