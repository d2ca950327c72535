"""A lane stands for everything a node must offer to run a work. Pure.

Nodes claim by lane, so works that no node may run now cost a claim nothing, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=4096)
def lane_of(queue: str, worker: str) -> int:
    """The lane of works for `worker` in `queue`: a signed 64-bit number, the same in every process."""
    digest = blake2b(f"{queue}\0{worker}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def lanes_of(queues: Iterable[str], workers: Iterable[str]) -> dict[int, str]:
    """The lanes a node serves that consumes `queues` and knows `workers`, with the worker name of each."""
    names = list(workers)
    return {lane_of(queue, worker): worker for queue in queues for worker in names}
