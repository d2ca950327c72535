"""The fixtures of these tests: see `tests.stores`."""

from __future__ import annotations

from tests.stores import (
    mariadb_store_url,
    postgresql,
    postgresql_store_url,
    server,
    sqlite_template,
    store,
    store_address,
)

__all__ = [
    "mariadb_store_url", "postgresql", "postgresql_store_url", "server", "sqlite_template", "store", "store_address",
]  # fmt: skip
