"""A reference model of the store: plain dictionaries, written from the meaning of the words and not from the code.

It is small enough to be read in one go, and knows nothing of SQL, plans or verdicts: `model_words` says what a work is,
`model_runs` how runs begin and end, `model_periods` when periodic work runs, `model_limits` what may run at once.
"""

from __future__ import annotations

from tests.story.model_periods import after_update, first_moment
from tests.story.model_runs import Runs
from tests.story.model_words import NOT_STOPPED, Head, Job, Refused, Spec


class Model(Runs):
    """All works there are, and the rules by which they move."""

    # -- enqueue --------------------------------------------------------------------------------------------------

    def enqueue(self, heads: list[Head]) -> tuple[list[str], list[str]]:
        """Store, and tell which ids were stored and which skipped."""
        stored: list[str] = []
        skipped: list[str] = []
        kept: set[str] = set()
        swallowed: list[str] = []
        leaves: dict[str, list[Job]] = {}
        first = [head for head in heads if head.name and not head.parents]
        for head in sorted(first, key=lambda head: head.name or ""):
            found = self._apply(head)
            if found is None:
                kept.add(head.name or "")
            else:
                leaves[head.name or ""] = found
        for head in heads:
            is_first = head.name is not None and not head.parents
            follows = [job.id for job in leaves.get(head.name or "", [])] if is_first else head.parents
            if (is_first and head.name in kept) or any(parent in swallowed for parent in follows):
                swallowed += [each for each, _ in head.works]
                skipped += [each for each, _ in head.works]
                continue
            parents = leaves.get(head.name or "", []) if is_first else [self.jobs[parent] for parent in head.parents]
            for each, spec in head.works:
                (skipped if each in self.jobs else stored).append(each)
                self._insert(each, spec, parents, head.name)
        return stored, skipped

    def _apply(self, head: Head) -> list[Job] | None:
        members = [job for job in self.jobs.values() if head.name in job.names]
        if head.policy == "KEEP" and any(job.state in ("ENQUEUED", "RUNNING") for job in members):
            return None
        leaves = sorted((job for job in members if not self.children(job.id)), key=lambda job: job.id)
        broken = any(leaf.state in ("FAILED", "CANCELLED") for leaf in leaves)
        if head.policy == "APPEND" or (head.policy == "APPEND_OR_REPLACE" and not broken):
            return leaves
        self._clear(members)
        return []

    def _clear(self, members: list[Job]) -> None:
        self.cancel(job.id for job in members if not job.is_finished)
        for job in members:
            self._delete(job.id)

    def enqueue_periodic(self, each: str, spec: Spec, name: str, policy: str) -> tuple[list[str], list[str]]:
        """Store periodic work under a unique name; tells as `enqueue`. Raises Refused."""
        members = [job for job in self.jobs.values() if name in job.names]
        if policy != "UPDATE" or not members:
            return self.enqueue([Head([(each, spec)], [], name, "KEEP" if policy == "KEEP" else "REPLACE")])
        if len(members) > 1 or members[0].spec.period is None:
            raise Refused
        if members[0].state == "CANCELLED":
            self._clear(members)
        elif members[0].is_finished:
            return [], [each]
        else:
            self.update(members[0].id, spec)
            return [], []
        return self.enqueue([Head([(each, spec)], [], name, "APPEND")])

    def _insert(self, each: str, spec: Spec, parents: list[Job], name: str | None) -> None:
        if each not in self.jobs:
            # Another name of this call may have cancelled what this one appends to, or deleted it after that.
            states = {parent.state for parent in parents}
            state: str = "ENQUEUED" if states <= {"SUCCEEDED"} else "BLOCKED"
            state = next((one for one in ("FAILED", "CANCELLED") if one in states), state)
            left = [parent.id for parent in parents if self.jobs.get(parent.id) is parent]
            job = Job(each, spec, state, list(dict.fromkeys(left)), run_at=self.now)
            job.privileged = spec.expedited is not None
            job.created_at = self.now
            job.expires_at = None if spec.expires is None else self.now + spec.expires
            if spec.period is None and spec.deadline is not None:
                job.deadline_at = job.decided_deadline = self.now + spec.deadline
            self.jobs[each] = job
            if state == "ENQUEUED":
                self._begin(job)
            elif job.is_finished:
                self.finish(job, state)
        self.jobs[each].tags |= spec.tags
        if name is not None:
            self.jobs[each].names.add(name)

    def _begin(self, job: Job) -> None:
        if job.spec.period is None:
            self.release(job)
            return
        at = first_moment(job.spec, self.now)
        assert at is not None or job.spec.override is not None, "the walk asks for nothing that ends before it begins"
        job.override_at, job.enqueued_at = job.spec.override, self.now
        job.at = at if at is not None else job.override_at or 0
        self.wait_until(job, self.next_run(job))
        self._new_deadline(job)

    def _delete(self, each: str) -> None:
        del self.jobs[each]
        for job in self.jobs.values():
            if each in job.parents:
                job.parents.remove(each)

    def retry(self, old: str, new: str) -> None:
        """Run a finished work again as a new one. Raises Refused when something that it depends on stands in its way.

        What was seen and decided on the way is kept: changes of files, and when its deadline is.
        """
        job = self.jobs[old]
        if not job.is_finished or any(self.jobs[parent].state != "SUCCEEDED" for parent in job.parents):
            raise Refused
        again = Job(new, job.spec, "ENQUEUED", list(job.parents), set(job.names), set(job.tags))
        again.privileged, again.triggered, again.created_at = job.privileged, job.triggered, self.now
        again.enqueued_at = self.now
        if job.spec.period is None:
            again.deadline_at = again.decided_deadline = job.decided_deadline
            self.wait_until(again, self.now)
        else:
            at = first_moment(job.spec, self.now)
            if at is None:
                raise Refused
            again.at = at
            self.wait_until(again, at)
            self._new_deadline(again)
        self.jobs[new] = again

    # -- changes --------------------------------------------------------------------------------------------------

    def update(self, each: str, spec: Spec) -> str:
        """Give an unfinished work another specification. Raises Refused."""
        job = self.jobs[each]
        if job.is_finished:
            return "NOT_APPLIED"
        if (spec.period is None) != (job.spec.period is None):
            raise Refused
        is_claimed = job.claim is not None
        if job.spec.period is not None and (not is_claimed or job.has_completed):
            self._move_period(job, spec)  # first: it may be refused
        if spec.override is not None or spec.clears_override:
            job.override_at, job.override_is_new = spec.override, is_claimed and not job.has_completed
        job.spec, job.tags, job.generation = spec, set(spec.tags), job.generation + 1
        job.privileged, job.triggered, job.is_free = spec.expedited is not None, False, False
        job.expires_at = None if spec.expires is None else job.created_at + spec.expires
        if not is_claimed:
            job.stop_reason = NOT_STOPPED
            if job.state == "ENQUEUED":
                self.wait_until(job, self.next_run(job))
        elif job.has_completed:
            attempts, job.attempts = job.attempts, 0
            job.run_at, job.attempts = self.next_run(job), attempts
        self._set_deadline(job)
        return "APPLIED_FOR_NEXT_RUN" if is_claimed else "APPLIED_IMMEDIATELY"

    def _move_period(self, job: Job, spec: Spec) -> None:
        at = after_update(job, job.spec, spec)
        override = spec.override if spec.override is not None or spec.clears_override else job.override_at
        if at is None and override is None:
            raise Refused
        job.at = at if at is not None else override or 0

    def _set_deadline(self, job: Job) -> None:
        job.deadline_at = job.decided_deadline = None
        if job.spec.period is not None:
            self._new_deadline(job)
        elif job.spec.deadline is not None:
            job.deadline_at = job.decided_deadline = job.created_at + job.spec.deadline

    def run_now(self, each: str) -> bool:
        """Let it wait for its moment no longer; one that is BLOCKED loses its delay."""
        job = self.jobs[each]
        if job.is_finished:
            raise Refused
        if job.state == "BLOCKED" and job.spec.delay:
            job.spec = Spec(**{**job.spec.__dict__, "delay": 0})
            return True
        if job.state == "ENQUEUED" and not job.promoted:
            self.wait_until(job, self.now)
            return True
        return False

    # -- time -----------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        for job in self.jobs.values():
            if job.state == "ENQUEUED" and job.claim is None and job.run_at <= self.now:
                job.promoted = True

    def pass_deadlines(self) -> None:
        """From its deadline on a work waits for no constraint."""
        for job in self.jobs.values():
            if not job.is_finished and job.deadline_at is not None and job.deadline_at <= self.now:
                job.deadline_at, job.is_free = None, True

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
