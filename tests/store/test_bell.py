"""How the bell is heard: commits to a SQLite file, by what the kernel tells of it or by time, and PostgreSQL's rings.

Looks by time are put so far apart that only what a test is about can have been heard, and counted by what `heard` is
called for; nothing is timed.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import cycle
from math import inf
from pathlib import Path
from threading import BoundedSemaphore
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from celery_workmanager import bell, sqlite_ear
from celery_workmanager.database import Database
from celery_workmanager.inotify import Writes
from celery_workmanager.sqlite_ear import SqliteEar
from celery_workmanager.store import Store
from tests.stores import job, put, wait_until

HOUR = 3600.0
_END_LISTENING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query = 'LISTEN workmanager'"
)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """A migrated store that nobody has opened."""
    shutil.copyfile(sqlite_template, tmp_path / "store.sqlite3")
    return tmp_path / "store.sqlite3"


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is heard in the hour to come only if the kernel tells of it."""
    monkeypatch.setattr(sqlite_ear, "RARELY", HOUR)
    monkeypatch.setattr(sqlite_ear, "LOOK", HOUR)
    monkeypatch.setattr(sqlite_ear, "BURST", inf)


@pytest.fixture
def by_time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long an ear has looked by time, each time it began to."""
    began: list[float] = []
    look = SqliteEar._look_by_time

    def noted(ear: SqliteEar, counter: Any, longest: float = inf) -> None:
        began.append(longest)
        look(ear, counter, longest)

    monkeypatch.setattr(SqliteEar, "_look_by_time", noted)
    return began


@contextmanager
def listening(path: Path, *, told: bool = True) -> Iterator[tuple[Any, list[int]]]:
    """An ear for the file that listens by now, and what grows whenever it hears."""
    heard: list[int] = []
    database = Database(f"sqlite:///{path}")
    ear: Any = bell.listen(database, lambda: heard.append(1))
    ear.start()
    try:
        wait_until(lambda: ear.is_heard and (ear._waker is not None or not told))
        yield ear, heard
    finally:
        ear.stop()
        database.close()


def commit(path: Path) -> None:
    """Commit by a connection that is there for nothing else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version={version + 1}")


def commit_elsewhere(path: Path) -> None:
    """Commit by a process that is there for nothing else."""
    script = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('PRAGMA user_version=700')"
    subprocess.run([sys.executable, "-c", script], check=True)


def refused(_path: Path) -> Any:
    """What a system says whose user watches too much already."""
    raise OSError(errno.EMFILE, "too many")


def is_heard_by(heard: list[int], happens: Callable[[], object]) -> None:
    """Hold that what happens is heard."""
    before = len(heard)
    happens()
    wait_until(lambda: len(heard) > before)


@on_linux
@pytest.mark.usefixtures("only_told")
@pytest.mark.parametrize("happens", [commit, commit_elsewhere])
def test_a_commit_is_told_by_the_kernel(path: Path, happens: Callable[[Path], None]):
    with listening(path) as (_, heard):
        for _ in range(3):
            is_heard_by(heard, partial(commit, path))
        is_heard_by(heard, partial(happens, path))


@on_linux
@pytest.mark.usefixtures("only_told")
def test_a_store_that_is_made_while_somebody_listens_is_heard(tmp_path: Path):
    """Then the log comes after the ear; and it goes and comes again as all other connections do."""
    path = tmp_path / "store.sqlite3"
    with listening(path) as (_, heard):
        for _ in range(3):
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                is_heard_by(heard, partial(commit, path))


@on_linux
@pytest.mark.usefixtures("only_told")
def test_a_store_behind_a_link_is_heard(path: Path, tmp_path: Path):
    """Its log lies beside the file itself."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.sqlite3").symlink_to(path)
    with listening(elsewhere / "link.sqlite3") as (_, heard):
        is_heard_by(heard, partial(commit, path))


@on_linux
@pytest.mark.usefixtures("only_told")
def test_a_commit_that_takes_long_to_reach_the_disk_is_heard_after_it(path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is told of as it is written: the looks go on, although nothing more is told."""
    monkeypatch.setattr(sqlite_ear, "RARELY", 0.05)
    monkeypatch.setattr(sqlite_ear, "LOOK", 0.01)
    looks: list[bool] = []
    has_changed = sqlite_ear._Counter.has_changed

    def slow(counter: Any) -> bool:
        """The first looks find nothing yet, as while a disk takes its time."""
        looks.append(len(looks) >= 15 and has_changed(counter))
        return looks[-1]

    with listening(path) as (_, heard):
        is_heard_by(heard, partial(commit, path))  # what was there at the start doesn't count
        monkeypatch.setattr(sqlite_ear._Counter, "has_changed", slow)
        monkeypatch.setattr(sqlite_ear, "RARELY", HOUR)
        is_heard_by(heard, partial(commit, path))
        assert looks[:15] == [False] * 15


