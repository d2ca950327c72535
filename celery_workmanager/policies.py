"""What to do about a unique name, a retry, a used-up quota, the network that is asked for, and what an update did."""

from __future__ import annotations

from enum import Enum, IntEnum


class ExistingWorkPolicy(Enum):
    """What happens when works with the same unique name exist already."""

    #: Cancel and delete them, then store the new work.
    REPLACE = "replace"
    #: Store nothing while one of them is ENQUEUED or RUNNING; otherwise as REPLACE.
    KEEP = "keep"
    #: Wait for all the last ones; a failure or cancellation among them is inherited.
    APPEND = "append"
    #: As APPEND, but a failed or cancelled last one makes the name start afresh.
    APPEND_OR_REPLACE = "append_or_replace"


class ExistingPeriodicWorkPolicy(Enum):
    """What happens to a periodic work when works with the same unique name exist already."""

    #: Store nothing while one of them is ENQUEUED or RUNNING; otherwise as CANCEL_AND_REENQUEUE.
    KEEP = "keep"
    #: Give the existing work the new specification: its id, its counters and the moment of enqueue stay.
    UPDATE = "update"
    #: Cancel and delete them, then store the new work.
    CANCEL_AND_REENQUEUE = "cancel_and_reenqueue"


class CatchUp(Enum):
    """What becomes of the occurrences of a periodic work that were missed.

    One is missed when the following one has come before it was started. One that is merely late runs in any case.
    """

    #: They never run; the next run is the first occurrence that is still to come.
    SKIP = "skip"
    #: One run stands for all of them.
    ONCE = "once"
    #: Each runs, one after the other: the latest ``catch_up_limit`` of them.
    ALL = "all"


class BackoffPolicy(IntEnum):
    """How the delay before a retry grows."""

    #: delay · 2^(attempts - 1)
    EXPONENTIAL = 0
    #: delay · attempts
    LINEAR = 1


class NetworkType(IntEnum):
    """The network that a work asks of its node (WorkManager semantics: NetworkType, with its numbers)."""

    NOT_REQUIRED = 0
    #: Connected and validated.
    CONNECTED = 1
    #: Connected, and the traffic costs nothing.
    UNMETERED = 2
    #: Connected, and not in the network of a foreign operator.
    NOT_ROAMING = 3
    #: Connected, and the traffic costs.
    METERED = 4
    #: As UNMETERED.
    TEMPORARILY_UNMETERED = 5


class OutOfQuotaPolicy(IntEnum):
    """What an expedited work does when there is no quota for it."""

    RUN_AS_NON_EXPEDITED_WORK_REQUEST = 0
    DROP_WORK_REQUEST = 1


class UpdateResult(Enum):
    """What became of an update."""

    #: The work had finished.
    NOT_APPLIED = "not_applied"
    APPLIED_IMMEDIATELY = "applied_immediately"
    #: The work is running; this run goes on as it was.
    APPLIED_FOR_NEXT_RUN = "applied_for_next_run"
