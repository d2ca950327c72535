"""What must always hold, read from the tables after each step of a walk, and compared with the model.

What each is about: 1 nothing is left behind, 2 a change is one guarded statement, 3 finished is final and no child
runs before its parents, 4 one outcome a run, 5 names, 9 counters of parents.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, select

from celery_workmanager.constraints import Constraints
from celery_workmanager.database import Database
from celery_workmanager.lanes import Lane
from celery_workmanager.store.limiting import RECHECK
from celery_workmanager.tables import edge, limit, member, node, permit, run, stop, tag, work
from celery_workmanager.work import State, StopReason
from tests.story.draws import CONSTRAINTS
from tests.story.model import Model
from tests.story.model_words import FINISHED, Job

#: What people see of a work: no change of these without a new version.
_VISIBLE = (
    "worker", "queue", "state", "urgency", "run_at", "run_attempt_count", "runs", "interruptions", "generation",
    "stop_reason", "enqueued_at", "started_at", "finished_at", "options", "input", "output", "progress", "error",
)  # fmt: skip
_READ: Mapping[str, Table] = {
    table.name.removeprefix("workmanager_"): table
    for table in (work, edge, member, tag, node, run, stop, permit, limit)
}


class Watcher:
    """Looks at a store again and again, and remembers what may never change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._before: dict[str, Any] = {}
        #: For ever, also of works that are long deleted.
        self._parents: dict[str, set[str]] = {}
        self._final: dict[str, str] = {}
        self._known: dict[str, Job] = {}

    def look(self, model: Model) -> None:
        """Raise AssertionError when the store isn't as it must be."""
        with self._database.plain() as connection:
            found = {name: connection.execute(select(table)).all() for name, table in _READ.items()}
        rows = {row.id: row for row in found["work"]}
        assert rows.keys() == model.jobs.keys(), "1: what was accepted is there"
        assert {row.id: row.lease_until for row in found["node"]} == model.leases
        self._forget_replaced(model)
        self._graph(rows, [tuple(row[:2]) for row in found["edge"]], model)
        names = {(name, job.id) for job in model.jobs.values() for name in job.names}
        assert {tuple(row) for row in found["member"]} == names, "5: a name held by nobody"
        assert {tuple(row) for row in found["tag"]} == {(j.id, each) for j in model.jobs.values() for each in j.tags}
        limits = {row.key: row for row in found["limit"]}
        for row in rows.values():
            self._one(row, rows, model, limits)
            self._history(row)
        self._ledgers(found["run"], found["stop"], model)
        _room(found["permit"], limits, rows, model)
        self._before = rows

    def _forget_replaced(self, model: Model) -> None:
        """An id that was deleted and enqueued again in one go is a new work."""
        for job in model.jobs.values():
            if self._known.get(job.id) is not job:
                self._known[job.id] = job
                for memory in (self._parents, self._final, self._before):
                    memory.pop(job.id, None)

    def _graph(self, rows: dict[str, Any], edges: list[tuple[Any, ...]], model: Model) -> None:
        assert set(edges) == {(parent, job.id) for job in model.jobs.values() for parent in job.parents}
        for parent, child in edges:
            assert rows[parent].has_children, f"9: {parent} would not release its children"
            assert rows[child].has_parents
            self._parents.setdefault(child, set()).add(parent)

    def _one(self, row: Any, rows: dict[str, Any], model: Model, limits: dict[str, Any]) -> None:
        job = model.jobs[row.id]
        seen = (State(row.state).name, row.run_attempt_count, row.interruptions, row.generation)
        assert seen == (job.state, job.attempts, job.interruptions, job.generation), row
        assert StopReason(row.stop_reason).name == job.stop_reason, row
        claim = None if job.is_finished or row.token is None else (row.node, row.token)
        assert claim == job.claim, "4: one owner, and the one that the model knows"
        assert row.node == (None if job.claim is None else job.claim[0])
        assert row.expires_at == job.expires_at
        self._waiting(row, job, model, limits)
        self._before_it(row, job, rows, model)
        if job.spec.period is not None:
            assert job.is_finished or row.period_at == job.at, "one occurrence is in flight"
            assert (row.period_count, row.override_at) == (job.count, job.override_at)
        else:
            assert row.period_at is None
        if job.is_finished:
            assert row.prune_at is not None, "1: what is finished is not kept for ever"
            assert (row.ready_lane, row.due_at, row.parked_by, row.held) == (None,) * 4
        else:
            assert row.deadline_at == job.deadline_at
            assert row.lane == _lane(job), row

    def _waiting(self, row: Any, job: Job, model: Model, limits: dict[str, Any]) -> None:
        is_delayed = job.state == "ENQUEUED" and job.claim is None and not job.promoted
        assert row.due_at == (job.run_at if is_delayed else None)
        assert bool(row.held) == model.is_held(job)
        if row.parked_by is not None:
            # 1: it is looked at again, whoever dies. (A number of its own, as keys are filled in at the claim.)
            assert row.ready_lane is None
            assert row.parked_by in job.spec.keys
            wake_at = limits[row.parked_by].wake_at
            assert wake_at is not None
            assert wake_at <= model.now + max(RECHECK, 100_000_000), "1: parked, and nobody will look"
            assert model.is_ready(job)
        else:
            assert row.ready_lane == (row.lane if model.is_ready(job) else None), row
        if job.state == "ENQUEUED":
            assert (row.run_at, row.enqueued_at, row.urgency) == (job.run_at, job.enqueued_at, job.urgency), row

    def _before_it(self, row: Any, job: Job, rows: dict[str, Any], model: Model) -> None:
        unfinished = [parent for parent in job.parents if not model.jobs[parent].is_finished]
        assert row.waits_for == (len(unfinished) if job.state == "BLOCKED" else None), "9: the counter is right"
        assert (job.state == "BLOCKED") == bool(unfinished) or job.state in FINISHED, "1: BLOCKED by nobody"
        if job.state in ("ENQUEUED", "RUNNING", "SUCCEEDED"):
            for parent in self._parents.get(row.id, ()):
                state = State(rows[parent].state).name if parent in rows else self._final[parent]
                assert state == "SUCCEEDED", f"3: {row.id} runs before {parent}"

    def _history(self, row: Any) -> None:
        state = State(row.state).name
        if row.id in self._final:
            assert state == self._final[row.id], "3: finished is final"
        elif state in FINISHED:
            self._final[row.id] = state
        before = self._before.get(row.id)
        if before is None:
            return
        assert row.version >= before.version
        changed = [name for name in _VISIBLE if _shown(row, name) != _shown(before, name)]
        assert not changed or row.version > before.version, f"2: {changed} changed without a new version"
        if State(before.state).is_finished:
            assert not changed, f"3: {changed} of a finished work changed"
        assert row.period_count >= before.period_count
        if row.period_count > before.period_count:
            assert row.period_count == before.period_count + 1, "a period was doubled"

    @staticmethod
    def _ledgers(runs: Sequence[Any], stops: Sequence[Any], model: Model) -> None:
        """Each run of a periodic work and each stop has its line, and the last ones are kept."""
        found: dict[str, list[Any]] = {each: [] for each in model.jobs}
        for row in sorted(runs, key=lambda row: row.number):
            found[row.work].append((row.period, row.scheduled_at, row.outcome))
        for each, entries in found.items():
            assert entries == model.jobs[each].history, each
            ended = Counter(period for period, _, outcome in entries if outcome in FINISHED[:2])
            assert not ended or max(ended.values()) == 1, "4: a period has ended twice"
        told: dict[str, list[Any]] = {each: [] for each in model.jobs}
        for row in sorted(stops, key=lambda row: row.number):
            told[row.work].append((StopReason(row.reason).name, row.at, row.run_attempt_count))
        assert told == {job.id: job.stops for job in model.jobs.values()}


def _shown(row: Any, name: str) -> Any:
    """What people see of a column: not what a node keeps among the options, such as which files have changed."""
    if name != "options":
        return getattr(row, name)
    return {key: value for key, value in json.loads(row.options).items() if key not in ("triggered", "deadline")}


def _room(permits: Sequence[Any], limits: dict[str, Any], rows: dict[str, Any], model: Model) -> None:
    """Permits that count are those of runs under their keys; and what a rate has spent is spent."""
    counting = {
        (row.key, row.work)
        for row in permits
        if row.work in rows and rows[row.work].node is not None and rows[row.work].token == row.token
    }
    assert counting == {(key, job.id) for job in model.jobs.values() for key in job.permits}
    for key, full_at in model.limits.rates.full_at.items():
        if full_at > model.now:
            assert limits[key].full_at == full_at, "a rate forgot what it has spent"


def _lane(job: Job) -> int:
    mark = "limit" if job.spec.is_limited else ""
    if job.waits_for_files:
        mark = "trigger"
    asked = Constraints(**CONSTRAINTS[job.asks_for])
    return Lane(job.spec.queue, job.spec.worker, asked, mark).number
