"""A world of one's own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.scripted import World
from tests.stores import few_store_addresses, mariadb_store_url, postgresql_store_url, sqlite_template

__all__ = ["few_store_addresses", "mariadb_store_url", "postgresql_store_url", "sqlite_template", "world"]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.store.close()
