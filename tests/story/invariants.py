"""What must always hold, read from the tables after each step of a walk, and compared with the model."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from celery_workmanager.database import Database
from celery_workmanager.tables import edge, member, node, tag, work
from celery_workmanager.work import State
from tests.story.model import FINISHED, Job, Model

#: What people see of a work: no change of these without a new version.
_VISIBLE = (
    "worker", "queue", "state", "urgency", "run_at", "run_attempt_count", "runs", "interruptions", "generation",
    "stop_reason", "enqueued_at", "started_at", "finished_at", "options", "input", "output", "progress", "error",
)  # fmt: skip


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
            rows = {row.id: row for row in connection.execute(select(work))}
            edges = [tuple(row) for row in connection.execute(select(edge.c.parent, edge.c.child))]
            members = {tuple(row) for row in connection.execute(select(member.c.name, member.c.work))}
            tags = {tuple(row) for row in connection.execute(select(tag.c.work, tag.c.tag))}
            nodes = {row.id: row.lease_until for row in connection.execute(select(node))}
        assert rows.keys() == model.jobs.keys()
        assert nodes == model.leases
        self._forget_replaced(model)
        self._graph(rows, edges, model)
        assert members == {(name, job.id) for job in model.jobs.values() for name in job.names}, "a name held by nobody"
        assert tags == {(job.id, each) for job in model.jobs.values() for each in job.tags}
        for row in rows.values():
            self._one(row, rows, model)
            self._history(row)
        self._before = rows

    def _forget_replaced(self, model: Model) -> None:
        """An id that was deleted and enqueued again in one go is a new work."""
        for job in model.jobs.values():
            if self._known.get(job.id) is not job:
                self._known[job.id] = job
                for memory in (self._parents, self._final, self._before):
                    memory.pop(job.id, None)

    def _graph(self, rows: dict[str, Any], edges: list[tuple[str, str]], model: Model) -> None:
        assert set(edges) == {(parent, job.id) for job in model.jobs.values() for parent in job.parents}
        for parent, child in edges:
            assert rows[parent].has_children, f"{parent} would not release its children"
            assert rows[child].has_parents
            self._parents.setdefault(child, set()).add(parent)

    def _one(self, row: Any, rows: dict[str, Any], model: Model) -> None:
        job = model.jobs[row.id]
        seen = (State(row.state).name, row.run_attempt_count, row.interruptions, row.generation)
        assert seen == (job.state, job.attempts, job.interruptions, job.generation), row
        claim = None if job.is_finished or row.token is None else (row.node, row.token)
        assert claim == job.claim
        assert row.node == (None if job.claim is None else job.claim[0])
        assert row.expires_at == job.expires_at
        self._waiting(row, job, rows)
        unfinished = [parent for parent in job.parents if not model.jobs[parent].is_finished]
        assert row.waits_for == (len(unfinished) if job.state == "BLOCKED" else None)
        assert (job.state == "BLOCKED") == bool(unfinished) or job.state in FINISHED

    def _waiting(self, row: Any, job: Any, rows: dict[str, Any]) -> None:
        claimable = job.state == "ENQUEUED" and job.claim is None and job.promoted
        delayed = job.state == "ENQUEUED" and job.claim is None and not job.promoted
        assert row.ready_lane == (row.lane if claimable else None)
        assert row.due_at == (job.run_at if delayed else None)
        if job.state == "ENQUEUED":
            assert (row.run_at, row.enqueued_at, row.urgency) == (job.run_at, job.enqueued_at, job.urgency)
        if job.state in ("ENQUEUED", "RUNNING", "SUCCEEDED"):
            for parent in self._parents.get(row.id, ()):
                state = State(rows[parent].state).name if parent in rows else self._final[parent]
                assert state == "SUCCEEDED", f"{row.id} runs before {parent}"

    def _history(self, row: Any) -> None:
        state = State(row.state).name
        if row.id in self._final:
            assert state == self._final[row.id], "finished is final"
        elif state in FINISHED:
            self._final[row.id] = state
        before = self._before.get(row.id)
        if before is None:
            return
        assert row.version >= before.version
        changed = [name for name in _VISIBLE if getattr(row, name) != getattr(before, name)]
        assert not changed or row.version > before.version, f"{changed} changed without a new version"
