"""Plain Celery, on the broker and with the results that the environment names."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from celery import Celery, chain, chord, group
from kombu.entity import Exchange, Queue

from tests.benchmarks.drivers.driver import PATIENCE, TEXT, Driver, serve
from tests.benchmarks.marks import mark

BROKER = os.environ.get("WORKMANAGER_BENCH_BROKER", "redis://127.0.0.1:6379/0")
RESULTS = os.environ.get("WORKMANAGER_BENCH_RESULTS", "")
#: Of this run alone: the broker may be shared.
QUEUE = os.environ.get("WORKMANAGER_BENCH_QUEUE", "workmanager-bench")
#: Seconds after which a broker that is nobody's own forgets the queue.
_FORGOTTEN_AFTER = 3600

app = Celery("plain", broker=BROKER, backend=RESULTS or None, set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_default_queue=QUEUE,
    task_queues=[Queue(QUEUE, Exchange(QUEUE, auto_delete=True), QUEUE, expires=_FORGOTTEN_AFTER)],
    task_ignore_result=not RESULTS,
    task_acks_late=os.environ.get("WORKMANAGER_BENCH_ACKS_LATE") == "1",
)


@app.task(name="bench.work", shared=False)
def work(n: int, text: str = "") -> dict[str, Any]:
    """Mark the start."""
    mark(n)
    return {"n": n}


@app.task(name="bench.step", shared=False)
def step(before: Any, n: int) -> dict[str, Any]:
    """The same, after another one or after many."""
    mark(n)
    return {"n": n}


class PlainDriver(Driver):
    """Celery's own ways; it has no bulk call, the nearest is one producer kept for all of them."""

    def reset(self) -> None:
        with app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            if BROKER.startswith("redis"):
                channel.client.flushall()
            else:
                app.amqp.queues[QUEUE](channel).declare()
                channel.queue_purge(QUEUE)

    def enqueue(self, number: int) -> Any:
        return number, work.delay(n=number, text=TEXT)

    def wait(self, handle: Any) -> None:
        number, result = handle
        if RESULTS:
            result.get(timeout=PATIENCE, interval=0.002)
        else:
            self.await_mark(number)

    def enqueue_many(self, first: int, count: int) -> None:
        with app.producer_or_acquire() as producer:
            for number in range(first, first + count):
                work.apply_async(kwargs={"n": number, "text": TEXT}, producer=producer)

    def enqueue_due(self, first: int, dues: list[float]) -> None:
        """Jobs that must not start before their moments (seconds since 1970)."""
        with app.producer_or_acquire() as producer:
            for number, due in enumerate(dues, first):
                work.apply_async(kwargs={"n": number}, eta=datetime.fromtimestamp(due, UTC), producer=producer)

    def chain(self, first: int, count: int) -> None:
        """One after the other, to the end."""
        steps = [step.s(number) for number in range(first + 1, first + count)]
        self.wait((first + count - 1, chain(work.s(first), *steps).apply_async()))

    def fan(self, first: int, count: int) -> None:
        """`count` side by side and one after them all, to the end."""
        if not RESULTS:
            raise NotImplementedError
        header = group(work.s(number) for number in range(first, first + count))
        self.wait((first + count, chord(header, step.s(first + count)).apply_async()))


if __name__ == "__main__":
    serve(PlainDriver)
