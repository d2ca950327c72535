"""Stores of these tests: see `tests.stores`."""

from __future__ import annotations

from tests.stores import (
    few_store_addresses,
    mariadb_store_url,
    postgresql,
    postgresql_store_url,
    server,
    sqlite_template,
    store,
)

__all__ = [
    "few_store_addresses", "mariadb_store_url", "postgresql", "postgresql_store_url", "server", "sqlite_template",
    "store",
]  # fmt: skip
