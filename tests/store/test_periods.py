"""Periodic works in the store: ends of periods, their history, clocks that are set, and what others pay for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from sqlalchemy import event, text

from celery_workmanager import schema
from celery_workmanager.call import Call
from celery_workmanager.database import Database
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.outcome import Ending
from celery_workmanager.policies import CatchUp
from celery_workmanager.store import Store
from celery_workmanager.store.passage import leavers
from celery_workmanager.timing import SECOND, as_datetime
from celery_workmanager.work import State, StopReason
from tests.store.test_schema import alembic
from tests.stores import (
    HOUR,
    START,
    WORKER,
    end,
    every,
    info,
    job,
    make_store,
    move,
    put,
    register,
    row,
    rows_of,
    start,
    state,
    states,
    take,
    take_one,
    users_engine,
    verdicts,
)


def step_clock(store: Store, microseconds: int) -> None:
    """Set the wall clock; what that makes due becomes claimable."""
    store.clock.step(microseconds)  # type: ignore[attr-defined]
    store.promote()


# -- the end of a period -----------------------------------------------------------------------------------------------


def test_the_end_of_a_period_frees_the_row_and_says_when_it_is_due_again(store: Store):
    put(store, every("a"))
    claim = take_one(store, "a")
    start(store, claim)
    move(store, 7 * SECOND)
    assert end(store, claim, output='{"n": 1}').accepted == {"a"}
    found = row(store, "a")
    assert (found.state, found.node, found.token, found.ready_lane) == (State.ENQUEUED, None, None, None)
    assert (found.due_at, found.run_at, found.enqueued_at) == (START + 7 * SECOND + HOUR,) * 2 + (START + 7 * SECOND,)
    assert (found.period_count, found.period_at, found.run_attempt_count, found.runs) == (1, found.run_at, 0, 1)
    assert (found.output, found.finished_at, found.prune_at) == ('{"n": 1}', None, None)
    assert end(store, claim).stale == {"a"}
    assert store.next_moment() == found.due_at


def test_a_history_has_a_row_for_each_run_with_its_node_and_reason(store: Store):
    put(store, every("a", max_attempts=2))
    end(store, take_one(store, "a", "one"), ending=Ending.RETRY, after=0)
    claim = take_one(store, "a", "two")
    start(store, claim)
    move(store, SECOND)
    end(store, claim, ending=Ending.LOST)
    end(store, take_one(store, "a", "two"), ending=Ending.RETRY, after=0)
    last, lost, first = store.runs("a")
    assert [(each.number, each.period, each.node) for each in (last, lost, first)] == [
        (3, 0, "two"),
        (2, 0, "two"),
        (1, 0, "one"),
    ]
    assert [each.outcome.name for each in (last, lost, first)] == ["FAILED", "LOST", "RETRIED"]
    assert lost.stop_reason.name == "UNKNOWN"
    assert (lost.started_at, lost.finished_at) == (as_datetime(START), as_datetime(START + SECOND))
    assert last.error is not None
    assert {each.scheduled_at for each in (last, lost, first)} == {as_datetime(START)}
    assert json.loads(json.dumps(last.to_dict()))["outcome"] == "FAILED"


def test_what_was_given_back_is_no_run(store: Store):
    put(store, every("a"))
    before = row(store, "a")._asdict()
    end(store, take_one(store, "a"), ending=Ending.GIVEN_BACK)
    assert row(store, "a")._asdict() == before | {"version": before["version"] + 1}
    assert store.runs("a") == []


def test_a_worker_that_says_twice_that_its_period_has_ended_has_ended_one(store: Store):
    put(store, every("a"))
    claim = take_one(store, "a")
    (verdict,) = verdicts(store, [claim], Ending.SUCCEEDED)
    users = users_engine(store)
    with users.begin() as connection:
        assert [store.complete(connection, verdict) for _ in range(2)] == [True, True]
    users.dispose()
    assert (info(store, "a").period_count, rows_of(store, "run")) == (1, 1)
    assert end(store, claim).accepted == {"a"}
    assert (info(store, "a").period_count, rows_of(store, "run")) == (1, 1)


def test_the_history_is_bounded_by_the_setting_and_by_each_works_own_number(store_address: str):
    store = make_store(store_address, keep_runs=3)
    put(store, every("few", seconds=1, keep_runs=1), every("some", seconds=1), every("none", seconds=1, keep_runs=0))
    for _ in range(5):
        end(store, *take(store))
        move(store, SECOND)
    assert [len(store.runs(each)) for each in ("few", "some", "none")] == [1, 3, 0]
    assert [each.number for each in store.runs("some")] == [5, 4, 3]
    assert rows_of(store, "run") == 4
    store.cancel_all()
    store.prune(only_expired=False)
    assert rows_of(store, "run") == 0
    store.close()


def test_many_periods_end_in_one_batch_beside_one_time_works(store: Store):
    put(store, *(every(f"p{n}") for n in range(30)), *(job(f"j{n}") for n in range(30)))
    claims = take(store, 100)
    assert len(claims) == 60
    assert len(end(store, *claims).accepted) == 60
    assert sorted(set(states(store).values())) == ["ENQUEUED", "SUCCEEDED"]
    assert rows_of(store, "run") == 30
    assert {row(store, f"p{n}").due_at for n in range(30)} == {START + HOUR}


def test_each_period_of_a_call_begins_with_its_own_arguments(store: Store):
    """A retry may ask for others: they are those of the rest of the period."""
    arguments, others = '{"args": [1], "kwargs": {}}', '{"args": [2], "kwargs": {}}'
    put(store, every("a", call=Call(arguments)))
    end(store, take_one(store, "a"), ending=Ending.RETRY, after=0, output=others)
    assert row(store, "a").input == others
    end(store, take_one(store, "a"), output="[1]")
    assert row(store, "a").input == arguments
    assert info(store, "a").output_data == {"result": [1]}


def test_periodic_works_do_not_leave_as_messages(store: Store):
    put(store, every("a"), job("b"))
    assert [each.id for each in leavers(store, WORKER, "", 10)] == ["b"]


def test_an_enqueue_whose_periodic_work_would_never_run_stores_nothing_at_all(store: Store):
    with pytest.raises(InvalidRequest, match="late enough for one run"):
        put(store, job("a"), every("b", end_at=as_datetime(START - SECOND)))
    assert states(store) == {}


# -- missed occurrences, at the claim ----------------------------------------------------------------------------------


def test_a_node_that_comes_late_finds_nothing_to_run_of_a_work_that_skips(store: Store):
    put(store, every("a", fixed_rate=True, catch_up=CatchUp.SKIP), every("b"))
    move(store, 5 * HOUR // 2)
    assert [claim.id for claim in take(store)] == ["b"]
    found = row(store, "a")
    assert (found.node, found.token, found.due_at, found.period_at) == (None, None, START + 3 * HOUR, START + 3 * HOUR)
    assert (found.period_count, found.runs) == (0, 0)
    move(store, HOUR // 2)
    assert [claim.id for claim in take(store)] == ["a"]


@pytest.mark.parametrize("given_back", [False, True])
def test_a_run_that_was_begun_and_stopped_is_not_missed_however_late_it_goes_on(store: Store, given_back: bool):
    put(store, every("a", seconds=60, fixed_rate=True, catch_up=CatchUp.SKIP))
    at = row(store, "a").period_at
    end(store, take_one(store, "a"), ending=Ending.STOPPED, reason=StopReason.DEVICE_STATE)
    if given_back:
        end(store, take_one(store, "a"), ending=Ending.GIVEN_BACK)
    move(store, 150 * SECOND)
    (claim,) = take(store)
    assert claim.standing is not None
    assert (claim.standing.at, row(store, "a").period_at) == (at, at)


def test_one_run_stands_for_all_that_were_missed_and_is_that_of_the_latest(store: Store):
    put(store, every("a", fixed_rate=True))
    move(store, 5 * HOUR // 2)
    end(store, *take(store))
    assert [each.scheduled_at for each in store.runs("a")] == [as_datetime(START + 2 * HOUR)]
    assert row(store, "a").due_at == START + 3 * HOUR


def test_a_run_that_stood_for_missed_ones_and_was_lost_stands_for_them_when_it_runs_again(store: Store):
    put(store, every("a", fixed_rate=True))
    register(store)
    move(store, 5 * HOUR // 2)
    (claim,) = take(store)
    start(store, claim)
    store.give_up(["node"])
    assert store.heal(store.clock.now()) is not None
    end(store, *take(store))
    assert {each.scheduled_at for each in store.runs("a")} == {as_datetime(START + 2 * HOUR)}
    assert row(store, "a").due_at == START + 3 * HOUR


def test_of_a_claim_that_passes_over_and_is_lost_nothing_is_lost(store: Store):
    put(store, every("a", fixed_rate=True))
    move(store, 5 * HOUR // 2)
    end(store, *take(store), ending=Ending.GIVEN_BACK)
    (claim,) = take(store)
    assert claim.standing is not None
    assert claim.standing.at == START + 2 * HOUR


# -- clocks that are set -----------------------------------------------------------------------------------------------


def scheduled(store: Store) -> list[int]:
    """The occurrences that ran, in seconds from the start, oldest first."""
    at = [int(each.scheduled_at.timestamp()) - START // SECOND for each in store.runs("a")]
    return at[::-1]


def test_a_clock_that_jumps_forward_loses_no_period_of_a_fixed_rate(store: Store):
    put(store, every("a", seconds=1, fixed_rate=True, catch_up=CatchUp.ALL, keep_runs=100))
    end(store, *take(store))
    step_clock(store, 5 * SECOND)
    while claims := take(store):
        end(store, *claims)
        store.promote()
    assert scheduled(store) == [0, 1, 2, 3, 4, 5]


def test_a_clock_that_is_set_back_doubles_no_period(store: Store):
    put(store, every("a", seconds=1, fixed_rate=True, keep_runs=100))
    for _ in range(3):
        end(store, *take(store))
        move(store, SECOND)
    step_clock(store, -2 * SECOND)
    for _ in range(4):
        end(store, *take(store))
        move(store, SECOND)
    assert scheduled(store) == [0, 1, 2, 3, 4]


def test_steps_forward_and_back_neither_lose_nor_double_a_period(store: Store):
    put(store, every("a", seconds=1, fixed_rate=True, catch_up=CatchUp.ALL, keep_runs=1000))
    for number in range(120):
        step_clock(store, (-7, 3, 11, -5)[number % 4] * SECOND)
        while claims := take(store, 1):
            end(store, *claims)
            store.promote()
    ran = scheduled(store)
    assert ran == list(range(len(ran)))
    assert len(ran) > 50


def test_a_run_during_which_the_clock_is_set_back_ends_its_period_and_the_next_one_comes(store: Store):
    put(store, every("plain"), every("rate", fixed_rate=True))
    claims = take(store)
    step_clock(store, -30 * HOUR)
    assert end(store, *claims).accepted == {"plain", "rate"}
    assert row(store, "plain").due_at == START - 29 * HOUR
    assert row(store, "rate").due_at == START + HOUR


# -- what others pay for it --------------------------------------------------------------------------------------------


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What is said to the database meanwhile."""
    said: list[str] = []

    def hear(_connection, _cursor, statement, *_: object) -> None:
        said.append(statement.split(maxsplit=1)[0])

    engines = [store.database.engine(), store.database.engine(relaxed=True)]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", hear)
    yield said
    for engine in engines:
        event.remove(engine, "before_cursor_execute", hear)


