"""`celery -A tests.doors.shop_app work …` as a process of its own, with a pipe or a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery_workmanager.store import Store

ROOT = Path(__file__).parents[2]
APP = ["-A", "tests.doors.shop_app"]


def environment(store: Store | None, **more: str) -> dict[str, str]:
    url = {} if store is None else {"SHOP_STORE": store.database.url.render_as_string(hide_password=False)}
    told = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    plain = {name: value for name, value in os.environ.items() if name not in told}
    return {**plain, "TZ": "UTC", "TERM": "xterm", "PYTHONUNBUFFERED": "1", **url, **more}


def celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", *arguments]


def run(store: Store | None, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `celery work …` to its end."""
    return subprocess.run(
        celery(*APP, "work", *arguments),
        cwd=ROOT, env=environment(store, **env), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextmanager
def piped(store: Store, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`celery work …` with its output in a pipe; it is killed if it doesn't end by itself."""
    process = subprocess.Popen(
        celery(*APP, "work", *arguments),
        cwd=ROOT, env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
        process.wait(timeout=30)
    finally:
        process.kill()
        process.communicate()


class Terminal:
    """A process in a terminal of 80 columns."""

    def __init__(self, store: Store, *arguments: str, lines: int = 24) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 80, 0, 0))
        self.process = subprocess.Popen(
            celery(*arguments), cwd=ROOT, env=environment(store), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.raw = ""

    @property
    def text(self) -> str:
        """Everything so far, without colours and with plain line ends."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.raw).replace("\r\n", "\n")

    @property
    def picture(self) -> str:
        """What stands on the screen since it was last drawn over."""
        return re.split(r"\x1b\[\d+F\x1b\[J", self.text)[-1]

    def read_until(self, words: str) -> None:
        """Read on until the picture has these words in it."""
        while words not in self.picture:
            self._read()

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read what is left and return the exit code."""
        try:
            while True:
                self._read()
        except OSError:  # how Linux says that nobody is at the other end any more
            return self.process.wait(timeout=30)

    def _read(self) -> None:
        found = os.read(self._master, 65536)
        if not found:
            raise OSError
        self.raw += found.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(store: Store, *arguments: str, lines: int = 24) -> Iterator[Terminal]:
    """`celery -A tests.doors.shop_app work …` in a terminal."""
    made = Terminal(store, *APP, "work", *arguments, lines=lines)
    try:
        yield made
    finally:
        made.close()
