"""``work migrate``: the store's tables."""

from __future__ import annotations

from celery_workmanager import schema
from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option
from celery_workmanager.cli.screen import Screen
from celery_workmanager.migrations import HEAD


@command("migrate")
@option("--check", is_flag=True, help="Change nothing; exit with 1 unless the tables are up to date.")
def migrate_command(screen: Screen, manager: WorkManager, *, check: bool) -> int:
    """Create or upgrade the store's tables."""
    database = manager.engine_store.database
    if check:
        with database.plain() as connection:
            before = after = schema.revision_of(connection)
        told = f"has schema {before or 'none'}, this version needs {HEAD}"
    else:
        before, after = schema.migrate(database)
        told = "is up to date" if before == after else f"was brought from {before or 'nothing'} to {after}"
    if screen.as_json:
        screen.json({"store": database.shown_url, "before": before, "after": after, "needed": HEAD})
    else:
        screen.say(f"{database.shown_url} {told}", fg="green" if after == HEAD else "red")
    return FINE if after == HEAD else TROUBLE
