"""What the storm knows of its own doing: an append-only file, so that what a killed producer was about to do is known.

A line says what is tried before it is tried, and another one what came of it. Works write lines of their own into
the side-effect log (`tests.story.story_app`).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "journal"
BUSY = "machine too busy"


@dataclass(frozen=True)
class Fault:
    """Something that was done from `at` to `until` (monotonic); `pid`: to which process, 0 if to a server."""

    kind: str
    pid: int
    at: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.at


@dataclass
class Call:
    """An enqueue: its works with the ids each depends on, and what came of it."""

    edges: dict[str, tuple[str, ...]]
    name: str | None = None
    #: Works that are to wait for longer than any storm.
    delayed: bool = False
    #: None: the answer was lost, they may be stored or not.
    kept: tuple[str, ...] | None = None
    #: The error that promised that nothing was stored.
    refused: str | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether its answer was lost."""
        return self.kept is None and self.refused is None


@dataclass
class Notes:
    """The journal, read."""

    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    #: When the machine was too busy to keep time, which nobody did.
    stalls: list[Fault] = field(default_factory=list)
    #: Errors of calls by their kinds.
    errors: Counter[str] = field(default_factory=Counter)
    #: Other calls by their kinds: cancels, updates.
    asked: Counter[str] = field(default_factory=Counter)
    #: Works that ran on a node when it was killed with nothing else wrong: the pid of that node.
    watched: dict[str, int] = field(default_factory=dict)
    #: What must not happen, as seen by those who noted it.
    broken: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> dict[str, tuple[str, ...]]:
        return {each: call.edges[each] for call in self.calls for each in call.kept or ()}

    @property
    def delayed(self) -> set[str]:
        return {each for call in self.calls if call.delayed for each in call.edges}


class Journal:
    """The writing end. Threads and processes may share the file: a line is one write."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def write(self, event: str, **facts: Any) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(handle, json.dumps({"event": event, **facts}).encode() + b"\n")
        finally:
            os.close(handle)

    def fault(self, kind: str, pid: int, at: float) -> None:
        """Note a fault that began at `at` and is over now."""
        self.write("fault", kind=kind, pid=pid, at=at, until=time.monotonic())

    def stall(self, at: float) -> None:
        """Note that the machine was too busy from `at` until now."""
        self.write("stall", kind=BUSY, pid=0, at=at, until=time.monotonic())


def read(folder: Path) -> Notes:
    """All that was noted."""
    notes, calls = Notes(), dict[str, Call]()
    path = folder / FILE
    for text in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        line = json.loads(text)
        match line.pop("event"):
            case "try" | "kept" | "refused" as what:
                _told(what, line, notes, calls)
            case "fault":
                notes.faults.append(Fault(**line))
            case "stall":
                notes.stalls.append(Fault(**line))
            case "error":
                notes.errors[line["kind"]] += 1
            case "asked":
                notes.asked[line["what"]] += 1
            case "watched":
                notes.watched[line["work"]] = line["pid"]
            case "broken":
                notes.broken.append(line["text"])
    return notes


def _told(what: str, line: dict[str, Any], notes: Notes, calls: dict[str, Call]) -> None:
    """What a producer said of one of its calls, found again by its id."""
    match what:
        case "try":
            edges = {each: tuple(parents) for each, parents in line["edges"].items()}
            calls[line["call"]] = call = Call(edges, line["name"], line["delayed"])
            notes.calls.append(call)
        case "kept":
            calls[line["call"]].kept = tuple(line["ids"])
        case _:
            calls[line["call"]].refused = line["error"]