@on_linux
def test_stopping_needs_no_look(path: Path, only_told: None):
    with listening(path) as (ear, _):
        ear.stop()
        assert not ear._thread.is_alive()


def test_where_the_kernel_refuses_it_is_looked_by_time(path: Path, by_time: list[float], monkeypatch: Any):
    monkeypatch.setattr(sqlite_ear, "Writes", refused)
    with listening(path, told=False) as (ear, heard):
        is_heard_by(heard, partial(commit, path))
        assert ear._waker is None
        assert by_time == [inf]
        ear.stop()
        assert not ear._thread.is_alive()


def test_among_greenlets_it_is_looked_by_time(path: Path, by_time: list[float], monkeypatch: pytest.MonkeyPatch):
    """A wait for the kernel would stop them all."""
    monkeypatch.setattr(sqlite_ear, "is_green", lambda: True)
    with listening(path, told=False) as (ear, heard):
        is_heard_by(heard, partial(commit, path))
        assert ear._waker is None


@on_linux
def test_a_file_system_that_tells_nothing_is_noticed(
    path: Path, tmp_path: Path, by_time: list[float], monkeypatch: Any
):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(sqlite_ear, "Writes", lambda _: Writes(other / "never-wal"))
    monkeypatch.setattr(sqlite_ear, "RARELY", sqlite_ear.LOOK)
    with listening(path) as (_, heard):
        for _ in range(sqlite_ear.UNTOLD):
            assert by_time == []
            is_heard_by(heard, partial(commit, path))
        wait_until(lambda: by_time == [inf])
        is_heard_by(heard, partial(commit, path))


@on_linux
def test_a_file_system_that_tells_is_not_taken_for_one_that_does_not(path: Path, by_time: list[float]):
    with listening(path) as (_, heard):
        for _ in range(200):
            is_heard_by(heard, partial(commit, path))
        assert inf not in by_time


