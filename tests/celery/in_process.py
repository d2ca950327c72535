"""Runs claims in this process, through the same tracer as a pool's process."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from celery import Celery

from celery_workmanager import tracer
from celery_workmanager.current import Runtime
from celery_workmanager.outcome import Claim, Outcome
from celery_workmanager.slots import Slots
from celery_workmanager.work import StopReason
from celery_workmanager.worker import Worker

_tokens = count(1)


class InProcess:
    """An app and slots, without a worker around them."""

    def __init__(self, **limits: int) -> None:
        self.app = Celery("in-process", broker="memory://", set_as_current=False)
        self.slots = Slots(4)
        limits = {"data_max_bytes": 1000, "call_max_bytes": 2000, **limits}
        self.runtime = Runtime(self.app, self.slots, hostname="here", **limits)
        #: Called with the slot of each run right before it is handed to the tracer.
        self.before: Callable[[int], Any] = lambda _slot: None
        self.slot = -1

    def task(self, **options: Any) -> Any:
        """Decorate a worker of this app alone; Celery would share it with every app of this process."""
        return self.app.task(shared=False, **{"base": Worker, **options})

    def run(self, worker: Any, input_data: Any = None, *more: Any, claim: dict[str, Any] | None = None) -> Outcome:
        """Run one work with this input (and outputs of prerequisites)."""
        inputs = [json.dumps(data or {}) for data in (input_data, *more)]
        return self.run_batch([(worker, inputs, claim or {})])[0]

    def call(self, worker: Any, *args: Any, claim: dict[str, Any] | None = None, **kwargs: Any) -> Outcome:
        """Run one task call."""
        facts = {**(claim or {}), "options": {"call": 1, **(claim or {}).get("options", {})}}
        return self.run_batch([(worker, [json.dumps({"args": args, "kwargs": kwargs})], facts)])[0]

    def run_batch(self, works: list[tuple[Any, list[str], dict[str, Any]]]) -> list[Outcome]:
        members, slots = [], []
        for worker, inputs, facts in works:
            slot = self.slots.open()
            assert slot is not None
            name = worker if isinstance(worker, str) else worker.name
            token = next(_tokens)
            defaults = {"queue": "q", "node": "n", "run_attempt_count": 0, "interruptions": 0, "generation": 0}
            claim = Claim(id=f"work-{token}", worker=name, token=token, inputs=inputs, **{**defaults, **facts})
            members.append(tracer.member_of(claim, slot, self.slots.run_of(slot)))
            slots.append(slot)
            self.slot = slot
            self.before(slot)
        tracer.install(self.runtime)
        try:
            answers = tracer.run_batch(True, members)
        finally:
            tracer.install(None)
        return [self._outcome(answer, slot) for answer, slot in zip(answers, slots, strict=True)]

    def _outcome(self, answer: Any, slot: int) -> Outcome:
        if answer is None:
            kept = self.slots.read_outcome(slot)
            assert kept is not None
            answer = marshal.loads(kept)
            assert self.slots.ended(slot)
        self.slots.close(slot)
        return tracer.outcome_of(answer)

    def stop(self, reason: StopReason = StopReason.CANCELLED_BY_APP) -> None:
        """Ask the run in hand to stop."""
        self.slots.raise_stop(self.slot, reason)


@contextmanager
def receiving(signal: Any) -> Iterator[list[dict[str, Any]]]:
    """Collect what a Celery signal tells."""
    seen: list[dict[str, Any]] = []

    def receive(**facts: Any) -> None:
        seen.append(facts)

    signal.connect(receive, weak=False)
    try:
        yield seen
    finally:
        signal.disconnect(receive)
