"""A real ``celery worker`` in a subprocess, running the toy app, and what a test wants to ask it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

APP = "tests.celery.pool_app"
ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], deadline: float = 20.0, what: str = "") -> Any:
    """Return the first true value of ``condition()``; fail when there is none within ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.01)
    return value


class PoolWorker:
    """One worker of the toy app; a context manager that leaves no process behind."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder, self.options, self.environment = folder, options, environment
        self.process: subprocess.Popen[bytes]
        (folder / "claims").touch()

    def __enter__(self) -> Self:
        self.launch()
        wait_until(lambda: self.events("ready"), what="the node starts")
        return self

    def launch(self) -> None:
        """Start the process."""
        environment = {
            **os.environ,
            "POOL_APP_FOLDER": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            **{f"POOL_APP_{name.upper()}": value for name, value in self.environment.items()},
        }
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", "-l", "INFO", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    # What it is told

    def claim(self, worker: str, *ids: str, **facts: Any) -> None:
        """Let it claim works of this worker."""
        lines = [json.dumps({"id": work_id, "worker": f"{APP}.{worker}", **facts}) for work_id in ids]
        with (self.folder / "claims").open("ab") as file:
            file.write("".join(line + "\n" for line in lines).encode())

    def stop_work(self, work_id: str, reason: str = "CANCELLED_BY_APP", grace: float | None = None) -> None:
        with (self.folder / "claims").open("ab") as file:
            file.write(json.dumps({"stop": work_id, "reason": reason, "grace": grace}).encode() + b"\n")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, deadline: float = 30.0) -> int:
        """Wait until the worker has exited and return its exit code."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not exit within {deadline} s: {self.log()[-3000:]}") from None

    # What is seen of it

    def lines(self, file: str) -> list[dict[str, Any]]:
        path = self.folder / file
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines("outcomes") if line["event"] == kind]

    def outcomes(self, ending: str | None = None) -> list[dict[str, Any]]:
        ended = self.events("ended")
        return [line for line in ended if ending is None or line["ending"] == ending]

    def outcome(self, work_id: str, deadline: float = 20.0) -> dict[str, Any]:
        """Wait for the outcome of a work and return it."""
        found = wait_until(
            lambda: [line for line in self.outcomes() if line["id"] == work_id], deadline, f"{work_id} ends"
        )
        return dict(found[0])

    def ran(self, file: str = "ran") -> Counter[str]:
        """How often each work ran."""
        return Counter(line["id"] for line in self.lines(file))

    def runs_now(self, work_id: str) -> int:
        """Wait until a work runs; return the process that runs it."""
        found = wait_until(
            lambda: [line for line in self.lines("ran") if line["id"] == work_id], what=f"{work_id} runs"
        )
        return int(found[-1]["pid"])

    def children(self) -> list[int]:
        """The pool's processes, alive and not zombies."""
        found = subprocess.run(
            ["ps", "-o", "pid=,stat=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split("\n")
        rows = [line.split() for line in found if line.strip()]
        return [int(pid) for pid, stat in rows if not stat.startswith("Z")]

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
