"""One storm from its beginning to its audit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import text

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State, WorkManager
from celery_workmanager.query import WorkQuery
from celery_workmanager.timing import micros
from celery_workmanager.work import WorkInfo
from tests.chaos import history, journal
from tests.chaos.audit import Audit, Evidence
from tests.chaos.canary import Canary
from tests.chaos.faults import Rage
from tests.chaos.journal import Journal
from tests.chaos.last_act import LastAct
from tests.chaos.load import NAMES, PERIODIC, Producers
from tests.chaos.place import Place, place_of
from tests.story import story_app

#: Seconds without any run after which nothing more is to be expected.
QUIET = 60.0
_UNFINISHED = WorkQuery.from_states(State.ENQUEUED, State.RUNNING, State.BLOCKED)
#: Rows that point to works that aren't there.
_DANGLING = {
    "members": "SELECT m.name FROM workmanager_member m LEFT JOIN workmanager_work w ON w.id = m.work"
    " WHERE w.id IS NULL",
    "permits": "SELECT p.{key} FROM workmanager_permit p LEFT JOIN workmanager_work w ON w.id = p.work"
    " AND w.token = p.token WHERE w.id IS NULL",
}


@dataclass
class Storm:
    """What came of a storm."""

    title: str
    seed: int
    seconds: float
    audit: Audit
    skipped: list[str]
    lease: float


def run(
    kind: str,
    seconds: float,
    seed: int,
    *,
    pause: float = 0.5,
    lease: float = 5.0,
    deaths: int = 3,
    keep: Path | None = None,
) -> Storm:
    """A storm of so many seconds on one kind of place, and so many deaths in the calm after it.

    Its producers wait up to `pause` between two calls.
    """
    begun = time.monotonic()
    with place_of(kind, keep) as (place, stack):
        place.lease = lease
        place.prepare()
        producer, auditor = place.producer(), place.auditor()
        for each in (producer, auditor):
            stack.callback(each.app.close)  # its connections to the broker
            stack.callback(each.store.close)
        notes = Journal(place.folder)
        canary = Canary(place.direct, notes, lease)
        stack.callback(canary.stop)
        canary.start()
        place.start(stack)
        place.await_nodes(auditor)  # a fault that strikes before anybody works proves nothing
        producers = Producers(producer, notes, seed, pause)
        producers.load.begin_periods()
        producers.start()
        try:
            Rage(place, notes, random.Random(seed)).last(seconds)
        finally:
            producers.stop()
        until = auditor.clock.now()
        if _comes_to_rest(place, auditor, notes, until):
            _play(LastAct(place, auditor, producers.load, notes), deaths, notes)
        evidence = _evidence(place, auditor, notes, until)
        return Storm(place.title, seed, time.monotonic() - begun, Audit(evidence), place.skipped, lease)


def _comes_to_rest(place: Place, manager: WorkManager, notes: Journal, until: int) -> bool:
    waits_long = journal.read(place.folder).delayed
    rests = _comes_true(lambda: _is_calm(manager, waits_long) and _is_caught_up(manager, place, until), place)
    if not rests:
        notes.write("broken", text=f"not at rest, and no run for {QUIET:g} s")
    return rests


def _play(act: LastAct, deaths: int, notes: Journal) -> None:
    try:
        act.play(deaths)
    except AssertionError as error:
        notes.write("broken", text=f"the last act: {error}")


def _evidence(place: Place, manager: WorkManager, notes: Journal, until: int) -> Evidence:
    """Gather what there is to be seen."""
    for worker in (*place.workers, *place.beats):
        if not worker.is_alive:
            notes.write("broken", text=f"{worker.name} has ended by itself:\n{worker.log[-2000:]}")
    manager.cancel_all_work_by_tag(PERIODIC)
    waits_long = journal.read(place.folder).delayed
    _comes_true(lambda: _is_calm(manager, waits_long), place)
    unheld = _unheld(manager, place)
    infos = manager.get_work_infos(WorkQuery())
    probes = {info.id for info in infos if "probe" in info.tags}
    with manager.store.database.plain() as connection:
        steps = [step for step in history.steps(connection) if step.work not in probes]
    waiting = [info.id for info in infos if not info.state.is_finished]
    return Evidence(
        notes=journal.read(place.folder),
        infos=[info for info in infos if info.id not in probes],
        steps=steps,
        lines=story_app.lines(place.folder),
        lease=place.lease,
        explained={each for each in waiting if manager.explain(each).reasons},
        unheld=unheld,
        until=until,
    )


def _comes_true(condition: Callable[[], bool], place: Place) -> bool:
    """Whether it comes true, as long as works still run: a busy machine may take its time."""
    log, begun = place.folder / "runs", 0
    while (size := log.stat().st_size) > begun:
        begun, end = size, time.monotonic() + QUIET
        while time.monotonic() < end:
            if condition():
                return True
    return False


def _is_calm(manager: WorkManager, waits_long: set[str]) -> bool:
    # Asked for no more than their ids: the nodes' way to the store leads through this process, which would be busy.
    left = manager.store.versions(_UNFINISHED).keys() - waits_long
    time.sleep(0.3)
    return left <= manager.store.versions(WorkQuery(periodic=True)).keys()


def _is_caught_up(manager: WorkManager, place: Place, until: int) -> bool:
    latest: dict[str, int] = {}
    for line in story_app.lines(place.folder):
        if line["event"] == "period":
            latest[line["id"]] = max(latest.get(line["id"], 0), line["of"])
    periodic = manager.get_work_infos(WorkQuery(periodic=True))
    return all(_is_current(each, latest, until) for each in periodic)


def _is_current(info: WorkInfo, latest: dict[str, int], until: int) -> bool:
    about = info.periodicity_info
    assert about is not None
    assert about.repeat_interval is not None
    return latest.get(info.id, 0) >= until - micros(about.repeat_interval)


def _has_finished(manager: WorkManager, work_id: str) -> bool:
    info = manager.get_work_info_by_id(work_id)
    return info is not None and info.state.is_finished


def _unheld(manager: WorkManager, place: Place) -> list[str]:
    """Use every name once more: all that carried one has finished, so nothing may be in the way."""
    found = []
    for name in NAMES:
        request = OneTimeWorkRequest(manager.app.tasks["story.step"], tags={"probe"})
        operation = manager.enqueue_unique_work(name, ExistingWorkPolicy.KEEP, request)
        if not operation.applied:
            found.append(f"{name!r} is held by finished works")
        elif not _comes_true(partial(_has_finished, manager, request.id), place):
            found.append(f"a work under {name!r} doesn't run")
    key = manager.store.database.engine().dialect.identifier_preparer.quote("key")
    with manager.store.database.plain() as connection:
        for what, query in _DANGLING.items():
            rows = connection.execute(text(query.format(key=key))).scalars().all()
            found += [f"{what} without a work: {each}" for each in rows]
    return found
