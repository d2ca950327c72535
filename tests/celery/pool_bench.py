"""Figures of an engine alone: no-ops per second, and the parent's processor time for each.

``python -m tests.celery.pool_bench [works] [batch] [pool]``
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from celery_workmanager.outcome import Claim

COUNT = int(os.environ.get("POOL_APP_BENCH", "0"))
BATCH = int(os.environ.get("POOL_APP_BATCH", "1"))
IN_FLIGHT = 256  # as many as a node may have by default


class BenchNode:
    """Keeps a fixed number of no-ops in flight and prints how that went."""

    def __init__(self, worker: Any, engine: Any) -> None:
        self.worker, self.engine = worker, engine
        self.handed = self.ended = 0

    def start(self) -> None:
        self.engine.start(lambda _claim, _at: None, self._ended)
        time.sleep(1)  # the processes come up
        self.began, self.cpu = time.monotonic(), os.times()
        self._fill()

    def _fill(self) -> None:
        while self.handed < COUNT and self.handed - self.ended <= IN_FLIGHT - BATCH:
            self.engine.hand_over([self._claim(self.handed + n) for n in range(BATCH)])
            self.handed += BATCH

    def _claim(self, number: int) -> Claim:
        name = "tests.celery.pool_app.noop"
        given = f'{{"n": {number}, "text": "xxxxxxxx"}}'  # as the benchmarks of whole systems have it
        return Claim(f"0199-{number:012d}", name, "celery", number, "bench", 0, 0, 0, [given], {})

    def _ended(self, claim: Claim, outcome: Any) -> None:
        self.ended += 1
        if self.ended % BATCH == 0:
            self._fill()
        if self.ended == COUNT:
            seconds, now = time.monotonic() - self.began, os.times()
            user, system = (round((now[n] - self.cpu[n]) / COUNT * 1e6, 1) for n in (0, 1))
            facts = {"per_second": round(COUNT / seconds), "parent_user_us": user, "parent_system_us": system}
            folder = Path(os.environ["POOL_APP_FOLDER"])
            (folder / "writing").write_text(json.dumps(facts))
            (folder / "writing").rename(folder / "figures")  # whoever sees it reads all of it

    def shutting_down(self) -> None:
        self.engine.give_back()

    def drain(self, unless: Any) -> None: ...
    def terminate(self) -> None: ...
    def close(self) -> None: ...
    def revoked(self, claim: Claim) -> None: ...


def measure(count: int, batch: int = 1, pool: str = "prefork") -> dict[str, float]:
    """Run `count` no-ops on a real worker's pool, `batch` in each hand-over, two at once."""
    from tests.celery.pool_worker import PoolWorker, wait_until

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        worker = PoolWorker(path, "-c", "2", "-P", pool, "-l", "WARNING", bench=str(count), batch=str(batch))
        worker.launch()
        try:
            wait_until((path / "figures").exists, 120)
            figures: dict[str, float] = json.loads((path / "figures").read_text())
        finally:
            worker.__exit__()
    return figures


def main(count: int = 20_000, batch: int = 1, pool: str = "prefork") -> None:
    """Print the figures."""
    print(pool, "batch", batch, measure(count, batch, pool))


if __name__ == "__main__":
    main(*(int(arg) if arg.isdigit() else arg for arg in sys.argv[1:]))  # type: ignore[arg-type]
