"""How many statements a worker has executed on SQLite, where no server counts them: a number in a mapped file."""

from __future__ import annotations

import mmap
import os
import sqlite3
from itertools import count
from pathlib import Path
from typing import Any

#: The variable that names the file.
STATEMENTS = "WORKMANAGER_BENCH_STATEMENTS"
_SIZE = 8


class Counter:
    """The number, as the one who measures sees it; it begins with 0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(_SIZE))
        self._view = _mapped(path)

    def read(self) -> int:
        """How many there were so far."""
        return int(self._view[0])


def count_here() -> None:
    """From now on count what SQLAlchemy's connections with SQLite execute, if the environment names a file.

    The bell's own connection, which reads nothing but ``data_version``, isn't one of them.
    """
    from sqlalchemy import Engine, event

    path = os.environ.get(STATEMENTS)
    if path is None:
        return
    view, numbers = _mapped(Path(path)), count(1)

    def executed(_statement: str) -> None:
        view[0] = next(numbers)

    def connected(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(executed)

    event.listen(Engine, "connect", connected)


def _mapped(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
