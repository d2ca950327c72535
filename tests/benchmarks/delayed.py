"""What a claim costs beside works that wait for their moment, and what it costs without them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from sqlalchemy import func, insert, literal, select, text

from celery_workmanager import OneTimeWorkRequest, WorkManager, schema
from celery_workmanager.store import Store
from celery_workmanager.tables import work
from tests.benchmarks import durable_app
from tests.benchmarks.measures import median
from tests.benchmarks.systems import BULK

#: Works that one claim takes.
TAKEN = 16
_FAR = 24 * 3600.0


class Queue:
    """A store of its own with `delayed` works that are due tomorrow, and some that can be claimed."""

    def __init__(self, url: str, delayed: int, claims: int) -> None:
        app = durable_app.build(url)
        self._manager, self._work = WorkManager.get_instance(app), app.tasks["bench.work"]
        self.store: Store = self._manager.store
        schema.migrate(self.store.database)
        if delayed:
            self._delay(delayed)
        self._enqueue(claims * TAKEN, 0)

    def _enqueue(self, count: int, delay: float) -> None:
        numbers = range(count)
        self._manager.enqueue([OneTimeWorkRequest(self._work, {"n": n}, initial_delay=delay) for n in numbers])

    def _delay(self, rows: int) -> None:
        self._enqueue(min(BULK, rows), _FAR)
        names = [column.name for column in work.columns]
        turn = 0
        with self.store.database.transaction() as connection:
            while (there := connection.execute(select(func.count()).select_from(work)).scalar_one()) < rows:
                turn += 1
                other = {"id": work.c.id + literal(f"-{turn}"), "due_at": work.c.due_at + literal(turn)}
                copies = select(*(other.get(name, work.c[name]) for name in names)).limit(rows - there)
                connection.execute(insert(work).from_select(names, copies))
        if not self.store.database.is_sqlite:
            with self.store.database.plain() as connection:
                connection.execute(text("VACUUM ANALYZE"))  # as autovacuum does in time

    def claim(self) -> float:
        """Look for lanes and claim once; returns milliseconds."""
        begun = time.perf_counter()
        seen = self.store.look()
        claims = self.store.claim(seen.lanes, "node", secrets.randbits(62), TAKEN, stamp=seen.stamp)
        taken = (time.perf_counter() - begun) * 1e3
        if len(claims) != TAKEN:
            raise RuntimeError(f"expected {TAKEN} claims, got: {len(claims)}")
        return taken

    def close(self) -> None:
        """Close the connections."""
        self.store.close()


def measure(urls: tuple[str, str], rows: int, claims: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `claims` claims without delayed works and with `rows` of them, alternating."""
    queues = [Queue(url, delayed, claims + 1) for url, delayed in zip(urls, (0, rows), strict=True)]
    times: tuple[list[float], list[float]] = ([], [])
    try:
        for queue in queues:
            queue.claim()  # connections, caches
        for _ in range(claims):
            for queue, own in zip(queues, times, strict=True):
                own.append(queue.claim())
    finally:
        for queue in queues:
            queue.close()
    return times


def table(figures: dict[str, tuple[list[float], list[float]]], rows: int) -> str:
    """Medians and their ratio."""
    lines = [f"| claim of {TAKEN} works, ms | none delayed | {rows:,} delayed | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_cells(*each))} |" for name, each in figures.items()]
    return "\n".join(lines)


def _cells(without: list[float], beside: list[float]) -> Iterator[str]:
    yield f"{median(without):.2f}"
    yield f"{median(beside):.2f}"
    yield f"{median(beside) / median(without):.2f}"
