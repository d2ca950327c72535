"""How many works a node takes at once, from how long they took lately. Pure.

A long work that is claimed early waits behind another one while a second node may be idle; a short one that is claimed
late leaves a process waiting for the database. So short works are taken ahead, some milliseconds' worth, and others one
by one as processes become free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from celery_workmanager.outcome import Claim

#: Works that usually end within this (seconds) are short.
SHORT = 0.01
#: How much work (seconds) may lie ready for each process.
AHEAD = 0.04
#: How much work (seconds) goes to a process in one hand-over, and how many works at most.
HAND_OVER = 0.005
MOST_TOGETHER = 32
#: The weight of the newest run in the average.
_NEWEST = 0.2
#: An average counts as known after this many runs.
_ENOUGH = 3
#: A run is expected to take at least this long: the cost of handing it over.
_LEAST = 0.0001


class Running(Protocol):
    """What the pace looks at in a run."""

    claim: Any
    started_at: float | None


class Pace:
    """The typical run time of each worker, and what follows from it."""

    def __init__(self, max_in_flight: int) -> None:
        self._max = max_in_flight
        self._typical: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def learn(self, worker: str, runtime: float) -> None:
        """Take the run time (seconds) of one more run into the average; a long one counts at once."""
        known = self._typical.get(worker)
        if known is None or runtime > SHORT:
            self._typical[worker] = runtime
        else:
            self._typical[worker] = known + _NEWEST * (runtime - known)
        self._seen[worker] = self._seen.get(worker, 0) + 1

    def is_short(self, worker: str) -> bool:
        """Whether runs of `worker` have lately been short, and there were enough of them to say so."""
        return self._seen.get(worker, 0) >= _ENOUGH and self._typical[worker] < SHORT

    def expected(self, worker: str) -> float:
        """How long a run of a short worker is expected to take, in seconds."""
        return max(_LEAST, self._typical.get(worker, SHORT))

    def room(self, workers: Iterable[str], runs: Collection[Running], processes: int, now: float) -> int:
        """How many more works to claim when works of `workers` are ready, with `runs` in hand."""
        names = list(workers)
        if not all(map(self.is_short, names)):
            return processes - len(runs)
        busy = sum(not self._is_brief(run, now) for run in runs)
        free = processes - busy
        each = AHEAD / max(self.expected(name) for name in names)
        return min(self._max, round(free * max(1.0, each)) + busy) - len(runs)

    def _is_brief(self, run: Running, now: float) -> bool:
        if not self.is_short(run.claim.worker):
            return False
        return run.started_at is None or now - run.started_at < SHORT

    def batches(self, claims: Sequence[Claim], processes: int) -> Iterator[list[Claim]]:
        """`claims` in hand-overs: short works together, spread over the `processes`, all others alone."""
        most = min(MOST_TOGETHER, -(-len(claims) // max(1, processes)))
        batch: list[Claim] = []
        load = 0.0
        for claim in claims:
            if not self._may_share(claim):
                yield [claim]
                continue
            cost = self.expected(claim.worker)
            if batch and (len(batch) >= most or load + cost > HAND_OVER):
                yield batch
                batch, load = [], 0.0
            batch.append(claim)
            load += cost
        if batch:
            yield batch

    def _may_share(self, claim: Claim) -> bool:
        limited = "time_limit" in claim.options or "soft_time_limit" in claim.options
        return not limited and not claim.start_written and self.is_short(claim.worker)
