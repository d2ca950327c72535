"""The table of moves: which state may follow which, and why.

Source: WorkManager, "Work states" (one-time work) and ``WorkerWrapper``; the drawing is in ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from types import MappingProxyType

from celery_workmanager.outcome import Ending
from celery_workmanager.work import State


class Move(Enum):
    """An arrow of the state machine."""

    UNBLOCK = "unblock"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    RETRY = "retry"
    STOP = "stop"
    REPLACE = "replace"
    END_PERIOD = "end period"
    GIVE_BACK = "give back"
    HEAL = "heal"
    CANCEL = "cancel"
    INHERIT_FAILURE = "inherit failure"
    EXPIRE = "expire"


_RUN = (State.ENQUEUED, State.RUNNING)
_UNFINISHED = (State.ENQUEUED, State.RUNNING, State.BLOCKED)

#: The states a move may leave, and the state it reaches. A run that ends within milliseconds is never written as
#: RUNNING, so the moves that end a run may leave ENQUEUED too: its token says that it is claimed.
MOVES: MappingProxyType[Move, tuple[tuple[State, ...], State]] = MappingProxyType(
    {
        Move.UNBLOCK: ((State.BLOCKED,), State.ENQUEUED),
        Move.START: ((State.ENQUEUED,), State.RUNNING),
        Move.SUCCEED: (_RUN, State.SUCCEEDED),
        Move.FAIL: (_RUN, State.FAILED),
        Move.RETRY: (_RUN, State.ENQUEUED),
        Move.STOP: (_RUN, State.ENQUEUED),
        # The work that stands in its place is BLOCKED instead while it waits for other works of the replacement.
        Move.REPLACE: (_RUN, State.ENQUEUED),
        # Periodic work goes on, however a run ended (WorkManager, ``WorkerWrapper.resetPeriodic``).
        Move.END_PERIOD: (_RUN, State.ENQUEUED),
        Move.GIVE_BACK: ((State.ENQUEUED,), State.ENQUEUED),
        Move.HEAL: (_RUN, State.ENQUEUED),
        Move.CANCEL: (_UNFINISHED, State.CANCELLED),
        Move.INHERIT_FAILURE: (_UNFINISHED, State.FAILED),
        Move.EXPIRE: ((State.ENQUEUED, State.BLOCKED), State.CANCELLED),
    }
)

UNFINISHED = _UNFINISHED
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

#: The move that each ending of a run asks for. A work that was LOST too often fails instead (`is_poisoned`), and what
#: would finish periodic work ends its period.
MOVE_OF_ENDING = MappingProxyType(
    {
        Ending.SUCCEEDED: Move.SUCCEED,
        Ending.FAILED: Move.FAIL,
        Ending.RETRY: Move.RETRY,
        Ending.STOPPED: Move.STOP,
        Ending.GIVEN_BACK: Move.GIVE_BACK,
        Ending.LOST: Move.HEAL,
        Ending.REPLACED: Move.REPLACE,
    }
)


def leaves(move: Move) -> tuple[State, ...]:
    """The states that `move` may leave."""
    return MOVES[move][0]


def reaches(move: Move) -> State:
    """The state that `move` reaches."""
    return MOVES[move][1]


def state_at_insertion(prerequisites: Iterable[State]) -> State:
    """The state a new work begins in, given the states of its direct prerequisites.

    Source: WorkManager, ``EnqueueRunnable``: all succeeded starts at once; FAILED beats CANCELLED beats BLOCKED.
    """
    states = set(prerequisites)
    if states <= {State.SUCCEEDED}:
        return State.ENQUEUED
    if State.FAILED in states:
        return State.FAILED
    if State.CANCELLED in states:
        return State.CANCELLED
    return State.BLOCKED


def is_poisoned(interruptions: int, max_interruptions: int) -> bool:
    """Whether a work whose process died `interruptions` times is given up (a poison pill)."""
    return interruptions >= max_interruptions
