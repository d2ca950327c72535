"""Stores that hold few, many and very many other rows, and what one operation costs in each."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Table, func, insert, literal, select, text, update

from celery_workmanager import OneTimeWorkRequest, WorkManager, schema
from celery_workmanager.store import Store
from celery_workmanager.tables import tag, work
from tests.benchmarks.drivers import durable
from tests.benchmarks.drivers.driver import BULK, Driver, serve

#: Works that one claim takes, that one tag has, that one promotion finds due, that one pruning finds old.
TAKEN = 16
_FAR = timedelta(days=1)


class Place:
    """One store; half of its other rows are finished, half wait for tomorrow, each with a tag."""

    def __init__(self, url: str) -> None:
        app = durable.build(url)
        self._manager, self._work = WorkManager.get_instance(app), app.tasks["bench.work"]
        self.store: Store = self._manager.store
        self._turn = 0

    def fill(self, rows: int) -> None:
        """Make `rows` rows by doubling some."""
        schema.migrate(self.store.database)
        self.store.empty()
        half = min(BULK, rows) // 2
        self._enqueue(half, "finished")
        self._manager.cancel_all_work_by_tag("finished")
        self._enqueue(half, "waiting", _FAR)
        with self.store.database.transaction() as connection:
            turn = 0
            while (left := rows - connection.execute(select(func.count()).select_from(work)).scalar_one()) > 0:
                turn += 1
                for table, key in ((work, "id"), (tag, "work")):
                    copies = select(*_renamed(table, key, turn)).order_by(table.c[key]).limit(left)
                    connection.execute(insert(table).from_select([each.name for each in table.columns], copies))
        self._gather_statistics()

    def _gather_statistics(self) -> None:
        # As the database does by itself in time.
        says = {"postgresql": "VACUUM ANALYZE", "sqlite": "ANALYZE"}
        say = says.get(self.store.database.dialect, f"ANALYZE TABLE {work.name}, {tag.name}")
        with self.store.database.plain() as connection:
            connection.execute(text(say)).close()

    def _enqueue(self, count: int, label: str, delay: timedelta = timedelta(0)) -> Sequence[str]:
        requests = [OneTimeWorkRequest(self._work, {"n": n}, tags={label}, initial_delay=delay) for n in range(count)]
        return self._manager.enqueue(requests).ids

    def operations(self) -> Iterator[tuple[str, float]]:
        """Do each once; gives its name and milliseconds."""
        self._turn += 1
        own = f"own-{self._turn}"
        yield "enqueue", _timed(lambda: self._enqueue(1, own))
        self._enqueue(TAKEN - 1, own)
        yield "query by tag", _timed(lambda: self._manager.get_work_infos_by_tag(own))
        yield "claim", _timed(self._claim)
        yield "cancel by tag", _timed(lambda: self._manager.cancel_all_work_by_tag(own))
        self._age(own)
        yield "prune", _timed(lambda: self.store.prune(only_expired=True))
        self._enqueue(TAKEN, own, timedelta(milliseconds=1))
        time.sleep(0.002)
        yield "promote", _timed(self.store.promote)
        self._manager.cancel_all_work_by_tag(own)
        self._age(own)
        self.store.prune(only_expired=True)

    def _claim(self) -> None:
        seen = self.store.look()
        taken = self.store.claim(seen.lanes, "node", secrets.randbits(62), TAKEN, stamp=seen.stamp)
        if len(taken) != TAKEN:
            raise RuntimeError(f"expected {TAKEN} claims, got: {len(taken)}")

    def _age(self, label: str) -> None:
        ids = select(tag.c.work).where(tag.c.tag == label)
        with self.store.database.transaction() as connection:
            connection.execute(update(work).where(work.c.id.in_(ids)).values(prune_at=1))


def _renamed(table: Table, key: str, turn: int) -> Iterator[Any]:
    for column in table.columns:
        yield column + literal(f"-{turn}") if column.name == key else column


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


class GrowthDriver(Driver):
    """The stores that the environment names, smallest first."""

    def __init__(self) -> None:
        super().__init__()
        self._places = [Place(url) for url in os.environ["WORKMANAGER_BENCH_STORES"].split()]

    def fill(self, rows: Sequence[int]) -> None:
        """Make so many rows in each."""
        for place, count in zip(self._places, rows, strict=True):
            place.fill(count)

    def measure(self, times: int) -> dict[str, list[list[float]]]:
        """Milliseconds of each operation in each store, the stores in turn; the first time is for caches."""
        found: dict[str, list[list[float]]] = {}
        for turn in range(times + 1):
            for number, place in enumerate(self._places):
                for name, took in place.operations():
                    if turn:
                        found.setdefault(name, [[] for _ in self._places])[number].append(took)
        return found


if __name__ == "__main__":
    serve(GrowthDriver)
