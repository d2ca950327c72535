"""Alembic's entry: runs the scripts on the connection it is handed."""

from __future__ import annotations

from alembic import context

from celery_workmanager.migrations import VERSION_TABLE
from celery_workmanager.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
