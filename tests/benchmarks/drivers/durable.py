"""The same job as a durable work."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from celery import Celery
from sqlalchemy import text

from celery_workmanager import (
    Constraints,
    ExistingWorkPolicy,
    Limit,
    OneTimeWorkRequest,
    State,
    WorkContinuation,
    Worker,
    WorkManager,
    queries,
    schema,
)
from tests.benchmarks.counting import count_here
from tests.benchmarks.drivers.driver import BULK, PATIENCE, TEXT, Driver, serve
from tests.benchmarks.marks import mark

#: A delay counts from the call: few at a time, so that it is reckoned anew.
_FEW = 100
_PAGES = text("SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_master WHERE type = :kind)")
_SIZES = text(
    "SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class"
    " WHERE relname LIKE 'workmanager%' AND relkind = 'r'"
)


def build(store_url: str) -> Celery:
    """An app of its own for each measured system; no server but the store's."""
    made = Celery("durable", broker="memory://", set_as_current=False)
    made.conf.update(worker_hijack_root_logger=False)
    WorkManager(made, store_url=store_url)

    @made.task(name="bench.work", base=Worker, shared=False)
    def work(n: int, text: str = "") -> dict[str, Any]:
        mark(n)
        return {"n": n}

    return made


count_here()
app = build(os.environ.get("WORKMANAGER_BENCH_STORE", "sqlite://"))


class DurableDriver(Driver):
    """Through the public door."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = WorkManager.get_instance(app)
        self.work = app.tasks["bench.work"]

        keys, most = map(int, os.environ.get("WORKMANAGER_BENCH_LIMIT", "0:0").split(":"))
        #: The limits over which works are spread; none as a rule.
        self.limits = [Limit(f"oven-{number}", most) for number in range(keys)]

    def _request(self, number: int, **options: Any) -> OneTimeWorkRequest:
        if self.limits:
            options["concurrency"] = self.limits[number % len(self.limits)]
        return OneTimeWorkRequest(self.work, {"n": number, "text": TEXT}, **options)

    def reset(self) -> None:
        schema.migrate(self.manager.store.database)
        self.manager.store.empty()
        if self.manager.store.database.dialect == "postgresql":
            with self.manager.store.database.plain() as connection:
                connection.execute(text("VACUUM"))  # the others truncate, and leave no dead rows
        self._enqueue_beside(int(os.environ.get("WORKMANAGER_BENCH_BESIDE", "0")))

    def _enqueue_beside(self, count: int) -> None:
        """Works that are not measured: they wait for a node with a label, or for tomorrow and room in a limit."""
        if not count:
            return
        here = Constraints(node_labels=("zone=elsewhere",))
        limited = {"initial_delay": timedelta(days=1), "concurrency": Limit("oven", 1)}
        for options in ({"constraints": here}, limited):
            self.manager.enqueue([self._request(0, **options) for _ in range(count // 2)])

    def enqueue(self, number: int) -> Any:
        return self.work.AsyncResult(self.manager.enqueue(self._request(number)).id)

    def wait(self, handle: Any) -> None:
        handle.get(timeout=PATIENCE, interval=0.002)

    def enqueue_many(self, first: int, count: int) -> None:
        for start in range(first, first + count, BULK):
            numbers = range(start, min(start + BULK, first + count))
            self.manager.enqueue([self._request(number) for number in numbers])

    def check_done(self, count: int) -> None:
        until = time.monotonic() + PATIENCE
        while (done := self._done()) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"expected {count} works to succeed, got: {done}")
            time.sleep(0.05)

    def _done(self) -> int:
        with self.manager.store.database.plain() as connection:
            return queries.counts(connection).get(State.SUCCEEDED, 0)

    def size(self) -> dict[str, int]:
        """The bytes of our tables and of their indexes."""
        with self.manager.store.database.plain() as connection:
            if connection.dialect.name == "sqlite":
                table, indexes = (
                    connection.execute(_PAGES, {"kind": each}).scalar_one() for each in ("table", "index")
                )
            else:
                table, indexes = connection.execute(_SIZES).one()
        return {"table": int(table), "indexes": int(indexes)}

    def enqueue_due(self, first: int, dues: list[float]) -> None:
        """Works that must not start before their moments (seconds since 1970)."""
        for start in range(0, len(dues), _FEW):
            now = time.time()
            self.manager.enqueue(
                [
                    self._request(first + number, initial_delay=timedelta(seconds=max(0.0, dues[number] - now)))
                    for number in range(start, min(start + _FEW, len(dues)))
                ]
            )

    def chain(self, first: int, count: int) -> None:
        """One after the other, to the end."""
        continuation = self.manager.begin_with(self._request(first))
        for number in range(first + 1, first + count):
            continuation = continuation.then(self._request(number))
        self._to_the_end(continuation)

    def fan(self, first: int, count: int) -> None:
        """`count` side by side and one after them all, to the end."""
        header = [self._request(number) for number in range(first, first + count)]
        self._to_the_end(self.manager.begin_with(header).then(self._request(first + count)))

    def _to_the_end(self, continuation: Any) -> None:
        continuation.enqueue()
        self.wait(self.work.AsyncResult(continuation.last_ids[0]))

    def unique(self, first: int, count: int) -> int:
        """Enqueue under unique names that are kept; returns how many were new."""
        keep = ExistingWorkPolicy.KEEP
        return sum(
            self.manager.enqueue_unique_work(f"name-{number}", keep, self._request(number)).applied
            for number in range(first, first + count)
        )

    def unique_bulk(self, first: int, count: int) -> None:
        """Pairs of works with an edge between them, each pair under a unique name of its own, many in one call."""
        for start in range(first, first + count, BULK):
            pairs = [self._pair(number) for number in range(start, min(start + BULK, first + count), 2)]
            WorkContinuation.combine(pairs).enqueue()

    def _pair(self, number: int) -> WorkContinuation:
        begun = self.manager.begin_unique_work(f"pair-{number}", ExistingWorkPolicy.KEEP, self._request(number))
        return begun.then(self._request(number + 1))


if __name__ == "__main__":
    serve(DurableDriver)
