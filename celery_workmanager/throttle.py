"""Rate limits of a node, kept at the claim: what has no token stays in the store, where another node may take it.

A work that was claimed and then held back would be nobody's; one that is left out of the claim makes nobody wait.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

from celery_workmanager.outcome import Claim

_NO_CAPS: Mapping[int, int] = {}


class Bucket(Protocol):
    """A token bucket, as Kombu makes them."""

    capacity: float
    fill_rate: float

    def can_consume(self, tokens: int) -> bool:
        """Take so many tokens, if they are there."""

    def expected_time(self, tokens: float) -> float:
        """Seconds until so many tokens are there."""


#: The bucket of a worker, by its name; ``None`` when it has no limit.
BucketOf = Callable[[str], Bucket | None]


class Throttle:
    """Lets as many works of each worker through as there are tokens. For one thread."""

    def __init__(self, bucket_of: BucketOf | None) -> None:
        self._bucket_of = bucket_of
        self._turn = 0
        self._next_token = inf

    def allow(self, ready: Sequence[int], workers: Mapping[int, str]) -> tuple[Sequence[int], Mapping[int, int]]:
        """Those of the `ready` lanes that may be claimed from, and how many works from each (no entry: any number)."""
        self._next_token = inf
        limited = self._buckets({workers[lane] for lane in ready})
        if not limited:
            return ready, _NO_CAPS
        # The queues of one worker share its tokens, so they take turns.
        self._turn += 1
        lanes_of: dict[str, list[int]] = defaultdict(list)
        for lane in ready:
            lanes_of[workers[lane]].append(lane)
        caps: dict[int, int] = {}
        for worker, bucket in limited.items():
            lanes = lanes_of[worker]
            tokens = _whole_tokens(bucket)
            if tokens:
                caps[lanes[self._turn % len(lanes)]] = tokens
            else:
                self._next_token = min(self._next_token, bucket.expected_time(1))
        return [lane for lane in ready if workers[lane] not in limited or lane in caps], caps

    def unlimited(self, lanes: Mapping[int, str]) -> Mapping[int, str]:
        """Those of `lanes` whose workers have no limit."""
        limited = self._buckets(set(lanes.values()))
        return {lane: worker for lane, worker in lanes.items() if worker not in limited} if limited else lanes

    def next_token(self) -> float:
        """Seconds until a lane that the last `allow` left out gets a token. Told once, so that nobody waits in vain."""
        seconds, self._next_token = self._next_token, inf
        return seconds

    def spend(self, claims: Iterable[Claim]) -> None:
        """Take the tokens of what was claimed."""
        if self._bucket_of is None:
            return
        taken = Counter(claim.worker for claim in claims)
        for worker, bucket in self._buckets(taken).items():
            bucket.can_consume(taken[worker])

    def _buckets(self, workers: Iterable[str]) -> dict[str, Bucket]:
        if self._bucket_of is None:
            return {}
        found = {worker: self._bucket_of(worker) for worker in workers}
        return {worker: bucket for worker, bucket in found.items() if bucket is not None}


def _whole_tokens(bucket: Bucket) -> int:
    there = bucket.capacity - bucket.expected_time(bucket.capacity) * bucket.fill_rate
    return int(there + 1e-6)
