"""Alembic migrations of the store's tables."""

from __future__ import annotations

#: The revision this version of the package needs; a test holds it equal to the newest script.
HEAD = "0006"
VERSION_TABLE = "workmanager_version"


def small_index_columns(dialect: str, guard: str, *columns: str) -> list[str]:
    """The columns of an index that leaves out rows where `guard` is NULL.

    MySQL has no partial indexes: there `guard` leads them, so that those rows lie together at one end.
    """
    leads = dialect in ("mysql", "mariadb") and guard not in columns
    return [guard, *columns] if leads else list(columns)
