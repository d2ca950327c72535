"""``work migrate``: the store's tables."""

from __future__ import annotations

from celery_workmanager import schema
from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option
from celery_workmanager.cli.screen import Screen
from celery_workmanager.migrations import HEAD


@command("migrate")
@option("--check", is_flag=True, help="Change nothing; exit with 1 unless this version can use the tables.")
def migrate_command(screen: Screen, manager: WorkManager, *, check: bool) -> int:
    """Create or upgrade the store's tables."""
    database = manager.engine_store.database
    after: str | None
    if check:
        with database.plain() as connection:
            before = after = schema.revision_of(connection)
            fits = after == HEAD or (schema.is_later(after) and schema.oldest_fitted(connection) <= HEAD)
        told = f"has schema {before or 'none'}, this version needs {HEAD}"
    else:
        (before, after), fits = schema.migrate(database), True
        told = "is up to date" if before == after else f"was brought from {before or 'nothing'} to {after}"
    if fits and schema.is_later(after):
        told = f"has schema {after} of a later version, which fits this one ({HEAD}) as well"
    if screen.as_json:
        screen.json({"store": database.shown_url, "before": before, "after": after, "needed": HEAD, "fits": fits})
    else:
        screen.say(f"{database.shown_url} {told}", fg="green" if fits else "red")
    return FINE if fits else TROUBLE
