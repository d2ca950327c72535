"""The order of the examination: who can't be asked keeps the others from being asked about him."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery_workmanager.app import WorkManager
from celery_workmanager.database import time_of
from celery_workmanager.doctor import broker, configuration, fleet, storage, timekeepers
from celery_workmanager.doctor.finding import Finding, Severity
from celery_workmanager.overview import census
from celery_workmanager.queries import pauses
from celery_workmanager.store import leasing, scheduling


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the examination and what it found."""

    name: str
    findings: tuple[Finding, ...]
    #: What was seen and is nobody's fault, in a sentence; "" when there is nothing to tell.
    told: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether nothing but notes were found."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


def examine(manager: WorkManager, *, patience: float = 1.0) -> Iterator[Check]:
    """Examine the manager's app, its store, nodes and broker; nothing is changed, and no table is created.

    `patience`: seconds for workers to answer over the broker.
    """
    app = manager.app
    app.loader.import_default_modules()
    app.finalize()
    yield _check("configuration", configuration.examine(manager))
    heard, found = broker.examine(app, patience)
    yield _check("broker", found)
    if configuration.mistakes(manager):
        return
    store = _check("store", storage.examine(manager))
    yield store
    if any(finding.code in storage.CLOSED for finding in store.findings):
        return
    yield from _examine_fleet(manager, heard)


def _examine_fleet(manager: WorkManager, heard: dict[str, Any]) -> Iterator[Check]:
    with manager.engine_store.database.plain() as connection:
        moment = time_of(connection)
        seen = fleet.Seen(
            leasing.nodes(connection),
            census(connection),
            time.time_ns() // 1000 if moment is None else moment,
            heard,
            pauses(connection),
        )
        schedules = scheduling.schedules(connection)
    yield _check("nodes", fleet.examine_nodes(manager, seen))
    findings = tuple(timekeepers.examine_time(manager, seen, schedules))
    yield Check("time", findings, timekeepers.told(manager, seen, schedules))
    yield _check("queues", fleet.examine_queues(manager, seen))


def _check(name: str, findings: Iterator[Finding]) -> Check:
    return Check(name, tuple(findings))
