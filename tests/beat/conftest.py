"""The fixtures of these tests: see `tests.stores`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FEW_STORES, empty_store
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
    "few_store_addresses",
    "mariadb_store_url",
    "postgresql",
    "postgresql_store_url",
    "server",
    "sqlite_template",
    "store",
]  # fmt: skip


@pytest.fixture(params=FEW_STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """As everywhere, on fewer databases: beats take seconds to start."""
    yield from empty_store(request, tmp_path)
