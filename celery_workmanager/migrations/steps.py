"""Steps for revisions after the first release, which are carried out beside running workers (docs/upgrading.md)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from celery_workmanager.migrations import OLDEST_FACT
from celery_workmanager.mysql import small_index_columns
from celery_workmanager.tables import fact


def add_index(name: str, table: str, columns: list[str], guard: str | None = None) -> None:
    """Make an index of a table with rows, and let its writers go on; rows where `guard` is NULL are left out.

    It must be all that its revision does: on PostgreSQL it is made outside of any transaction. One that was left
    half-made by a process that died is made anew.
    """
    dialect = op.get_bind().dialect.name
    if guard is not None:
        columns = small_index_columns(dialect, guard, *columns)
    where = None if guard is None else sa.text(f"{guard} IS NOT NULL")
    options: dict[str, Any] = {"unique": False, "postgresql_where": where, "sqlite_where": where}
    if dialect != "postgresql":
        op.create_index(name, table, columns, **options)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def fits_only(revision: str) -> None:
    """Note that versions which need less than `revision` can't use the store any more: they refuse it."""
    op.execute(sa.delete(fact).where(fact.c.key == OLDEST_FACT))
    op.execute(sa.insert(fact).values(key=OLDEST_FACT, value=revision))
