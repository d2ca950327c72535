"""Claims and ends of runs, in the reference model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.story.model_base import ModelBase
from tests.story.model_periods import SHORTEST, after_missed, following
from tests.story.model_words import NOT_STOPPED, SECOND, Job

LONGEST_BACKOFF = 5 * 3600 * SECOND


class Runs(ModelBase):
    """How runs begin and end."""

    def claimable(self, met: Iterable[str], *, limited: bool = False) -> list[Job]:
        """What a node that meets these constraints may claim, in order; `limited`: what has limits of the fleet."""
        meets = {None, *met}
        ready = [
            job
            for job in self.jobs.values()
            if self.is_ready(job)
            and job.spec.is_limited == limited
            and job.asks_for in meets
            and not job.waits_for_files
            and not self.lane_is_paused(job)
            and (job.expires_at is None or job.expires_at > self.now)
        ]
        return sorted(ready, key=lambda job: job.order)

    # -- what a node does with what it has claimed, step by step ---------------------------------------------------

    def out_of_quota(self, taken: Iterable[Job]) -> list[Job]:
        return [job for job in taken if job.privileged and not self.limits.within_quota(job, self.now)]

    def refuse(self, job: Job) -> None:
        """There is no quota for an expedited work: it is as any other, or dropped."""
        if job.spec.expedited == "DROP":
            self.cancel([job.id], "QUOTA")
        else:
            self.let_go(job)
            job.privileged = False

    def missed(self, job: Job) -> bool:
        """Whether a claimed periodic work has missed what it was claimed for; a run that was begun is not missed."""
        if job.spec.period is None or job.attempts or job.override_at is not None or job.stop_reason != NOT_STOPPED:
            return False
        return after_missed(job.spec.period, job.at, self.now) != job.at

    def pass_over(self, job: Job) -> bool:
        """Let it stand for another occurrence; returns whether it runs now, for that one."""
        assert job.spec.period is not None
        at = after_missed(job.spec.period, job.at, self.now)
        if at is None:
            self.finish(job, "SUCCEEDED")
            self.release_children([job.id])
            return False
        job.at = at
        if at <= self.now:
            return True
        self.go_back(job, at, job.attempts)
        return False

    def let_go(self, job: Job) -> None:
        job.claim, job.permits = None, set()

    # -- the ends of runs -----------------------------------------------------------------------------------------

    def start(self, each: str, token: int) -> bool:
        job = self.jobs.get(each)
        if job is None or job.claim is None or job.claim[1] != token or job.state != "ENQUEUED":
            return False
        job.state, job.attempts, job.stop_reason = "RUNNING", job.attempts + 1, NOT_STOPPED
        return True

    def owns(self, each: str, token: int) -> bool:
        job = self.jobs.get(each)
        return job is not None and job.claim is not None and job.claim[1] == token

    def has_finished_by(self, each: str, token: int) -> bool:
        """Whether this very run has finished the work: its answer may come again."""
        job = self.jobs.get(each)
        return job is not None and job.is_finished and job.last_token == token

    def succeed(self, each: str, attempts: int, output: str) -> None:
        job = self.jobs[each]
        job.attempts, job.output, job.stop_reason = attempts + 1, output, NOT_STOPPED
        self._end(job, "SUCCEEDED")

    def fail(self, each: str, attempts: int, stop_reason: str = NOT_STOPPED) -> None:
        job = self.jobs[each]
        job.attempts, job.stop_reason, job.output = attempts, stop_reason, None
        self._end(job, "FAILED")

    def _end(self, job: Job, outcome: str) -> None:
        """A run has ended for good: one-time work is finished, periodic work goes on."""
        self._remember(job, outcome)
        if job.spec.period is None:
            self.finish(job, outcome)
            if outcome == "FAILED":
                for child in self.below([job.id]).values():
                    if not child.is_finished:
                        child.stop_reason = NOT_STOPPED
                        self.finish(child, "FAILED")
            return
        at = following(job, self.now)
        self._use_up_override(job)
        job.count += 1
        if at is None and job.override_at is None:
            self.finish(job, "SUCCEEDED")
            self.release_children([job.id])
            return
        job.at = at if at is not None else job.override_at or 0
        self._next_period(job)

    def _next_period(self, job: Job) -> None:
        job.attempts = job.interruptions = 0
        job.stop_reason, job.enqueued_at = NOT_STOPPED, self.now
        self.go_back(job, self.next_run(job), 0)
        self._new_deadline(job)

    def complete(self, each: str, attempts: int, output: str) -> None:
        """A run finishes its work in a transaction of its own; it still holds a periodic one until it has returned."""
        job = self.jobs[each]
        if job.has_completed:
            return
        before = job.state, job.claim, job.permits, job.attempts, job.stop_reason
        self.succeed(each, attempts, output)
        self.release_children([each])
        if not job.is_finished:
            job.state, job.claim, job.permits, _, job.stop_reason = before
            job.attempts = int(job.state == "RUNNING")
            job.promoted = job.has_completed = True

    def let_go_of_completed(self, job: Job) -> bool:
        """Whatever becomes of a run that has completed its period: the next one begins when it was to."""
        if not job.has_completed:
            return False
        job.has_completed, job.interruptions, job.stop_reason = False, 0, NOT_STOPPED
        self.go_back(job, job.run_at, 0)
        return True

    def _new_deadline(self, job: Job) -> None:
        if job.spec.deadline is not None:
            job.deadline_at, job.is_free = job.run_at + job.spec.deadline, False

    def _remember(self, job: Job, outcome: str) -> None:
        period = job.spec.period
        if period is not None:
            job.history.append((job.count, job.at, outcome))
            del job.history[: -(self.keep_runs if period.keep is None else period.keep)]

    @staticmethod
    def _use_up_override(job: Job) -> None:
        if not job.override_is_new:
            job.override_at = None
        job.override_is_new = False

    def release_children(self, of: Iterable[str]) -> None:
        for parent in of:
            for child in self.children(parent):
                if child.state == "BLOCKED" and all(self.jobs[one].state == "SUCCEEDED" for one in child.parents):
                    self.release(child)

    def go_back(self, job: Job, run_at: int, attempts: int) -> None:
        job.state, job.attempts = "ENQUEUED", attempts
        self.let_go(job)
        self.wait_until(job, run_at)

    def retry_later(self, each: str, attempts: int, after: int | None) -> None:
        """A run asked to be run again; `attempts` counts the runs before it."""
        job = self.jobs[each]
        if job.spec.max_attempts is not None and attempts + 1 >= job.spec.max_attempts:
            self.fail(each, attempts + 1)
            return
        self._remember(job, "RETRIED")
        is_set = job.override_is_new
        if job.spec.period is not None:
            self._use_up_override(job)
        job.enqueued_at, job.privileged, job.stop_reason, job.attempts = self.now, False, NOT_STOPPED, attempts + 1
        run_at = self.next_run(job) if after is None or is_set else self.now + after
        self.go_back(job, run_at, attempts + 1)

    def stop(self, each: str, attempts: int, generation: int, reason: str) -> None:
        """The system took the run away: it is no attempt."""
        job = self.jobs[each]
        self._remember(job, "STOPPED")
        self.note_stop(job, reason, attempts + 1)
        self.give_back(each, attempts, generation)
        job.stop_reason = reason

    def give_back(self, each: str, attempts: int, generation: int | None = None) -> None:
        """As if it had not been claimed, unless it was changed since."""
        job = self.jobs[each]
        changed = generation is not None and generation != job.generation
        job.attempts = attempts
        self.go_back(job, self.next_run(job) if changed else job.run_at, attempts)
        job.override_is_new = False

    def lose(self, each: str, attempts: int, generation: int | None = None) -> None:
        """The process died under the run."""
        job = self.jobs[each]
        job.interruptions += 1
        self.note_stop(job, "UNKNOWN", attempts + 1)
        if job.interruptions >= self.max_interruptions:
            self.fail(each, attempts + 1, "UNKNOWN")
            return
        self._remember(job, "LOST")
        self.give_back(each, attempts, generation)
        job.stop_reason = "UNKNOWN"

    def next_run(self, job: Job) -> int:
        """When a work that waits may run, by its specification."""
        enqueued_at = job.enqueued_at or 0
        if job.spec.period is not None and job.override_at is not None:
            return max(job.override_at, enqueued_at + SHORTEST) if job.count else job.override_at
        if job.attempts:
            return enqueued_at + min(job.spec.backoff * 2 ** (job.attempts - 1), LONGEST_BACKOFF)
        return job.at if job.spec.period is not None else enqueued_at + job.spec.delay

    def heal(self, lost: Iterable[str]) -> None:
        """What a lost node held goes back: a run that was begun counts as interrupted."""
        for node in lost:
            self.leases.pop(node, None)
            self.put_back(node, lambda _: True)

    def put_back(self, node: str, which: Callable[[Job], bool]) -> None:
        for job in sorted(self.jobs.values(), key=lambda job: job.id):
            if job.claim is None or job.claim[0] != node or not which(job):
                continue
            if self.let_go_of_completed(job):
                continue
            if job.state == "RUNNING":
                self.lose(job.id, job.attempts - 1)
            else:
                self.give_back(job.id, job.attempts)
