"""An environment of its own for each peer, made when it is first asked for and kept beside the project's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.servers import Absent

ROOT = Path(__file__).parents[2]

#: What each peer needs: its packages, and the lowest Python that its present release runs on.
PEERS: dict[str, tuple[list[str], tuple[int, int]]] = {
    "procrastinate": (["procrastinate"], (3, 11)),
    "oban": (["oban", "psycopg[binary]", "uvloop"], (3, 12)),
    "pgqueuer": (["pgqueuer", "asyncpg", "uvloop"], (3, 11)),
    "celery-once": (["celery-once", "celery[redis]"], (3, 11)),
}


def python_of(peer: str) -> str:
    """The interpreter of the peer's environment. Raises Absent when it can't be installed."""
    made = _made(peer)
    folder = made.parent
    packages, lowest = PEERS[peer]
    python = folder / "bin" / "python"
    if made.exists():
        return str(python)
    print(f"Setting up {folder.name} (once) ...", flush=True)
    _do([_interpreter(lowest), "-m", "venv", "--clear", str(folder)], peer)
    _do([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages], peer)
    made.touch()
    return str(python)


def _made(peer: str) -> Path:
    """What is there when the peer's environment is complete."""
    return ROOT / f".venv-bench-{peer}" / ".made"


def version_of(peer: str) -> str:
    """The installed version of the peer, and the Python it runs on. Raises Absent where it isn't installed."""
    if not _made(peer).exists():
        raise Absent(f"{peer} isn't installed")
    code = f"import importlib.metadata as m, platform as p; print(m.version({peer!r}), 'on Python', p.python_version())"
    return subprocess.run([python_of(peer), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _interpreter(lowest: tuple[int, int]) -> str:
    for python in _interpreters():
        test = f"import ensurepip, sys, venv; sys.exit(sys.version_info < {lowest})"
        if subprocess.run([python, "-c", test], capture_output=True, check=False).returncode == 0:
            return python
    raise Absent(f"no Python of at least {lowest[0]}.{lowest[1]}")


def _interpreters() -> Iterator[str]:
    yield sys.executable
    for name in ("python3.13", "python3.12"):
        if found := shutil.which(name):
            yield found
    # pyenv's shims refuse versions that aren't chosen, but the versions are there.
    yield from map(str, sorted((Path.home() / ".pyenv" / "versions").glob("3.1[23]*/bin/python")))


def _do(command: list[str], peer: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"{peer} can't be installed: {(done.stderr or done.stdout).strip().splitlines()[-1][:200]}")