def test_looks_come_as_fast_as_by_time_and_some_more_at_once(monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(sqlite_ear, "time", SimpleNamespace(monotonic=lambda: now))
    haste = sqlite_ear._Haste()
    for _ in range(sqlite_ear.BURST):
        haste.look()
        assert not haste.is_over
    for _ in range(100):
        now += sqlite_ear.LOOK
        haste.look()
    haste.look()
    assert haste.is_over
    now += 2 * sqlite_ear.LOOK
    assert not haste.is_over


@on_linux
def test_what_is_told_a_moment_after_the_wait_is_told(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Then the look finds the commit, and what told of it comes to be read after that."""
    monkeypatch.setattr(sqlite_ear, "RARELY", sqlite_ear.LOOK)
    ear: Any = SqliteEar(Database(f"sqlite:///{path}"), lambda: None)
    found: list[int] = []

    def has_changed() -> bool:
        found.append(1)
        if len(found) == 10:
            ear._stopped.set()
        return True

    ready, unused = os.pipe()
    told = cycle([False, True])
    ear._listen_to(SimpleNamespace(descriptor=ready, take=lambda: next(told)), SimpleNamespace(has_changed=has_changed))
    assert len(found) == 10
    os.close(ready)
    os.close(unused)


@on_linux
def test_when_commits_come_too_fast_it_is_looked_by_time_until_they_end(
    path: Path, by_time: list[float], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite_ear._Haste, "is_over", True)
    ended: list[int] = []
    look = SqliteEar._look_by_time

    def noted(ear: SqliteEar, counter: Any, longest: float = inf) -> None:
        look(ear, counter, longest)
        ended.append(1)

    monkeypatch.setattr(SqliteEar, "_look_by_time", noted)
    with listening(path) as (_, heard):
        for count in (1, 2):
            is_heard_by(heard, partial(commit, path))
            wait_until(lambda count=count: len(ended) == count)  # type: ignore[misc]
        assert by_time == [sqlite_ear.CALM] * 2


@on_linux
def test_what_was_written_as_looks_by_time_ended_is_heard(path: Path, monkeypatch: pytest.MonkeyPatch):
    """What told of it is thrown away then, since most of it is old."""
    monkeypatch.setattr(sqlite_ear, "RARELY", HOUR)
    monkeypatch.setattr(sqlite_ear._Haste, "is_over", True)
    look = SqliteEar._look_for_commit
    monkeypatch.setattr(SqliteEar, "_look_for_commit", lambda *how: look(*how) or True)  # it is sure, each time

    def write(_ear: SqliteEar, _counter: Any, longest: float = inf) -> None:
        if longest < inf:
            commit(path)

    monkeypatch.setattr(SqliteEar, "_look_by_time", write)
    with listening(path) as (_, heard):
        commit(path)
        wait_until(lambda: len(heard) == 2)


@on_linux
@pytest.mark.usefixtures("only_told")
def test_only_so_many_ears_of_a_process_are_told(path: Path, monkeypatch: pytest.MonkeyPatch):
    """What tells them is scarce, and all programs of a user share it."""
    monkeypatch.setattr(sqlite_ear, "_seats", BoundedSemaphore(1))
    with listening(path) as (first, _):
        monkeypatch.setattr(sqlite_ear, "LOOK", 0.01)
        with listening(path, told=False) as (second, heard):
            is_heard_by(heard, partial(commit, path))
            assert second._waker is None
        first.stop()
        with listening(path):  # its seat is free again
            pass


# -- what tells of writes ------------------------------------------------------------------------------------


@pytest.fixture
def writes(tmp_path: Path) -> Iterator[tuple[Path, Writes]]:
    file = tmp_path / "the-wal"
    with closing(Writes(file)) as made:
        yield file, made


@on_linux
def test_writes_are_told_once(writes: tuple[Path, Writes]):
    file, told = writes
    assert not told.take()
    file.write_text("made")
    assert told.take()
    assert not told.take()
    file.write_text("written again")
    assert told.take()


@on_linux
def test_a_file_that_went_and_came_again_is_told_of(writes: tuple[Path, Writes]):
    file, told = writes
    for _ in range(3):
        file.write_text("made")
        assert told.take()
        with file.open("a") as still_open:
            still_open.write("more")
        assert told.take()
        file.unlink()
        told.take()
    other = file.with_name("other")
    other.write_text("by another name")
    assert not told.take()
    other.rename(file)
    assert told.take()
    with file.open("a") as moved_here:
        moved_here.write("more")
    assert told.take()


@on_linux
def test_other_files_of_the_folder_are_not_told_of(writes: tuple[Path, Writes]):
    file, told = writes
    file.write_text("made")
    told.take()
    file.with_name("the-wal-2").write_text("another")
    assert not told.take()


@on_linux
def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Writes(tmp_path / "nowhere" / "the-wal")


# -- PostgreSQL ----------------------------------------------------------------------------------------------


@pytest.fixture
def rung(postgresql: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[int]]]:
    """An ear that looks at what has come only when the socket tells."""
    monkeypatch.setattr(bell, "_RARELY", HOUR)
    heard: list[int] = []
    ear: Any = bell.listen(postgresql.database, lambda: heard.append(1))
    ear.start()
    wait_until(lambda: heard)  # it listens
    yield ear, heard
    ear.stop()


def test_a_ring_is_heard_as_it_comes(postgresql: Store, rung: tuple[Any, list[int]]):
    ear, heard = rung
    for _ in range(3):
        is_heard_by(heard, partial(put, postgresql, job()))
    ear.stop()
    assert not ear._thread.is_alive()


def test_a_lost_connection_is_noticed_and_made_again(postgresql: Store, rung: tuple[Any, list[int]]):
    ear, heard = rung
    is_heard_by(heard, partial(put, postgresql, "a"))
    with postgresql.database.plain() as connection:
        assert connection.execute(text(_END_LISTENING)).scalars().all() == [True]
    # It says so when it listens again: something may have been rung meanwhile.
    wait_until(lambda: not ear.is_heard)
    before = len(heard)
    wait_until(lambda: len(heard) > before)
    is_heard_by(heard, partial(put, postgresql, "b"))
