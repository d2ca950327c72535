"""Facts about the whole store, and results of ordinary tasks: small key-value tables."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from celery_workmanager.store.upserts import upsert
from celery_workmanager.tables import fact, result


def remember(connection: Connection, key: str, value: str) -> None:
    """Write a fact over the one that was there."""
    connection.execute(upsert(fact, connection, "value"), {"key": key, "value": value})


def put_result(connection: Connection, key: str, value: str, expires_at: int | None) -> None:
    """Write a result over the one that was there."""
    statement = upsert(result, connection, "value", "expires_at")
    connection.execute(statement, {"key": key, "value": value, "expires_at": expires_at})


def results(connection: Connection, keys: Sequence[str], now: int) -> dict[str, str]:
    """The results under `keys` that have not expired."""
    rows = connection.execute(select(result).where(result.c.key.in_(keys)))
    return {row.key: row.value for row in rows if row.expires_at is None or row.expires_at > now}
