"""A PgBouncer of a test's own, which lends out its connections to the tests' PostgreSQL by the transaction."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url

from tests import services

_CONFIGURATION = """
[databases]
{name} = host={host} port={port} {login} pool_size={size}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
{more}
"""


def _login(server: URL) -> dict[str, str]:
    given = {"user": server.username, "password": server.password}
    return {key: str(value) for key, value in given.items() if value}


@contextmanager
def pooled(url: str, *, size: int = 3, more: str = "") -> Iterator[str]:
    """The URL of the same database through a pooler with so many connections; `more`: lines of its configuration."""
    server, own = make_url(url), services.free_port()
    login = " ".join(f"{key}='{value}'" for key, value in _login(server).items())
    with tempfile.TemporaryDirectory(prefix="workmanager-pool-") as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                name=server.database, host=server.host or "127.0.0.1", port=server.port or 5432,
                login=login, size=size, own=own, more=more,
            )
        )  # fmt: skip
        command = [services.find("pgbouncer"), "-q", str(configuration)]
        # It refuses to be root.
        user = "nobody" if os.geteuid() == 0 else None
        process = subprocess.Popen(command, user=user, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        try:
            deadline = time.monotonic() + 60
            while not services.listens(own):
                assert process.poll() is None, "PgBouncer has ended"
                assert time.monotonic() < deadline, "PgBouncer doesn't listen"
                time.sleep(0.01)
            yield server.set(host="127.0.0.1", port=own, password=None).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()
