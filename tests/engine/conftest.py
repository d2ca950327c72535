"""A world of one's own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.scripted import World
from tests.stores import mariadb_store_url, postgresql_store_url, sqlite_template, store_address

__all__ = ["mariadb_store_url", "postgresql_store_url", "sqlite_template", "store_address", "world"]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.store.close()
