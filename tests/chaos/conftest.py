"""The fixtures of these tests: see `tests.stores`."""

from __future__ import annotations

from tests.stores import (
    mariadb_store_url,
    postgresql_store_url,
    sqlite_template,
    store,
    store_address,
)

__all__ = ["mariadb_store_url", "postgresql_store_url", "sqlite_template", "store", "store_address"]
