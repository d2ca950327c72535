"""What Django's migrations say in the words of the store's own: which revision of the schema they have reached."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from celery_workmanager.migrations import VERSION_TABLE


def revision_is(now: str, before: str | None) -> Any:
    """An operation that notes revision `now`, or `before` when it is taken back (``None``: there was no store).

    The table is no model's, so a flush between two tests leaves it alone.
    """
    return migrations.RunSQL(_noting(now), [f"DROP TABLE {VERSION_TABLE}"] if before is None else _noting(before))


def _noting(revision: str) -> list[str]:
    return [
        f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        f"DELETE FROM {VERSION_TABLE}",  # noqa: S608 - constants
        f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{revision}')",  # noqa: S608
    ]
