"""What processes and databases take, looked at again and again."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy import Connection, text

from tests.soak.load import Load

_MIB = 1024 * 1024
_POSTGRESQL = text(
    "SELECT sum(pg_table_size(relid)) AS tables, sum(pg_indexes_size(relid)) AS indexes, sum(n_dead_tup) AS dead"
    " FROM pg_stat_user_tables WHERE relname LIKE 'workmanager_%'"
)
_CONNECTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
_ROWS = text("SELECT count(*) FROM workmanager_work")


class Samples:
    """A row of numbers every few seconds, sizes in MiB."""

    def __init__(self, store: str, load: Load, every: float) -> None:
        self.store, self._load, self._every = store, load, every
        self.rows: list[dict[str, float]] = []
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self.rows.append(self._sample())

    def _sample(self) -> dict[str, float]:
        row = {
            "minutes": (time.monotonic() - self._begun) / 60,
            "caller": _pss([psutil.Process()]),
            "enqueued": float(self._load.enqueued),
        }
        with suppress(psutil.Error):
            parent = psutil.Process(self._load.worker.pid)
            children = parent.children()
            row |= {
                "parent": _pss([parent]),
                "children": _pss(children),
                "files": float(parent.num_fds()),
                "threads": float(parent.num_threads()),
            }
        with self._load.manager.store.database.plain() as connection:
            row |= self._of_store(connection)
        row["finished"] = float(_lines(self._load.folder / "runs") // 2)
        return row

    def _of_store(self, connection: Connection) -> dict[str, float]:
        found = {"rows": float(connection.execute(_ROWS).scalar_one())}
        if self.store == "postgresql":
            sizes = connection.execute(_POSTGRESQL).one()
            found |= {"tables": float(sizes.tables) / _MIB, "indexes": float(sizes.indexes) / _MIB}
            found |= {"dead": float(sizes.dead), "connections": float(connection.execute(_CONNECTIONS).scalar_one())}
            return found
        path = str(self._load.manager.store.database.url.database)
        size = sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))  # noqa: PTH110, PTH202
        free = connection.execute(text("PRAGMA freelist_count")).scalar_one()
        page = connection.execute(text("PRAGMA page_size")).scalar_one()
        return found | {"tables": size / _MIB, "free": free * page / _MIB}


def _pss(processes: list[psutil.Process]) -> float:
    """Their memory, where pages that they share count in parts."""
    total = 0
    for each in processes:
        with suppress(psutil.Error):
            total += each.memory_full_info().pss
    return total / _MIB


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
