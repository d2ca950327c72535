"""Signals of what happens to works beside their runs, on each store: what is told, when, and what never is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, Result, State, StopReason, Worker, WorkManager
from celery_workmanager.events import Change
from celery_workmanager.signals import (
    SIGNALS,
    WorkEvent,
    work_blocked,
    work_cancelled,
    work_enqueued,
    work_expired,
    work_healed,
    work_pruned,
    work_stopped,
    work_unblocked,
)
from celery_workmanager.testing import WorkManagerTestKit

Told = list[tuple[Any, list[WorkEvent]]]


class Shop:
    """A kit, its workers, and all that was told: pairs of a signal and the works it was sent with."""

    def __init__(self, url: str) -> None:
        self.app = Celery("signals", broker="memory://", set_as_current=False)
        self.do: Callable[[Any], Any] = lambda _task: None

        @self.app.task(base=Worker, bind=True, name="act", shared=False)
        def act(task: Any, do: str = "") -> Any:
            return self.do(task) if do else None

        self.kit = WorkManagerTestKit(self.app, store_url=url)
        self.manager = self.kit.work_manager
        self.told: Told = []
        for signal in SIGNALS.values():
            signal.connect(self.hear)

    def hear(self, *, signal: Any, sender: WorkManager, works: list[WorkEvent], **_: Any) -> None:
        assert sender is self.manager
        self.told.append((signal, works))

    def heard(self) -> list[tuple[Any, list[str]]]:
        """What was told since the last call: signals and ids."""
        found, self.told[:] = [(signal, [work.id for work in works]) for signal, works in self.told], []
        return found

    def request(self, do: str = "", **options: Any) -> OneTimeWorkRequest:
        return OneTimeWorkRequest("act", {"do": do} if do else None, **options)

    def chain(self, length: int, **options: Any) -> list[str]:
        """Enqueue a chain, and forget what was told of it."""
        requests = [self.request(**options) for _ in range(length)]
        chain = self.manager.begin_with(requests[0])
        for each in requests[1:]:
            chain = chain.then(each)
        chain.enqueue()
        self.heard()
        return [each.id for each in requests]

    def close(self) -> None:
        for signal in SIGNALS.values():
            signal.disconnect(self.hear)
        self.kit.close()


@pytest.fixture
def shop(store_address: str) -> Iterator[Shop]:
    opened = Shop(store_address)
    yield opened
    opened.close()


# -- what is told ------------------------------------------------------------------------------------------------


def test_a_chain_is_enqueued_and_blocked_and_unblocked(shop: Shop) -> None:
    first, *others = requests = [shop.request() for _ in range(3)]
    shop.manager.begin_with(first).then(others).enqueue()
    events = [work for _, works in shop.told for work in works]
    assert [(each.worker_name, each.state, each.request) for each in events] == [
        ("act", State.ENQUEUED, first),
        *(("act", State.BLOCKED, each) for each in others),
    ]
    ids = [each.id for each in requests]
    assert shop.heard() == [(work_enqueued, ids[:1]), (work_blocked, ids[1:])]
    shop.kit.run_one()
    assert [work.state for _, works in shop.told for work in works] == [State.ENQUEUED] * 2
    assert [(signal, sorted(works)) for signal, works in shop.heard()] == [(work_unblocked, sorted(ids[1:]))]
    shop.kit.run_until_idle()
    assert shop.heard() == []


def test_a_swallowed_chain_is_not_told(shop: Shop) -> None:
    for policy in (ExistingWorkPolicy.KEEP, ExistingWorkPolicy.KEEP):
        shop.manager.enqueue_unique_work("name", policy, shop.request())
    assert [signal for signal, _ in shop.heard()] == [work_enqueued]


def test_a_replaced_work_is_cancelled_before_the_new_one_is_enqueued(shop: Shop) -> None:
    old, new = shop.request(), shop.request()
    shop.manager.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, old)
    shop.heard()
    shop.manager.enqueue_unique_work("name", ExistingWorkPolicy.REPLACE, new)
    assert shop.heard() == [(work_cancelled, [old.id]), (work_enqueued, [new.id])]


def test_a_work_enqueued_after_a_cancelled_one_is_told_as_cancelled(shop: Shop) -> None:
    chain = shop.manager.begin_with(shop.request())
    shop.manager.cancel_work_by_id(chain.enqueue().id)
    shop.heard()
    assert shop.heard() == []
    late = shop.request()
    chain.then(late).enqueue()
    assert shop.heard() == [(work_cancelled, [late.id])]


def test_a_work_enqueued_again_is_told(shop: Shop) -> None:
    (done,) = shop.chain(1)
    shop.kit.run_until_idle()
    again = shop.manager.retry(done).id
    assert shop.heard() == [(work_enqueued, [again])]


def test_cancelling_tells_of_all_that_became_cancelled(shop: Shop) -> None:
    ids = shop.chain(3)
    shop.kit.run_one()
    shop.heard()
    shop.manager.cancel_work_by_id(ids[0])  # it has finished, and stays as it is
    assert {work.stop_reason for _, works in shop.told for work in works} == {StopReason.NOT_STOPPED}
    assert shop.heard() == [(work_cancelled, ids[1:])]
    shop.manager.cancel_all_work()
    assert shop.heard() == []


def test_cancelling_a_running_work_tells_so(shop: Shop) -> None:
    shop.do = lambda task: shop.manager.cancel_work_by_id(task.work_id)
    running = shop.request("cancel")
    shop.manager.enqueue(running)
    shop.heard()
    shop.kit.run_one()
    ((_, (work,)),) = shop.told
    assert (work.stop_reason, work.node) == (StopReason.CANCELLED_BY_APP, shop.manager.store.nodes()[0].id)
    assert shop.heard() == [(work_cancelled, [running.id])]


def test_a_run_that_the_system_stops_is_told_with_its_reason(shop: Shop) -> None:
    shop.do = lambda task: shop.kit.driver.stop_running_work_with_reason(task.work_id, StopReason.QUOTA)
    stopped = shop.request("stop")
    shop.manager.enqueue(stopped)
    shop.heard()
    shop.kit.run_one()
    ((_, (work,)),) = shop.told
    assert (work.worker_name, work.state, work.stop_reason) == ("act", State.ENQUEUED, StopReason.QUOTA)
    assert shop.heard() == [(work_stopped, [stopped.id])]


@pytest.mark.parametrize(
    ("point", "reason"), [("claim", StopReason.NOT_STOPPED), ("start", StopReason.UNKNOWN), ("run", StopReason.UNKNOWN)]
)
def test_what_a_lost_node_held_is_healed(shop: Shop, point: Any, reason: StopReason) -> None:
    (work_id, _) = shop.chain(2)
    shop.kit.crash_after(point)
    shop.kit.run_one()
    (lost,) = shop.manager.store.nodes()
    assert shop.heard() == []
    shop.kit.lose_node()
    ((_, (work,)),) = shop.told
    assert (work.state, work.stop_reason, work.node) == (State.ENQUEUED, reason, lost.id)
    assert shop.heard() == [(work_healed, [work_id])]


def test_a_work_that_is_given_up_is_not_healed(shop: Shop) -> None:
    (work_id,) = shop.chain(1)
    for _ in range(shop.manager.settings.max_interruptions):
        shop.heard()
        shop.kit.crash_after("start")
        shop.kit.run_one()
        shop.kit.lose_node()
    assert shop.manager.get_work_info_by_id(work_id).state is State.FAILED
    assert shop.heard() == []


def test_a_retry_and_a_failure_are_for_celerys_own_signals(shop: Shop) -> None:
    answers = iter([Result.retry(after=0), Result.failure()])
    shop.do = lambda _task: next(answers)
    shop.chain(1)
    shop.manager.enqueue(shop.request("answer"))
    shop.heard()
    assert shop.kit.run_until_idle() == 3
    assert shop.heard() == []


def test_an_expired_work_is_told_and_what_waited_for_it_is_cancelled(shop: Shop) -> None:
    first, second = shop.request(expires=60, initial_delay=120), shop.request()
    shop.manager.begin_with(first).then(second).enqueue()
    shop.heard()
    shop.kit.clock.advance(timedelta(seconds=61))
    shop.kit.keep_up()
    assert {work.state for _, works in shop.told for work in works} == {State.CANCELLED}
    assert shop.heard() == [(work_expired, [first.id]), (work_cancelled, [second.id])]


def test_pruned_works_are_told_with_how_they_ended(shop: Shop) -> None:
    done, cancelled = shop.chain(1) + shop.chain(1, initial_delay=60)
    shop.kit.run_until_idle()
    shop.manager.cancel_work_by_id(cancelled)
    shop.heard()
    shop.manager.prune_work()
    ((signal, works),) = shop.told
    assert signal is work_pruned
    assert {work.id: work.state for work in works} == {done: State.SUCCEEDED, cancelled: State.CANCELLED}


def test_a_blocked_work_that_was_forgotten_is_told_when_it_is_found(shop: Shop) -> None:
    first, second = shop.chain(2)
    with shop.manager.store.database.transaction() as connection:  # past the store, as only a test may
        connection.execute(text(f"UPDATE workmanager_work SET state = 2, ready_lane = NULL WHERE id = '{first}'"))
    shop.kit.keep_up()
    assert shop.heard() == [(work_unblocked, [second])]


# -- when it is told ---------------------------------------------------------------------------------------------


@contextmanager
def users_engine(shop: Shop) -> Iterator[Engine]:
    engine = create_engine(shop.manager.store.database.url)
    yield engine
    engine.dispose()


def stored(shop: Shop) -> int:
    return len(shop.manager.get_work_infos_by_tag("act"))


def test_the_change_is_committed_when_it_is_told(shop: Shop) -> None:
    """A receiver finds the work, and may enqueue another one."""
    seen: list[int] = []
    after: list[str] = []

    def follow(works: list[WorkEvent], **_: Any) -> None:
        seen.append(stored(shop))
        if len(seen) == 1:
            after.append(shop.manager.enqueue(shop.request()).id)

    work_enqueued.connect(follow)
    try:
        first = shop.manager.enqueue(shop.request()).id
    finally:
        work_enqueued.disconnect(follow)
    assert seen == [1, 2]
    assert shop.heard() == [(work_enqueued, [first]), (work_enqueued, after)]


def test_a_callers_transaction_is_told_as_one_once_it_has_committed(shop: Shop) -> None:
    counted: list[int] = []

    def count(works: list[WorkEvent], **_: Any) -> None:
        counted.append(stored(shop))

    work_cancelled.connect(count)
    try:
        with users_engine(shop) as engine, engine.begin() as connection:
            first, second = (shop.manager.enqueue(shop.request(), connection).id for _ in range(2))
            shop.manager.cancel_work_by_id(first, connection)
            assert shop.heard() == []
    finally:
        work_cancelled.disconnect(count)
    assert shop.heard() == [(work_enqueued, [first, second]), (work_cancelled, [first])]
    assert counted == [2]


def test_a_callers_rollback_is_not_told_then_or_later(shop: Shop) -> None:
    with users_engine(shop) as engine:
        with engine.connect() as connection:
            shop.manager.enqueue(shop.request(), connection)
            connection.rollback()
            connection.commit()
        with suppress(LookupError), engine.begin() as connection:
            shop.manager.enqueue(shop.request(), connection)
            raise LookupError
        with engine.connect() as connection:
            shop.manager.enqueue(shop.request(), connection)
            # Closed without a word: that is a rollback.
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))
        assert shop.heard() == []
        with engine.begin() as connection:
            kept = shop.manager.enqueue(shop.request(), connection).id
    assert (shop.heard(), stored(shop)) == ([(work_enqueued, [kept])], 1)


def test_a_connection_may_commit_again_and_again(shop: Shop) -> None:
    with users_engine(shop) as engine, engine.connect() as connection:
        for _ in range(3):
            each = shop.manager.enqueue(shop.request(), connection).id
            assert shop.heard() == []
            connection.commit()
            assert shop.heard() == [(work_enqueued, [each])]


def test_what_is_rolled_back_to_a_savepoint_is_not_told(shop: Shop) -> None:
    def enqueue(connection: Connection) -> str:
        return shop.manager.enqueue(shop.request(), connection).id

    with users_engine(shop) as engine:
        with engine.begin() as connection:
            with connection.begin_nested() as undone:
                enqueue(connection)
                with connection.begin_nested():
                    enqueue(connection)
                undone.rollback()
            before = enqueue(connection)
            with connection.begin_nested():
                kept = enqueue(connection)
            with connection.begin_nested() as undone:
                enqueue(connection)
                undone.rollback()
            after = enqueue(connection)
        assert shop.heard() == [(work_enqueued, [before, kept, after])]
    assert stored(shop) == 3


def test_a_unique_name_in_a_callers_transaction_is_told(shop: Shop) -> None:
    """It is stored inside a savepoint of ours."""
    with users_engine(shop) as engine, engine.begin() as connection:
        named = shop.manager.enqueue_unique_work("name", ExistingWorkPolicy.REPLACE, shop.request(), connection).id
    assert shop.heard() == [(work_enqueued, [named])]


def test_a_commit_that_fails_is_not_told(shop: Shop) -> None:
    """A constraint that is only looked at when the transaction commits."""
    with users_engine(shop) as engine:
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys=ON"))
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
            reference = "INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED"
            connection.execute(text(f"CREATE TABLE child (parent {reference})"))
        try:
            with engine.connect() as connection:
                shop.manager.enqueue(shop.request(), connection)
                connection.execute(text("INSERT INTO child VALUES (1)"))
                with pytest.raises(DBAPIError):
                    connection.commit()
            engine.dispose()  # SQLite leaves such a transaction open until its connection is closed
            with engine.begin() as connection:
                connection.execute(text("SELECT 1"))
            assert (shop.heard(), stored(shop)) == ([], 0)
        finally:
            with engine.begin() as connection:
                connection.execute(text("DROP TABLE child"))
                connection.execute(text("DROP TABLE parent"))


def test_a_session_is_told_with_its_commit(shop: Shop) -> None:
    with users_engine(shop) as engine, Session(engine) as session:
        shop.manager.enqueue(shop.request(), session.connection())
        session.rollback()
        kept = shop.manager.enqueue(shop.request(), session.connection()).id
        assert shop.heard() == []
        session.commit()
        assert shop.heard() == [(work_enqueued, [kept])]


# -- what it may cost, and break ---------------------------------------------------------------------------------


def test_a_receiver_that_fails_is_logged_and_harms_nothing(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**_: Any) -> None:
        raise LookupError("a receiver's own trouble")

    work_enqueued.connect(fail)
    try:
        with caplog.at_level(logging.ERROR):
            kept = shop.manager.enqueue(shop.request()).id
            with users_engine(shop) as engine, engine.begin() as connection:
                joined = shop.manager.enqueue(shop.request(), connection).id
    finally:
        work_enqueued.disconnect(fail)
    assert caplog.text.count("a receiver's own trouble") >= 2
    assert shop.heard() == [(work_enqueued, [kept]), (work_enqueued, [joined])]
    assert shop.kit.run_until_idle() == 2


def test_receivers_may_be_for_one_manager_only(shop: Shop) -> None:
    heard: list[str] = []

    def hear(works: list[WorkEvent], **_: Any) -> None:
        heard.append(works[0].id)

    other = WorkManager(Celery("other", set_as_current=False), store_url="sqlite://")
    work_enqueued.connect(hear, sender=other)
    try:
        shop.manager.enqueue(shop.request())
        assert heard == []
    finally:
        work_enqueued.disconnect(hear, sender=other)


def test_nobody_who_listens_costs_no_statement(shop: Shop) -> None:
    statements: list[str] = []

    def run() -> int:
        statements.clear()
        ids = shop.chain(3)
        shop.kit.run_until_idle()
        shop.manager.cancel_work_by_id(ids[-1])
        shop.manager.prune_work()
        return len(statements)

    run()  # the first run opens what stays open
    for relaxed in (False, True):
        engine = shop.manager.store.database.engine(relaxed=relaxed)
        event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: statements.append(statement))
    told = run()
    for signal in SIGNALS.values():
        signal.disconnect(shop.hear)
    assert run() == told > 0


def test_a_store_in_memory_tells_too() -> None:
    """One connection serves all its transactions, a receiver's as well."""
    shop = Shop("sqlite://")
    try:
        test_the_change_is_committed_when_it_is_told(shop)
        engine = shop.manager.store.database.engine()
        assert isinstance(engine.pool, StaticPool)
        shop.kit.run_until_idle()
        assert shop.heard() == []
    finally:
        shop.close()


def test_each_change_has_its_signal() -> None:
    assert set(SIGNALS) == set(Change)
    assert [signal.name for signal in SIGNALS.values()] == [f"work_{change.value}" for change in SIGNALS]
