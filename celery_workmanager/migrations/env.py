"""Alembic's entry: runs the scripts on the connection it is handed."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, Table, Text, event
from sqlalchemy.dialects.mysql import LONGTEXT

from celery_workmanager import mysql
from celery_workmanager.migrations import LOCK_WAIT, VERSION_TABLE
from celery_workmanager.migrations.resuming import go_on_where_it_broke_off
from celery_workmanager.tables import metadata

connection = context.config.attributes["connection"]


def _as_elsewhere(table: Table, connection: Connection, **_: Any) -> None:
    """On MySQL: texts of any length, and names that differ if any character does ("a" is neither "A" nor "a ")."""
    if connection.dialect.name in mysql.DIALECTS:
        options = {
            "engine": "InnoDB",
            "charset": "utf8mb4",
            "collate": mysql.collation(is_mariadb=mysql.is_mariadb(connection)),
        }
        table.dialect_kwargs.update({f"{connection.dialect.name}_{key}": value for key, value in options.items()})
        for column in table.columns:
            if isinstance(column.type, Text):
                column.type = LONGTEXT()


def _wait_briefly(connection: Connection) -> None:
    # Whoever wants the table after us waits behind us: a long transaction of somebody's would stop them all.
    connection.exec_driver_sql(f"SELECT set_config('lock_timeout', '{LOCK_WAIT}s', true)")


if connection.dialect.name == "postgresql":
    event.listen(connection, "begin", _wait_briefly)
context.configure(
    connection=connection, target_metadata=metadata, version_table=VERSION_TABLE, transaction_per_migration=True
)
if connection.dialect.name in mysql.DIALECTS:
    go_on_where_it_broke_off(context.get_context())
event.listen(Table, "before_create", _as_elsewhere)
try:
    with context.begin_transaction():
        context.run_migrations()
finally:
    event.remove(Table, "before_create", _as_elsewhere)
