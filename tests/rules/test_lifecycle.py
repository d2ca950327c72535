"""The table of moves, and that the store's statements are guarded by it."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import Update

from celery_workmanager.lifecycle import (
    FINISHED,
    MOVE_OF_ENDING,
    MOVES,
    UNFINISHED,
    Move,
    is_poisoned,
    leaves,
    reaches,
    state_at_insertion,
)
from celery_workmanager.outcome import Ending
from celery_workmanager.store import cancelling, claiming, ending, finishing, succeeding
from celery_workmanager.tables import state_in
from celery_workmanager.work import State

E, R, S, F, B, C = (
    State.ENQUEUED,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.BLOCKED,
    State.CANCELLED,
)
TABLE = {
    Move.UNBLOCK: ({B}, E),
    Move.START: ({E}, R),
    Move.SUCCEED: ({E, R}, S),
    Move.FAIL: ({E, R}, F),
    Move.RETRY: ({E, R}, E),
    Move.STOP: ({E, R}, E),
    Move.REPLACE: ({E, R}, E),
    Move.END_PERIOD: ({E, R}, E),
    Move.GIVE_BACK: ({E}, E),
    Move.HEAL: ({E, R}, E),
    Move.CANCEL: ({E, R, B}, C),
    Move.INHERIT_FAILURE: ({E, R, B}, F),
    Move.EXPIRE: ({E, B}, C),
}


@pytest.mark.parametrize("move", Move, ids=lambda move: move.name)
def test_each_move_leaves_and_reaches_exactly_these_states(move: Move):
    assert (set(leaves(move)), reaches(move)) == TABLE[move]
    assert MOVES[move] == (leaves(move), reaches(move))


def test_no_move_leaves_a_finished_state_and_every_unfinished_one_can_be_left():
    left = {state for move in Move for state in leaves(move)}
    assert left == set(UNFINISHED)
    assert left.isdisjoint(FINISHED)
    assert set(UNFINISHED) | set(FINISHED) == set(State)
    assert {state for state in State if state.is_finished} == set(FINISHED)


def test_each_ending_of_a_run_asks_for_a_move_that_a_running_work_can_make():
    assert set(MOVE_OF_ENDING) == set(Ending)
    for how, move in MOVE_OF_ENDING.items():
        assert R in leaves(move) or how is Ending.GIVEN_BACK


def guard(statement: Update) -> str:
    return str(statement.whereclause.compile(compile_kwargs={"literal_binds": False}))


@pytest.mark.parametrize(
    ("statement", "move"),
    [
        (finishing.UNBLOCK.single, Move.UNBLOCK),
        (finishing._INHERIT.single, Move.INHERIT_FAILURE),
        (ending._SETTLE.single, Move.SUCCEED),
        (ending._SETTLE.single, Move.RETRY),
        (ending._SETTLE_ARRAYS, Move.STOP),
        (ending._SETTLE_ARRAYS, Move.HEAL),
        (ending._plain_settlement_of_arrays(alike=False), Move.SUCCEED),
        (ending._plain_settlement_of_json(alike=True), Move.FAIL),
        (cancelling._CANCEL.single, Move.CANCEL),
        (claiming._START.single, Move.START),
    ],
)
def test_the_statement_of_a_move_is_guarded_by_the_states_it_may_leave(statement: Update, move: Move):
    assert str(state_in(leaves(move)).compile()) in guard(statement)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("move", [Move.SUCCEED, Move.UNBLOCK])
def test_so_are_both_changes_of_the_one_that_ends_a_work_and_releases_others(move: Move, alike: bool):
    words = str(succeeding._statement(alike).compile(dialect=postgresql.dialect()))
    assert words.count(str(state_in(leaves(move)).compile(dialect=postgresql.dialect()))) == 1


@pytest.mark.parametrize(
    ("statement", "move"),
    [
        (finishing.UNBLOCK.single, Move.UNBLOCK),
        (finishing._INHERIT.single, Move.INHERIT_FAILURE),
        (cancelling._CANCEL.single, Move.CANCEL),
        (claiming._START.single, Move.START),
    ],
)
def test_the_statement_of_a_move_writes_the_state_it_reaches(statement: Update, move: Move):
    assert statement.compile().params["state"] == reaches(move)


@pytest.mark.parametrize(
    ("prerequisites", "state"),
    [
        ([], E),
        ([S], E),
        ([S, S], E),
        ([S, E], B),
        ([R], B),
        ([B], B),
        ([S, C], C),
        ([E, C], C),
        ([C, F], F),
        ([R, F], F),
        ([F], F),
    ],
)
def test_a_new_work_begins_as_its_prerequisites_say_failure_before_cancellation_before_waiting(prerequisites, state):
    assert state_at_insertion(prerequisites) is state


def test_a_poison_pill_is_given_up_at_the_limit_and_not_before():
    assert not is_poisoned(9, 10)
    assert is_poisoned(10, 10)
    assert is_poisoned(11, 10)
