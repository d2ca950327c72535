"""What the reference model keeps, and the moves that all others are made of."""

from __future__ import annotations

from collections.abc import Iterable

from tests.story.model_limits import Limits
from tests.story.model_words import NOT_STOPPED, Job


class ModelBase:
    """All works there are, and what is around them."""

    def __init__(
        self, now: int, *, retention: int, max_interruptions: int, keep_runs: int, keep_stops: int,
        quota: dict[str, tuple[int, int]],
    ) -> None:  # fmt: skip
        self.now, self.retention, self.max_interruptions = now, retention, max_interruptions
        self.keep_runs, self.keep_stops = keep_runs, keep_stops
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, int] = {}
        self.limits = Limits(self.jobs, quota)
        #: Kinds and labels: of a queue, a tag (a worker's name is one), a unique name, a node.
        self.paused: set[tuple[str, str]] = set()

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

    def is_held(self, job: Job) -> bool:
        """Whether one of its tags or unique names is paused."""
        labels = {("tag", tag) for tag in job.tags} | {("name", name) for name in job.names}
        return not job.is_finished and not labels.isdisjoint(self.paused)

    def lane_is_paused(self, job: Job) -> bool:
        return not self.paused.isdisjoint((("queue", job.spec.queue), ("tag", job.spec.worker)))

    def is_ready(self, job: Job) -> bool:
        """Whether it waits for nothing but a node."""
        return job.state == "ENQUEUED" and job.claim is None and job.promoted and not self.is_held(job)

    # -- small moves ----------------------------------------------------------------------------------------------

    def release(self, job: Job) -> None:
        """Nothing is before it any more: its delay begins."""
        job.state = "ENQUEUED"
        job.enqueued_at = self.now
        self.wait_until(job, self.now + job.spec.delay)

    def wait_until(self, job: Job, run_at: int) -> None:
        job.run_at, job.promoted = run_at, run_at <= self.now

    def finish(self, job: Job, state: str) -> None:
        job.last_token = job.claim[1] if job.claim is not None else None
        job.state, job.claim, job.expires_at, job.finished_at = state, None, None, self.now
        job.permits = set()

    def note_stop(self, job: Job, reason: str, attempt: int) -> None:
        job.stops.append((reason, self.now, attempt))
        del job.stops[: -self.keep_stops]

    def cancel(self, roots: Iterable[str], reason: str = "CANCELLED_BY_APP") -> list[str]:
        """Cancel works and all that depends on them; a run that goes on is stopped by that."""
        start = [each for each in roots if each in self.jobs]
        doomed = [self.jobs[each] for each in sorted({*start, *self.below(start)}) if not self.jobs[each].is_finished]
        for job in doomed:
            if job.state == "RUNNING":
                self.note_stop(job, reason, job.attempts)
                self._note_cancelled_run(job)
            job.stop_reason = reason if job.state == "RUNNING" or reason == "QUOTA" else NOT_STOPPED
            self.finish(job, "CANCELLED")
            job.last_token = None
        return [job.id for job in doomed]

    def _note_cancelled_run(self, job: Job) -> None:
        if job.spec.period is not None and not job.has_completed:
            keep = job.spec.period.keep
            job.history.append((job.count, job.at, "CANCELLED"))
            del job.history[: -(self.keep_runs if keep is None else keep)]
