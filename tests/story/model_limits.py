"""Limits of the fleet and the quota of expedited works, in the reference model."""

from __future__ import annotations

from collections.abc import Iterable

from tests.story.model_words import Job


class Rates:
    """Buckets of tokens by key. All that is kept of one is the moment at which it is full again."""

    def __init__(self) -> None:
        self.full_at: dict[str, int] = {}

    def tokens(self, key: str, n: int, per: int, now: int) -> int:
        """How many works may start now."""
        missing = max(0, self.full_at.get(key, 0) - now)
        interval = -(-per // n)
        return n - -(-missing // interval)

    def spend(self, key: str, n: int, per: int, now: int) -> None:
        self.full_at[key] = max(now, self.full_at.get(key, 0)) + -(-per // n)


class Limits:
    """What runs under which key, and how much more may."""

    def __init__(self, jobs: dict[str, Job], quota: dict[str, tuple[int, int]]) -> None:
        self.jobs = jobs
        self.rates = Rates()
        #: How many expedited works may start in how long: of all (""), and of a tag.
        self.quota = quota

    def running(self, key: str) -> int:
        return sum(key in job.permits for job in self.jobs.values() if job.claim is not None)

    def has_room(self, job: Job, now: int) -> bool:
        """Whether one more work with the limits of `job` may start."""
        spec = job.spec
        if spec.concurrency is not None and self.running(spec.key(spec.concurrency[0])) >= spec.concurrency[1]:
            return False
        if spec.rate is None:
            return True
        key, n, per = spec.rate
        return self.rates.tokens(spec.key(key), n, per, now) > 0

    def enter(self, job: Job, now: int) -> None:
        """`job` starts: it counts as long as it is claimed, and has spent a token for good."""
        spec = job.spec
        job.permits = set() if spec.concurrency is None else {spec.key(spec.concurrency[0])}
        if spec.rate is not None:
            key, n, per = spec.rate
            self.rates.spend(spec.key(key), n, per, now)

    # -- the quota ------------------------------------------------------------------------------------------------

    def _of(self, job: Job) -> Iterable[tuple[str, int, int]]:
        for name in ("", *(f"tag:{tag}" for tag in (job.spec.worker, *sorted(job.spec.tags)))):
            if name in self.quota:
                yield (f"\x1fexpedited {name}", *self.quota[name])

    def within_quota(self, job: Job, now: int) -> bool:
        """Spend a token of the quota for `job`; False, and nothing spent, when one is missing."""
        bounds = list(self._of(job))
        if any(self.rates.tokens(*bound, now) <= 0 for bound in bounds):
            return False
        for bound in bounds:
            self.rates.spend(*bound, now)
        return True
