"""The auditor: compares what was promised, what ran and what the store says, when the storm is over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from celery_workmanager.work import State, WorkInfo
from tests.story.storm import Fault, Notes

Line = dict[str, Any]


class Audit:
    """All checks; `anomalies` is what must be empty."""

    def __init__(self, notes: Notes, infos: list[WorkInfo], runs: list[Line], lease: float) -> None:
        self._notes, self._lease = notes, lease
        self._infos = {info.id: info for info in infos}
        self._starts: dict[str, list[Line]] = defaultdict(list)
        self._ends: dict[str, list[Line]] = defaultdict(list)
        for line in sorted(runs, key=lambda line: line["at"]):
            (self._starts if line["event"] == "start" else self._ends)[line["id"]].append(line)
        self.again = Counter[str]()
        self.anomalies = [*notes.broken]
        for check in (self._nothing_lost, self._parents_first, self._outputs, self._repeats):
            self.anomalies += check()

    def _nothing_lost(self) -> Iterator[str]:
        for each in self._notes.accepted:
            info = self._infos.get(each)
            if info is None:
                # A later call under the same name may have deleted it; nothing else may.
                if each not in self._notes.named:
                    yield f"{each} was accepted and is gone"
            elif not info.state.is_finished and each not in self._notes.delayed:
                yield f"{each} is {info.state.name} for no reason: {info}"
            elif not info.state.is_finished and info.next_schedule_time is None:
                yield f"{each} waits for nothing that can be seen: {info}"
        for each in self._infos.keys() - self._notes.accepted.keys() - self._notes.unsure.keys():
            yield f"{each} was never enqueued"

    def _parents_first(self) -> Iterator[str]:
        for each, info in self._infos.items():
            starts = self._starts.get(each)
            if not starts:
                if info.state is State.SUCCEEDED:
                    yield f"{each} succeeded and never ran"
                continue
            for parent in info.prerequisites:
                before = self._infos.get(parent)
                if before is not None and before.state is not State.SUCCEEDED:
                    yield f"{each} ran, and its parent {parent} is {before.state.name}"
                ended = [line["at"] for line in self._ends.get(parent, ()) if line["said"] == "success"]
                if not ended or min(ended) > starts[0]["at"]:
                    yield f"{each} started before its parent {parent} had ended"

    def _outputs(self) -> Iterator[str]:
        for each, info in self._infos.items():
            if info.state is not State.SUCCEEDED:
                continue
            by = [line for line in self._ends.get(each, ()) if line["pid"] == info.output_data["pid"]]
            if info.output_data["of"] != each or not by:
                yield f"{each} has the output of nobody: {info.output_data}"

    def _repeats(self) -> Iterator[str]:
        for each, starts in self._starts.items():
            ends = self._ends.get(each, [])
            for first, second in pairwise(starts):
                between = [e for e in ends if e["pid"] == first["pid"] and first["at"] <= e["at"] <= second["at"]]
                reason = self._reason(first, second, between)
                self.again[reason or "no reason"] += 1
                if reason is None:
                    faults = self._shortly_before(second["at"])
                    yield f"{each} ran again for no reason: {first} {between} {second}; faults: {faults}"

    def _reason(self, first: Line, second: Line, ends: list[Line]) -> str | None:
        if any(line["said"] == "retry" for line in ends):
            return "it asked for it"
        for fault in self._notes.faults:
            if fault.at <= second["at"] and fault.until >= first["at"] and self._struck(fault, first):
                return fault.kind
        return None

    def _struck(self, fault: Fault, run: Line) -> bool:
        if fault.kind == "worker frozen":
            # Shorter than a lease it must go unnoticed, unless it couldn't be renewed just before it either.
            long_enough = fault.until - fault.at > self._lease * 0.5 or self._store_was_away(fault.at)
            return fault.pid == run["node"] and long_enough
        if fault.kind == "store restarted":
            return True
        return fault.pid in (run["pid"], run["node"])

    def _store_was_away(self, moment: float) -> bool:
        outages = (fault for fault in self._notes.faults if fault.kind == "store restarted")
        return any(moment - self._lease <= fault.until and fault.at <= moment for fault in outages)

    def _shortly_before(self, moment: float) -> list[Fault]:
        return [
            fault for fault in self._notes.faults if moment - 4 * self._lease <= fault.until <= moment + self._lease
        ]

    def table(self, title: str, seconds: float) -> str:
        """What happened, on one screen."""
        states = Counter(info.state.name for info in self._infos.values())
        rows = {
            "accepted": len(self._notes.accepted),
            "answer lost": len(self._notes.unsure),
            "in the store": ", ".join(f"{count} {name}" for name, count in sorted(states.items())),
            "deleted with their names": len(self._notes.accepted.keys() - self._infos.keys()),
            "enqueues refused": _shown(self._notes.refused),
            "runs begun": sum(map(len, self._starts.values())),
            "runs again, because": _shown(self.again),
            "faults": _shown(Counter(fault.kind for fault in self._notes.faults)),
            "anomalies": len(self.anomalies),
        }
        head = f"{title}, {seconds:.0f} s"
        return "\n".join([f"\n{head}", *(f"  {name:<26}{value}" for name, value in rows.items())])


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
