"""A reference model of the store: plain dictionaries, written from the meaning of the words and not from the code.

It is small enough to be read in one go, and knows nothing of SQL, plans or verdicts. Times are in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SECOND = 1_000_000
FINISHED = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class Spec:
    """What a request asks for."""

    worker: str
    delay: int = 0
    backoff: int = 30 * SECOND
    priority: int = 0
    expedited: bool = False
    expires: int | None = None
    max_attempts: int | None = None
    tags: frozenset[str] = frozenset()
    input: str = "{}"


@dataclass
class Job:
    """A work as the model sees it."""

    id: str
    spec: Spec
    state: str
    parents: list[str]
    names: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    attempts: int = 0
    interruptions: int = 0
    generation: int = 0
    created_at: int = 0
    enqueued_at: int | None = None
    run_at: int = 0
    expires_at: int | None = None
    promoted: bool = False
    privileged: bool = False
    claim: tuple[str, int] | None = None
    last_token: int | None = None
    output: str | None = None
    finished_at: int | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def urgency(self) -> int:
        return 255 - self.spec.priority - (256 if self.privileged else 0)


@dataclass
class Head:
    """One step of an enqueue: works with the same parents; the first step of a named chain has a policy."""

    works: list[tuple[str, Spec]]
    parents: list[str] = field(default_factory=list)
    name: str | None = None
    policy: str = "KEEP"


class Model:
    """All works there are, and the rules by which they move."""

    def __init__(self, now: int, retention: int, max_interruptions: int) -> None:
        self.now, self.retention, self.max_interruptions = now, retention, max_interruptions
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, int] = {}

    # -- looking --------------------------------------------------------------------------------------------------

    def children(self, parent: str) -> list[Job]:
        return [job for job in self.jobs.values() if parent in job.parents]

    def below(self, roots: Iterable[str]) -> dict[str, Job]:
        found: dict[str, Job] = {}
        todo = list(roots)
        while todo:
            for child in self.children(todo.pop()):
                if child.id not in found:
                    found[child.id] = child
                    todo.append(child.id)
        return found

    def claimable(self) -> list[Job]:
        ready = [
            job
            for job in self.jobs.values()
            if job.state == "ENQUEUED"
            and job.claim is None
            and job.promoted
            and (job.expires_at is None or job.expires_at > self.now)
        ]
        return sorted(ready, key=lambda job: (job.urgency, job.run_at))

    # -- enqueue --------------------------------------------------------------------------------------------------

    def enqueue(self, heads: list[Head]) -> tuple[list[str], list[str]]:
        """Store, and tell which ids were stored and which skipped."""
        stored: list[str] = []
        skipped: list[str] = []
        kept: set[str] = set()
        swallowed: list[str] = []
        leaves: dict[str, list[str]] = {}
        first = [head for head in heads if head.name and not head.parents]
        for head in sorted(first, key=lambda head: head.name or ""):
            found = self._apply(head)
            if found is None:
                kept.add(head.name or "")
            else:
                leaves[head.name or ""] = found
        for head in heads:
            is_first = head.name is not None and not head.parents
            parents = leaves.get(head.name or "", []) if is_first else head.parents
            if (is_first and head.name in kept) or any(parent in swallowed for parent in parents):
                swallowed += [each for each, _ in head.works]
                skipped += [each for each, _ in head.works]
                continue
            for each, spec in head.works:
                (skipped if each in self.jobs else stored).append(each)
                self._insert(each, spec, parents, head.name)
        return stored, skipped

    def _apply(self, head: Head) -> list[str] | None:
        members = [job for job in self.jobs.values() if head.name in job.names]
        if head.policy == "KEEP" and any(job.state in ("ENQUEUED", "RUNNING") for job in members):
            return None
        leaves = sorted(job.id for job in members if not self.children(job.id))
        broken = any(self.jobs[leaf].state in ("FAILED", "CANCELLED") for leaf in leaves)
        if head.policy == "APPEND" or (head.policy == "APPEND_OR_REPLACE" and not broken):
            return leaves
        self.cancel(job.id for job in members if not job.is_finished)
        for job in members:
            self._delete(job.id)
        return []

    def _insert(self, each: str, spec: Spec, parents: list[str], name: str | None) -> None:
        if each not in self.jobs:
            states = {self.jobs[parent].state for parent in parents}
            state: str = "ENQUEUED" if states <= {"SUCCEEDED"} else "BLOCKED"
            state = next((one for one in ("FAILED", "CANCELLED") if one in states), state)
            job = Job(each, spec, state, list(dict.fromkeys(parents)), privileged=spec.expedited, run_at=self.now)
            job.created_at = self.now
            job.expires_at = None if spec.expires is None else self.now + spec.expires
            self.jobs[each] = job
            if state == "ENQUEUED":
                self._release(job)
            elif state in FINISHED:
                self._finish(job, state)
        self.jobs[each].tags |= spec.tags
        if name is not None:
            self.jobs[each].names.add(name)

    def _release(self, job: Job) -> None:
        job.state = "ENQUEUED"
        job.enqueued_at = self.now
        self._wait_until(job, self.now + job.spec.delay)

    def _wait_until(self, job: Job, run_at: int) -> None:
        job.run_at, job.promoted = run_at, run_at <= self.now

    def _delete(self, each: str) -> None:
        del self.jobs[each]
        for job in self.jobs.values():
            if each in job.parents:
                job.parents.remove(each)

    def retry(self, old: str, new: str) -> bool:
        """Run a finished work again as a new one; only if nothing it depends on stands in its way."""
        job = self.jobs[old]
        if not job.is_finished or any(self.jobs[parent].state != "SUCCEEDED" for parent in job.parents):
            return False
        again = Job(new, job.spec, "ENQUEUED", list(job.parents), set(job.names), set(job.tags))
        again.privileged = job.privileged
        again.created_at = self.now
        self.jobs[new] = again
        again.enqueued_at = self.now
        self._wait_until(again, self.now)
        return True

    def update(self, each: str, spec: Spec) -> str:
        job = self.jobs[each]
        if job.is_finished:
            return "NOT_APPLIED"
        job.spec, job.tags, job.generation = spec, set(spec.tags), job.generation + 1
        job.privileged = spec.expedited
        job.expires_at = None if spec.expires is None else job.created_at + spec.expires
        if job.claim is not None:
            return "APPLIED_FOR_NEXT_RUN"
        if job.state == "ENQUEUED":
            self._wait_until(job, self._next_run(job.enqueued_at or 0, job.attempts, spec))
        return "APPLIED_IMMEDIATELY"

    @staticmethod
    def _next_run(enqueued_at: int, attempts: int, spec: Spec) -> int:
        wait = spec.backoff * 2 ** (attempts - 1) if attempts else spec.delay
        return enqueued_at + min(wait, 5 * 3600 * SECOND if attempts else wait)

    # -- runs -----------------------------------------------------------------------------------------------------

    def start(self, each: str, token: int) -> bool:
        job = self.jobs.get(each)
        if job is None or job.claim is None or job.claim[1] != token or job.state != "ENQUEUED":
            return False
        job.state, job.attempts = "RUNNING", job.attempts + 1
        return True

    def owns(self, each: str, token: int) -> bool:
        job = self.jobs.get(each)
        return job is not None and job.claim is not None and job.claim[1] == token

    def has_succeeded_by(self, each: str, token: int) -> bool:
        job = self.jobs.get(each)
        return job is not None and job.state == "SUCCEEDED" and job.last_token == token

    def succeed(self, each: str, attempts: int, output: str) -> None:
        job = self.jobs[each]
        job.attempts, job.output = attempts + 1, output
        self._finish(job, "SUCCEEDED")

    def release_children(self, of: Iterable[str]) -> None:
        for parent in of:
            for child in self.children(parent):
                if child.state == "BLOCKED" and all(self.jobs[one].state == "SUCCEEDED" for one in child.parents):
                    self._release(child)

    def fail(self, each: str, attempts: int) -> None:
        job = self.jobs[each]
        job.attempts = attempts
        self._finish(job, "FAILED")
        for child in self.below([each]).values():
            if not child.is_finished:
                self._finish(child, "FAILED")

    def go_back(self, each: str, run_at: int, attempts: int, *, is_retry: bool = False) -> None:
        job = self.jobs[each]
        job.state, job.claim, job.attempts = "ENQUEUED", None, attempts
        if is_retry:
            job.enqueued_at, job.privileged = self.now, False
        self._wait_until(job, run_at)

    def retry_later(self, each: str, attempts: int, after: int | None) -> None:
        """A run asked to be run again; `attempts` counts the runs before it."""
        spec = self.jobs[each].spec
        if spec.max_attempts is not None and attempts + 1 >= spec.max_attempts:
            self.fail(each, attempts + 1)
            return
        wait = self._next_run(0, attempts + 1, spec) if after is None else after
        self.go_back(each, self.now + wait, attempts + 1, is_retry=True)

    def give_back(self, each: str, attempts: int, generation: int | None = None) -> None:
        """The system took the run away, or it never began: as if not claimed, unless it was changed since."""
        job = self.jobs[each]
        changed = generation is not None and generation != job.generation
        run_at = self._next_run(job.enqueued_at or 0, attempts, job.spec) if changed else job.run_at
        self.go_back(each, run_at, attempts)

    def lose(self, each: str, attempts: int, generation: int | None = None) -> None:
        """The process died under the run."""
        job = self.jobs[each]
        job.interruptions += 1
        if job.interruptions >= self.max_interruptions:
            self.fail(each, attempts + 1)
        else:
            self.give_back(each, attempts, generation)

    def heal(self, lost: Iterable[str]) -> None:
        for node in lost:
            self.leases.pop(node, None)
            for job in sorted(self.jobs.values(), key=lambda job: job.id):
                if job.claim is None or job.claim[0] != node:
                    continue
                if job.state == "RUNNING":
                    self.lose(job.id, job.attempts - 1)
                else:
                    self.give_back(job.id, job.attempts)

    def _finish(self, job: Job, state: str) -> None:
        job.last_token = None if job.claim is None else job.claim[1]
        job.state, job.claim, job.expires_at, job.finished_at = state, None, None, self.now

    # -- cancelling and time ----------------------------------------------------------------------------------------

    def cancel(self, roots: Iterable[str]) -> list[str]:
        start = [each for each in roots if each in self.jobs]
        doomed = [self.jobs[each] for each in sorted({*start, *self.below(start)}) if not self.jobs[each].is_finished]
        for job in doomed:
            self._finish(job, "CANCELLED")
        return [job.id for job in doomed]

    def promote(self) -> None:
        for job in self.jobs.values():
            if job.state == "ENQUEUED" and job.claim is None and job.run_at <= self.now:
                job.promoted = True

    def expire(self) -> list[str]:
        waiting = [job for job in self.jobs.values() if not job.is_finished and job.claim is None]
        due = [job.id for job in waiting if job.expires_at is not None and job.expires_at <= self.now]
        return self.cancel(due)

    def prune(self, *, only_expired: bool) -> int:
        gone = [
            job.id
            for job in self.jobs.values()
            if job.is_finished
            and all(child.is_finished for child in self.children(job.id))
            and not (only_expired and (job.finished_at or 0) + self.retention > self.now)
        ]
        for each in gone:
            self._delete(each)
        return len(gone)
