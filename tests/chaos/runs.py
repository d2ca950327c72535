"""Runs, as the works themselves logged them, and what may have made the storm repeat one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.chaos.journal import BUSY, Fault

Line = dict[str, Any]

#: Faults of the store's server: for everybody.
OF_STORE = frozenset({
    "database crashed", "database restarted", "database slow", "database refuses", "database unreachable",
    "store locked by somebody", "disk full",
})  # fmt: skip
#: For everybody, too.
_OF_ALL = OF_STORE | {BUSY}
#: Faults that end a process.
KILLS = frozenset({"child killed", "worker killed"})
#: Faults that part a node from the store for a while.
PARTINGS = ("worker frozen", "node cut off")
#: The part of a lease that trouble must last to end a run: less must go unnoticed.
NOTICED = 0.35
#: A crash may take claims of the last moments with it (they are not flushed to the disk): seconds.
UNFLUSHED = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Moments are monotonic seconds; `of` is the occurrence of a periodic work."""

    work: str
    token: int
    pid: int
    node: int
    begun: float
    of: int | None = None
    ended: float | None = None
    #: How it ended: success, failure, retry, backoff or stopped.
    said: str | None = None


def runs_of(lines: Iterable[Line]) -> list[Run]:
    """All runs in the order of their beginnings."""
    found: list[Run] = []
    open_runs: dict[tuple[str, int, int], int] = {}
    for line in sorted(lines, key=lambda line: line["at"]):
        key = (line["id"], line["token"], line["pid"])
        if line["event"] in ("start", "period"):
            open_runs[key] = len(found)
            found.append(Run(line["id"], line["token"], line["pid"], line["node"], line["at"], line.get("of")))
        else:
            number = open_runs.pop(key)
            said = line.get("said") or ("stopped" if line["stopped"] else "success")
            found[number] = replace(found[number], ended=line["at"], said=said)
    return found


def repeats(runs: Iterable[Run]) -> Iterator[tuple[Run, Run]]:
    """Each run that was followed by another of the same work (and the same occurrence), with that one."""
    last: dict[tuple[str, int | None], Run] = {}
    for run in runs:
        before = last.get((run.work, run.of))
        if before is not None:
            yield before, run
        last[run.work, run.of] = run


def _length(trouble: Iterable[Fault]) -> float:
    """Seconds for which there was any of it."""
    total, covered = 0.0, float("-inf")
    for each in sorted(trouble, key=lambda fault: fault.at):
        total += max(0.0, each.until - max(each.at, covered))
        covered = max(covered, each.until)
    return total


class Faults:
    """What the storm did, asked for the reason of something."""

    def __init__(self, faults: Sequence[Fault], lease: float) -> None:
        self._lease = lease
        self._all = sorted(faults, key=lambda fault: fault.at)
        self._by_pid: dict[int, list[Fault]] = defaultdict(list)
        for fault in self._all:
            self._by_pid[fault.pid].append(fault)
        self._of_store = [fault for fault in self._all if fault.kind in _OF_ALL]

    def reason(self, first: Run, second: Run) -> str | None:
        """Why `first` was followed by `second`; None: it must not have been."""
        if first.said in ("retry", "backoff"):
            return "it asked for it"
        for fault in (*self._by_pid[first.pid], *self._by_pid[first.node]):
            if fault.kind in KILLS and first.begun <= fault.until and fault.at <= second.begun:
                return fault.kind
        for fault in self._of_store:
            if fault.kind == "database crashed" and fault.at - UNFLUSHED <= first.begun <= fault.until:
                return fault.kind
        return self._parted(first, second)

    def _parted(self, first: Run, second: Run) -> str | None:
        """Trouble in getting to the store may add up, as long as no lease lies between."""
        mine = [fault for fault in self._by_pid[first.node] if fault.kind.startswith(PARTINGS)]
        since = first.begun - self._lease
        trouble = [fault for fault in (*mine, *self._of_store) if since <= fault.until and fault.at <= second.begun]
        if _length(trouble) < NOTICED * self._lease:
            return None
        return max(trouble, key=lambda fault: fault.seconds).kind

    def froze(self, run: Run) -> bool:
        """Whether the node of a run was frozen while it ran."""
        frozen = (fault for fault in self._by_pid[run.node] if fault.kind.startswith("worker frozen"))
        return any(fault.until >= run.begun and (run.ended is None or fault.at <= run.ended) for fault in frozen)

    def disturbs(self, since: float, until: float, but: Fault) -> bool:
        """Whether anything else was done to nodes or store in that time."""
        return any(
            fault is not but and fault.at <= until and fault.until >= since
            for fault in self._all
            if fault.kind in _OF_ALL or fault.kind in KILLS or fault.kind.startswith(PARTINGS)
        )

    def deaths(self) -> Iterator[Fault]:
        """What takes a node away for longer than its lease."""
        for fault in self._all:
            if fault.kind == "worker killed" or (fault.kind.startswith(PARTINGS) and fault.seconds > self._lease):
                yield fault

    def near(self, moment: float) -> list[Fault]:
        """What was done shortly before, to be read by a person."""
        return [fault for fault in self._all if moment - 4 * self._lease <= fault.until <= moment + self._lease]
