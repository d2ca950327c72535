"""The last act of a storm: all is at rest, nothing else is wrong, and nodes die in the middle of a work."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from celery_workmanager import WorkManager
from tests.chaos import journal
from tests.chaos.journal import Journal, Notes
from tests.chaos.load import Load
from tests.chaos.place import Place
from tests.chaos.runs import Faults
from tests.story import story_app
from tests.story.workers import StoryWorker, wait_until

#: For each death that is to be measured beyond the first: as many more may be spoiled by stalls of the machine.
_SPARE = 2
#: Works that are tried until one begins on a node that may die.
_DRAWS = 60
_DEATH = "worker killed"
#: Where the files are that end works.
_RELEASED = "released"


class LastAct:
    """Nodes that die one after the other; the works' own log says when what they ran began again."""

    def __init__(self, place: Place, auditor: WorkManager, load: Load, notes: Journal) -> None:
        self._place, self._auditor, self._load, self._notes = place, auditor, load, notes
        self._number = 0
        #: When what a killed node ran began again, by the pid of that node.
        self._again: dict[int, float] = {}
        (place.folder / _RELEASED).mkdir()

    def play(self, deaths: int) -> None:
        """Let so many nodes die undisturbed, each worker in turn."""
        try:
            self._play(deaths)
        finally:
            self._release()  # whatever went wrong, no work is held for ever

    def _play(self, deaths: int) -> None:
        victims: list[StoryWorker] = []
        most = deaths + _SPARE * (deaths - 1)
        while len(self._again) < most and self._undisturbed() < deaths:
            # Who is far away first: that it is dead is seen by its lease alone.
            victims = victims or list(self._place.far or self._place.workers)
            victim, work = self._draw(victims)
            victims.remove(victim)
            self._die(victim, work)

    def _draw(self, victims: list[StoryWorker]) -> tuple[StoryWorker, str]:
        """A work that runs, and goes on until it is released, on one of these workers."""
        for _ in range(_DRAWS):
            since = (self._place.folder / "runs").stat().st_size
            work = self._load.hold(self._next())
            begun = wait_until(partial(self._beginning, work, since), what="a held work begins")
            for victim in victims:
                if victim.pid == begun["node"]:
                    return victim, work
            self._release()
        raise AssertionError(f"none of {_DRAWS} works began on {[each.name for each in victims]}")

    def _die(self, victim: StoryWorker, work: str) -> None:
        """Kill it, and start it again once another node has begun the work."""
        self._await_quiet()
        since, pid, at = (self._place.folder / "runs").stat().st_size, victim.pid, time.monotonic()
        self._notes.write("watched", work=work, pid=pid)
        try:
            victim.end()
            self._notes.fault(_DEATH, pid, at)
            # A successor on the same machine would see at once that it is dead.
            begun = wait_until(lambda: self._beginning(work, since), self._place.lease + 60, what=f"{work} runs again")
            self._again[pid] = begun["at"]
        finally:
            self._release()
            victim.start()
        self._place.await_nodes(self._auditor)

    def _undisturbed(self) -> int:
        """How many deaths had nothing else happen from a lease before until what the node ran began again."""
        notes = self._read()
        deaths = [each for each in notes.faults if each.kind == _DEATH and each.pid in self._again]
        faults = Faults([*notes.faults, *notes.stalls], self._place.lease)
        lease = self._place.lease
        return sum(not faults.disturbs(each.at - lease, self._again[each.pid], but=each) for each in deaths)

    def _await_quiet(self) -> None:
        """Wait until the last trouble is a lease ago."""
        notes = self._read()
        last = max((each.until for each in (*notes.faults, *notes.stalls)), default=float("-inf"))
        time.sleep(max(0.0, last + self._place.lease - time.monotonic()))

    def _next(self) -> str:
        self._number += 1
        return f"{_RELEASED}/{self._number}"

    def _release(self) -> None:
        """Let the work that was held last come to its end."""
        (self._place.folder / _RELEASED / str(self._number)).touch()

    def _beginning(self, work: str, since: int) -> dict[str, Any] | None:
        """The first run of it that was logged after the first `since` bytes."""
        logged = story_app.lines(self._place.folder, since)
        return next((line for line in logged if line["event"] == "start" and line["id"] == work), None)

    def _read(self) -> Notes:
        return journal.read(self._place.folder)
