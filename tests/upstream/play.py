"""Playing files of the suite on a side: pytest with all that the side needs, again until every test has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.services import RedisServer
from tests.upstream.sides import ENVIRONMENT, Assignment, Side

REPOSITORY = Path(__file__).parents[2]
PLUGINS = ("-p", "celery.contrib.pytest", "-p", "tests.upstream.plugin")
#: From the suite's own configuration, which lies in another folder.
CONFIGURATION = "[pytest]\naddopts = --strict-markers\npython_classes = test_*\nxfail_strict = true\n"
#: Exit codes of a pytest that came to its own end.
ENDED = (0, 1, 5)
#: Seconds for a file, on top of which nothing is waited for.
PATIENCE = 3600
#: How often a process may die before the rest of its file counts as broken.
DEATHS = 5
_interrupted = threading.Event()
_running: set[subprocess.Popen[bytes]] = set()
_WORST_FIRST = ("failed", "skipped", "passed")


@dataclass(frozen=True)
class Ending:
    """How a test ended: passed, skipped or failed, with the last line of what it said."""

    outcome: str
    said: str = ""
    seconds: float = 0.0


def played(
    side: Side, suite: Path, tests: Sequence[str], folder: Path, options: Sequence[str] = ()
) -> dict[str, Ending]:
    """Play `tests` (files, or tests of one file, as pytest names them) and return how each of them ended."""
    folder.mkdir(parents=True)
    record = folder / "record.jsonl"
    record.touch()
    redis = RedisServer(folder)
    redis.start()
    try:
        for attempt in range(DEATHS):
            if _interrupted.is_set():
                break
            store = f"sqlite:///{folder / f'store{attempt}.sqlite3'}" if side.durable else None
            ended = _process(side, Assignment(str(record), store), suite, [*tests, *options], folder, redis)
            if ended:
                break
    finally:
        redis.stop()
    return endings(record)


def _process(
    side: Side, assignment: Assignment, suite: Path, arguments: Sequence[str], folder: Path, redis: RedisServer
) -> bool:
    """Run pytest once; whether it came to its own end."""
    (suite / "pytest.ini").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "--tb=short", "-W", "default", *PLUGINS, *arguments]
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=suite,
            env=_environment(side, assignment, redis),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.add(process)
        try:
            return process.wait(PATIENCE) in ENDED
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill(process)
            process.wait()
            _running.discard(process)


def interrupt() -> None:
    """End all that is being played, for somebody who doesn't want to wait."""
    _interrupted.set()
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The workers' own processes are of its session.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(side: Side, assignment: Assignment, redis: RedisServer) -> Mapping[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        # As in the suite's tox.ini: some tests read the log.
        "WORKER_LOGLEVEL": "INFO",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "TEST_BROKER": redis.url,
        "TEST_BACKEND": side.backend or redis.url,
        ENVIRONMENT: json.dumps(asdict(assignment)),
    }


def endings(record: Path) -> dict[str, Ending]:
    """How the tests of a record ended; one that was begun and never ended has failed."""
    found: dict[str, Ending] = {}
    for line in _lines(record):
        name = line["test"].removeprefix("t/integration/")
        if "outcome" not in line:
            found.setdefault(name, Ending("failed", "never ended"))
            continue
        new, old = Ending(line["outcome"], line["said"], line["seconds"]), found.get(name)
        if old is None or old.said == "never ended" or _worse(new, old):
            found[name] = new
    return found


def _worse(one: Ending, other: Ending) -> bool:
    return _WORST_FIRST.index(one.outcome) < _WORST_FIRST.index(other.outcome)


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    for line in record.read_text().splitlines():
        yield json.loads(line)


def stamp() -> str:
    """A name for a folder of this run."""
    return time.strftime("%Y%m%d-%H%M%S")
