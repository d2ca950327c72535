"""A PostgreSQL of a test's own, which may be stopped and started: the machine's own server is left alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import services

_ROLE = "postgres"


def binaries() -> Path | None:
    """Where initdb and pg_ctl are; None without them."""
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def why_not() -> str | None:
    """Why there can be no cluster of our own here; None when there can."""
    if binaries() is None:
        return "no initdb and pg_ctl (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and not _has_role():
        return "running as root, and there is no user postgres to run a server as"
    return None


def _has_role() -> bool:
    try:
        pwd.getpwnam(_ROLE)
    except KeyError:
        return False
    return True


class Cluster:
    """One server on a free port, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data = folder, folder / "data"
        self._user = _ROLE if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self.port = services.free_port()
        self._run("initdb", "-D", str(self._data), "-U", _ROLE, "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def url(self) -> str:
        """The store's URL, the same after every start."""
        return f"postgresql+psycopg://{_ROLE}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and return once it answers."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: "immediate" is a crash, "fast" throws everybody out."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        place = binaries()
        assert place is not None, why_not()
        command = [str(place / program), *arguments]
        subprocess.run(
            command, check=True, cwd=self._folder, user=self._user, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that is there for the body, and gone without a trace after it."""
    # Not below pytest's own folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="workmanager-pg-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            with suppress(subprocess.CalledProcessError):  # a test may have stopped it
                cluster.stop()
