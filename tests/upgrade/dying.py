"""A migration that dies after so many changes of tables: ``python -m tests.upgrade.dying URL STATEMENTS``."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from celery_workmanager import schema
from celery_workmanager.database import Database

_CHANGES = ("CREATE", "ALTER", "DROP")


def migrate_until(url: str, statements: int, die: Callable[[], None]) -> None:
    """Migrate; `die` is called once so many statements have changed tables."""
    counter = itertools.count(1)

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(_CHANGES) and next(counter) >= statements:
            die()

    event.listen(Engine, "after_cursor_execute", count)
    database = Database(url)
    try:
        schema.migrate(database)
    finally:
        event.remove(Engine, "after_cursor_execute", count)
        database.close()


if __name__ == "__main__":
    migrate_until(sys.argv[1], int(sys.argv[2]), lambda: os._exit(9))