def only(said: list[str]) -> list[str]:
    return [each for each in said if each in ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")]


def test_one_time_works_are_stored_claimed_and_settled_by_as_many_statements_as_without_periods(store: Store):
    put(store, "warm-up")
    end(store, *take(store))
    with statements(store) as said:
        put(store, "a", "b")
    assert only(said) == ["INSERT"] + ["SELECT"] * (store.database.engine().dialect.name == "postgresql")
    seen = store.look()
    with statements(store) as said:
        claims = store.claim(seen.lanes, "node", 1, 10, stamp=seen.stamp)
    assert len(only(said)) == (2 if store.database.is_mysql else 1)
    with statements(store) as said:
        end(store, *claims)
    assert only(said) == {"postgresql": ["WITH"], "sqlite": ["UPDATE"]}.get(
        store.database.dialect, ["SELECT", "UPDATE"]
    )


# -- the schema's step -------------------------------------------------------------------------------------------------


NUMBERS = (
    "state", "run_at", "run_attempt_count", "runs", "interruptions", "generation", "has_parents", "has_children",
    "created_at", "version",
)  # fmt: skip


def test_a_store_of_the_first_schema_keeps_its_works_when_it_is_migrated(store_url: str):
    database = Database(store_url)
    with database.transaction() as connection:
        command.upgrade(alembic(connection), "0001")
    texts = {"id": "a", "worker": WORKER, "queue": "celery", "options": "{}", "input": "{}"}
    numbers = dict.fromkeys(NUMBERS, 0) | {"lane": 1, "ready_lane": 1, "urgency": 255, "stop_reason": -256}
    given = {**texts, **numbers}
    with database.transaction() as connection:
        names = ", ".join(given)
        places = ", ".join(f":{name}" for name in given)
        connection.execute(text(f"INSERT INTO workmanager_work ({names}) VALUES ({places})"), given)
    schema.migrate(database)
    database.close()
    store = make_store(store_url)
    assert (state(store, "a"), info(store, "a").periodicity_info, row(store, "a").period_count) == (
        State.ENQUEUED,
        None,
        0,
    )
    store.close()
