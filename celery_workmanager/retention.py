"""How long a finished work is kept. Pure; times in microseconds.

Source: WorkManager, ``keepResultsForAtLeast`` and ``pruneWork``. On Android the clock starts at the last *enqueue*, so
a work that waited for two days may be gone a second after it finished; ours starts at the finish, except in the
"android" profile.
"""

from __future__ import annotations


def prune_at(finished_at: int, enqueued_at: int | None, keep: int, retention: int, *, from_enqueue: bool) -> int:
    """The moment from which automatic pruning may delete a finished work that no unfinished work depends on."""
    start = finished_at
    if from_enqueue:
        start = -1 if enqueued_at is None else enqueued_at
    return start + keep + retention
