"""On MySQL each change of a table ends the transaction it is in, so a revision may have been carried out by half.

Run again, it passes over what it finds done. Each of its steps is atomic by itself (InnoDB logs changes of tables).
"""

from __future__ import annotations

from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect


class _Resuming:
    """Steps of a migration that do nothing where they have been done before; what differs is left to the server."""

    connection: Any

    def _tables(self) -> set[str]:
        return set(inspect(self.connection).get_table_names())

    def _columns(self, table: str) -> set[str]:
        return {each["name"] for each in inspect(self.connection).get_columns(table)}

    def _indexes(self, table: str) -> set[str]:
        return {str(each["name"]) for each in inspect(self.connection).get_indexes(table)}

    def create_table(self, table: Any, **options: Any) -> None:
        if table.name not in self._tables() or self._columns(table.name) != {each.name for each in table.columns}:
            super().create_table(table, **options)  # type: ignore[misc]

    def drop_table(self, table: Any, **options: Any) -> None:
        if table.name in self._tables():
            super().drop_table(table, **options)  # type: ignore[misc]

    def add_column(self, table_name: str, column: Any, **options: Any) -> None:
        if column.name not in self._columns(table_name):
            super().add_column(table_name, column, **options)  # type: ignore[misc]

    def drop_column(self, table_name: str, column: Any, **options: Any) -> None:
        if column.name in self._columns(table_name):
            super().drop_column(table_name, column, **options)  # type: ignore[misc]

    def create_index(self, index: Any, **options: Any) -> None:
        if index.name not in self._indexes(index.table.name):
            super().create_index(index, **options)  # type: ignore[misc]

    def drop_index(self, index: Any, **options: Any) -> None:
        if index.name in self._indexes(index.table.name):
            super().drop_index(index, **options)  # type: ignore[misc]


def go_on_where_it_broke_off(context: MigrationContext) -> None:
    """Let the steps of this migration, and of no other, look first."""
    steps: Any = context.impl
    kind: Any = type(steps)
    make: Any = type(kind)
    steps.__class__ = make(f"Resuming{kind.__name__}", (_Resuming, kind), {})
