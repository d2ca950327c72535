"""The fixtures of these tests: see `tests.stores`."""

from __future__ import annotations

from tests.stores import postgresql_store_url, server, sqlite_template, store, store_address

__all__ = ["postgresql_store_url", "server", "sqlite_template", "store", "store_address"]
