"""A command line over a store whose time is held: see `tests.stores`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_workmanager import Worker, WorkManager
from celery_workmanager.cli import work
from celery_workmanager.store import Store
from tests.stores import (
    WORKER,
    few_store_addresses,
    make_store,
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
]


@dataclass
class Answer:
    """What a command printed (both streams), and its exit code."""

    code: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Shell:
    """`celery -A shop work …` in this process, with the store and the clock of a test."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.app.task(base=Worker, name=WORKER, shared=False)(_bake)
        self.manager = WorkManager(self.app, store_url=store.database.url.render_as_string(hide_password=False))
        vars(self.manager).update(store=store, clock=store.clock)

    def __call__(self, *arguments: str, input: str | None = None) -> Answer:
        context = CLIContext(self.app, no_color=False, workdir=None)
        done = CliRunner().invoke(work, arguments, input=input, obj=context)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Answer(done.exit_code, done.output)


def _bake(**_: Any) -> None:
    """Nothing: no test of the command line runs it."""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moments are told by the clock on the wall: hang it where every machine has the same."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def shell(store: Store) -> Shell:
    """The command line over each store in turn."""
    return Shell(store)


@pytest.fixture
def file(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    """A migrated, empty SQLite store, for tests of what is printed."""
    path = tmp_path / "store.sqlite3"
    shutil.copyfile(sqlite_template, path)
    made = make_store(f"sqlite:///{path}")
    yield made
    made.close()


@pytest.fixture
def on_file(file: Store) -> Shell:
    """The command line over an SQLite store."""
    return Shell(file)
