"""A process that forks while it writes: its children can write too."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path

from sqlalchemy import text

from celery_workmanager.database import Database
from celery_workmanager.fork_gate import FORK_GATE


def in_child(work: object) -> bool:
    """Fork, call `work` there, and tell whether it came back without an error."""
    with warnings.catch_warnings(action="ignore"):  # Python warns of what this is about
        pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_children_forked_while_another_thread_writes_can_write(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'store.sqlite3'}", lock_wait=2)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    over = threading.Event()

    def write(number: int, pause: float = 0.0) -> None:
        with database.transaction() as connection:
            connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": number})
            time.sleep(pause)

    def keep_writing() -> None:
        while not over.is_set():
            write(0, 0.004)
            time.sleep(0.01)  # a writer that never pauses would starve others by itself

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        wrote = [in_child(lambda: write(1)) for _ in range(20)]
    finally:
        over.set()
        writer.join()

    assert wrote == [True] * 20
    with database.transaction() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM t WHERE x = 1")).scalar_one() == 20
    database.close()


def test_a_fork_inside_ones_own_transaction_does_not_wait_for_itself():
    started = time.monotonic()
    with FORK_GATE, FORK_GATE:
        assert in_child(lambda: None)
    assert time.monotonic() - started < 1.0


def test_a_child_has_a_gate_of_its_own():
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with FORK_GATE:
            inside.set()
            leave.wait(0.3)

    other = threading.Thread(target=stay)
    other.start()
    inside.wait()

    def enter_and_fork() -> None:
        with FORK_GATE:
            pass
        assert in_child(lambda: None)

    assert in_child(enter_and_fork)
    other.join()


def test_a_child_opens_connections_of_its_own(tmp_path: Path):
    """Sockets and files that both used would carry the answers of one to the other."""
    database = Database(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    with database.plain() as connection:
        connection.execute(text("SELECT 1"))
    parents = database.engine()

    def work() -> None:
        assert database.engine() is not parents
        with database.plain() as connection:
            connection.execute(text("SELECT 1"))

    assert in_child(work)
    assert database.engine() is parents
    database.close()
