"""Claims where an UPDATE doesn't tell what it wrote (MySQL, MariaDB): rows are locked as they are read, then taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Update, union_all

from celery_workmanager.tables import work


def heads(arms: Sequence[Select[Any]]) -> Any:
    """One statement for the heads of all lanes; each of `arms` reads those of one, in order."""
    # Without an index that is in order it would lock all that is ready, to sort it.
    ordered = [among_ready(arm) for arm in arms]
    return ordered[0] if len(ordered) == 1 else union_all(*ordered)


def among_ready(statement: Select[Any]) -> Select[Any]:
    """`statement` by the index of claimable works, whatever the planner thinks of it."""
    return statement.with_hint(work, "FORCE INDEX (workmanager_work_ready)", "*")


def claim(
    connection: Connection, found: Any, taking: Update, binds: Mapping[str, Any], order: Callable[[Any], Any]
) -> Sequence[Any]:
    """Lock the rows that `found` finds, and take the first of them, as many as ``binds["most"]`` says."""
    rows = sorted(connection.execute(found, binds), key=order)[: binds["most"]]
    if not rows:
        return []
    taken = connection.execute(taking, {**binds, "ids": [row.id for row in rows]})
    return rows if taken.rowcount else []
