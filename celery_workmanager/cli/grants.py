"""``work grants``: SQL for the roles of a database that use the store."""

from __future__ import annotations

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import command, option
from celery_workmanager.cli.screen import Screen
from celery_workmanager.grants import Role, statements


@command("grants")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.argument("name")
@option("--schema", default="public", show_default=True, help="PostgreSQL: the schema that holds the tables.")
def grants_command(screen: Screen, manager: WorkManager, *, role: str, name: str, schema: str) -> None:
    """Print the SQL that gives a database role NAME (MariaDB: USER@HOST) what it needs, and change nothing.

    Roles: enqueue (stores works), observe (reads), work (runs works, cancels, pauses …), migrate (makes the tables).
    An owner of the tables runs it, once the role exists and again after each upgrade of the tables.
    """
    found = statements(Role(role), name, manager.engine_store.database, schema)
    if screen.as_json:
        screen.json({"role": role, "to": name, "statements": found})
    else:
        screen.say("\n".join(["BEGIN;", *(f"{each};" for each in found), "COMMIT;"]))
