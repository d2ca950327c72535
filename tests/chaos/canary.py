"""The canary: notes when the machine is too busy to keep time, so that no promise is blamed for it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from tests.chaos.journal import Journal

_PAUSE = 0.2
#: The part of a lease that an undisturbed look at the store may take.
PATIENCE = 0.1


class Canary:
    """Asks the store for nothing (of SQLite: for its lock), by a way that no fault lies on, until it is stopped."""

    def __init__(self, url: str, journal: Journal, lease: float) -> None:
        # A connection for each question: nodes that lost theirs make new ones.
        self._engine, self._journal, self._patience = create_engine(url, poolclass=NullPool), journal, PATIENCE * lease
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sing, name="canary", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        self._engine.dispose()

    def _sing(self) -> None:
        while not self._over.is_set():
            at = time.monotonic()
            self._over.wait(_PAUSE)
            with suppress(SQLAlchemyError, OSError), self._engine.connect() as connection:
                connection.execute(text("BEGIN IMMEDIATE" if self._engine.dialect.name == "sqlite" else "SELECT 1"))
                connection.rollback()
            # A fault that lasts as long is noted, too: trouble of two kinds at a time counts once.
            if time.monotonic() - at - _PAUSE > self._patience:
                self._journal.stall(at)
