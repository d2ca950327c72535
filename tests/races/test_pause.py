"""Pausing and resuming beside everything that may make a work claimable at the same moment.

Who loses is named by each test. What holds in all of them: once ``pause`` has returned nothing paused is claimed, and
once ``resume`` has returned nothing is forgotten.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from celery_workmanager.errors import PauseIncomplete
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.planning import Step
from celery_workmanager.store import Store, pausing
from celery_workmanager.timing import SECOND
from tests.stores import (
    APPEND,
    HOUR,
    KEEP,
    QUEUE,
    WORKER,
    end,
    holding,
    info,
    is_blocked,
    job,
    make_store,
    meanwhile,
    move,
    put,
    put_chain,
    put_named,
    row,
    states,
    take,
    take_one,
    together,
    twin,
    users_engine,
    wait_until,
)

TAG, NAME = PauseTarget(PauseKind.TAG, "red"), PauseTarget(PauseKind.NAME, "import")
LANE, LINE = PauseTarget(PauseKind.TAG, WORKER), PauseTarget(PauseKind.QUEUE, QUEUE)
HELD = pytest.mark.parametrize("target", [TAG, NAME], ids=["tag", "name"])
EVERY = pytest.mark.parametrize("target", [TAG, NAME, LANE, LINE], ids=["tag", "name", "worker", "queue"])
ROUNDS = 6


def put_red(store: Store, *ids: str, connection: Connection | None = None, **options: Any) -> None:
    requests = [job(each, tags={"red"}, **options) for each in ids]
    put_named(store, "import", APPEND, *requests, connection=connection)


def claimed(store: Store) -> set[str]:
    return {claim.id for claim in take(store, 100)}


def impatient(store: Store) -> Store:
    """Another process's store, which waits for nobody."""
    return make_store(store.database.url.render_as_string(hide_password=False), clock=store.clock, name_wait=0.05)  # type: ignore[arg-type]


# -- an enqueue ---------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("change", [pausing.pause, pausing.resume])
def test_an_enqueue_at_the_same_moment_is_neither_started_nor_forgotten(
    store: Store, target: PauseTarget, change: Callable[..., Any]
):
    other = twin(store)
    if change is pausing.resume:
        pausing.pause(store, target)
    for n in range(ROUNDS):
        together(
            lambda: change(store, target),
            lambda n=n: put_red(other, f"a{n}"),
            lambda n=n: put(other, job(f"b{n}", tags={"red"})),
        )
    pauses = pausing.paused(store)
    assert (pauses == []) is (change is pausing.resume)
    left = {each for each in states(store) if not info(store, each).paused}
    assert left == (set(states(store)) if not pauses else {each for each in left if target is NAME and each[0] == "b"})
    if pauses:
        assert claimed(store) == left
    else:
        put_red(store, "last")
        assert {each.held for each in (row(store, one) for one in states(store))} == {None}
    other.close()


@HELD
def test_the_pause_waits_for_an_enqueue_that_could_not_see_it(server: Store, target: PauseTarget):
    """The enqueue loses: it has read that nothing is paused, and its works are held all the same."""
    other = twin(server)
    users = users_engine(server)
    with users.connect() as connection, connection.begin() as transaction:
        put_red(server, "a", connection=connection)
        with meanwhile(lambda: pausing.pause(other, target)) as pause:
            wait_until(lambda: pausing.paused(server))
            assert not pause.done()
            transaction.commit()
            assert pause.result(timeout=30) is True
    assert claimed(server) == set()
    assert info(server, "a").paused
    users.dispose()
    other.close()


def test_the_first_work_under_a_name_that_is_paused_is_held(store: Store):
    """Names may be paused before anybody has used them."""
    pausing.pause(store, NAME)
    put_named(store, "import", KEEP, "a")
    put_named(store, "other", KEEP, "b")
    assert [row(store, each).held for each in ("a", "b")] == [1, None]


@pytest.mark.postgresql
def test_a_pause_waits_for_the_first_work_under_a_name_that_could_not_see_it(postgresql: Store):
    """It is one statement, which sees one moment: it began before the pause, and waits for the name."""
    other, third = twin(postgresql), twin(postgresql)
    with holding(postgresql) as connection:
        connection.execute(text("INSERT INTO workmanager_name VALUES ('import')"))
        with meanwhile(lambda: put_named(other, "import", KEEP, "a")) as enqueued:
            wait_until(lambda: is_blocked(postgresql))
            with meanwhile(lambda: pausing.pause(third, NAME)) as pause:
                wait_until(lambda: pausing.paused(postgresql))
                assert not pause.done()
                connection.rollback()
                assert pause.result(timeout=30) is True
            assert len(enqueued.result(timeout=30).works) == 1
    assert row(postgresql, "a").held == 1
    assert take(postgresql) == []
    other.close()
    third.close()


@HELD
def test_the_resume_waits_for_an_enqueue_that_still_saw_the_pause(server: Store, target: PauseTarget):
    """The enqueue loses: it was told to be held, and is freed by the resume it didn't know of."""
    other = twin(server)
    pausing.pause(server, target)
    users = users_engine(server)
    with users.connect() as connection, connection.begin() as transaction:
        put_red(server, "a", connection=connection)
        with meanwhile(lambda: pausing.resume(other, target)) as resume:
            wait_until(lambda: not pausing.paused(server))
            assert not resume.done()
            transaction.commit()
            assert resume.result(timeout=30) is True
    assert claimed(server) == {"a"}
    users.dispose()
    other.close()


@pytest.mark.parametrize("change", [pausing.pause, pausing.resume])
def test_an_open_transaction_is_waited_for_in_bounds_and_seen_to_by_upkeep(server: Store, change: Callable[..., Any]):
    """The pause stands; only the works of that transaction follow later."""
    hasty = impatient(server)
    put(server, job("before", tags={"red"}))
    if change is pausing.resume:
        pausing.pause(server, TAG)
    users = users_engine(server)
    with users.connect() as connection, connection.begin():
        put(server, job("in it", tags={"red"}), connection=connection)
        with pytest.raises(PauseIncomplete, match="tag 'red'"):
            change(hasty, TAG)
        put(server, job("after", tags={"red"}))
        is_paused = change is pausing.pause
        assert [info(server, each).paused for each in ("before", "after")] == [is_paused] * 2
    move(server, pausing.HELP_AFTER + SECOND)
    pausing.go_on(server, {})
    assert info(server, "in it").paused is is_paused
    assert [each.is_complete for each in pausing.paused(server)] == [True] * is_paused
    hasty.close()
    users.dispose()


def test_a_pause_blocks_no_enqueue_while_it_waits(server: Store):
    other = twin(server)
    users = users_engine(server)
    with users.connect() as connection, connection.begin() as transaction:
        put(server, job("a", tags={"red"}), connection=connection)
        with meanwhile(lambda: pausing.pause(other, TAG)) as pause:
            wait_until(lambda: pausing.paused(server))
            put(server, job("b", tags={"red"}))
            assert not is_blocked(server)
            assert not pause.done()
            transaction.commit()
    assert claimed(server) == set()
    users.dispose()
    other.close()


# -- a claim ------------------------------------------------------------------------------------------------------


@EVERY
def test_a_claim_at_the_same_moment_wins_what_it_takes_and_nothing_is_taken_afterwards(
    store: Store, target: PauseTarget
):
    """The claim that comes first wins: what it took goes on. Nothing else is taken once the pause has returned."""
    other = twin(store)
    ids = [f"w{n:02}" for n in range(60)]
    put_red(store, *ids)
    taken: list[str] = []
    for _ in range(ROUNDS):
        _, claims = together(lambda: pausing.pause(store, target), lambda: take(other, 7))
        taken += [claim.id for claim in claims]
        assert claimed(store) == set()
        pausing.resume(store, target)
    taken += claimed(store)
    assert sorted(taken) == ids
    other.close()


@HELD
def test_a_claim_passes_over_the_works_a_pause_is_marking(server: Store, target: PauseTarget):
    """The claim loses: rows that are being marked are not waited for."""
    put_red(server, "a", "b")
    with server.database.transaction() as marking:
        marking.execute(text("UPDATE workmanager_work SET held = 1, ready_lane = NULL WHERE id = 'a'"))
        assert claimed(server) == {"b"}


@HELD
def test_a_pause_passes_over_the_works_a_claim_is_taking_and_comes_back(server: Store, target: PauseTarget):
    """The pause loses: the work is taken, it only waits after this run."""
    put_red(server, "a")
    other = twin(server)
    with server.database.transaction() as claiming:
        claiming.execute(text("UPDATE workmanager_work SET node = 'n', token = 1, ready_lane = NULL WHERE id = 'a'"))
        with meanwhile(lambda: pausing.pause(other, target)) as pause:
            wait_until(lambda: pausing.paused(server))
            assert not pause.done()
            claiming.commit()
            assert pause.result(timeout=30)
    found = row(server, "a")
    assert (found.node, found.held, found.ready_lane) == ("n", 1, None)
    other.close()


def test_a_claim_whose_look_is_older_than_the_pause_takes_nothing(server: Store):
    """The claim loses, however long it was frozen between its look and its claim."""
    other = twin(server)
    put(server, "a")
    seen = server.look()
    pausing.pause(other, LINE)
    assert server.claim(seen.lanes, "node", 1, 10, stamp=seen.stamp) == []
    other.close()


# -- what makes works claimable -----------------------------------------------------------------------------------


def _unblock(store: Store) -> Callable[[], Any]:
    put_chain(store, "parent", "w")
    claim = take_one(store, "parent")
    claim.has_children = (
        False  # as if it had got its child since: then the end takes a transaction of several statements
    )
    return lambda: end(store, claim)


def _promote(store: Store) -> Callable[[], Any]:
    put(store, job("w", initial_delay=60))
    store.clock.move(HOUR)  # type: ignore[attr-defined]
    return store.promote


def _retry(store: Store) -> Callable[[], Any]:
    put(store, job("w", backoff_delay=10))
    claim = take_one(store, "w")

    def again() -> None:
        assert end(store, claim, ending=Ending.GIVEN_BACK).accepted == {"w"}

    return again


def _run_now(store: Store) -> Callable[[], Any]:
    put(store, job("w", initial_delay=3600))
    return lambda: store.make_due("w")


def _update(store: Store) -> Callable[[], Any]:
    put(store, "w")
    return lambda: store.update(job("w", tags={"red"}), QUEUE)


CHANGES = pytest.mark.parametrize("prepare", [_unblock, _promote, _retry, _run_now, _update])


@CHANGES
def test_whatever_makes_a_work_claimable_beside_a_pause_loses(
    server: Store, prepare: Callable[[Store], Callable[[], Any]]
):
    """Both lock the work's row; whoever comes second sees what the first did."""
    other = twin(server)
    change = prepare(other)
    _label(server)
    # The change is made and not committed when the pause comes to the row.
    with _stopped_before_commit(other) as (reached, go_on), meanwhile(change) as changing:
        assert reached.wait(30)
        with meanwhile(lambda: pausing.pause(server, TAG)) as pause:
            wait_until(lambda: pausing.paused(server))
            assert not pause.done()
            go_on.set()
            changing.result(timeout=30)
            assert pause.result(timeout=30)
    assert claimed(server) == set()
    assert row(server, "w").held == 1
    pausing.resume(server, TAG)
    assert "w" in claimed(server)
    other.close()


@CHANGES
def test_a_change_that_comes_while_the_work_is_being_held_sees_it(
    server: Store, prepare: Callable[[Store], Callable[[], Any]]
):
    other = twin(server)
    change = prepare(other)
    _label(server)
    pausing.pause(server, TAG)
    change()
    assert claimed(server) == set()
    pausing.resume(server, TAG)
    assert "w" in claimed(server)
    other.close()


@CHANGES
def test_pausing_resuming_and_changing_together_forget_nothing(
    store: Store, prepare: Callable[[Store], Callable[[], Any]]
):
    other, third = twin(store), twin(store)
    change = prepare(other)
    _label(store)
    together(change, lambda: pausing.pause(store, TAG), lambda: pausing.resume(third, TAG))
    pausing.resume(store, TAG)
    if row(store, "w").node is None and row(store, "w").ready_lane is None:
        change()  # it lost against a row that was held, and is tried again
    move(store, 0)
    assert "w" in claimed(store)
    for each in (other, third):
        each.close()


def _label(store: Store) -> None:
    with store.database.transaction() as connection:
        connection.execute(text("INSERT INTO workmanager_tag (work, tag) VALUES ('w', 'red')"))


class _stopped_before_commit:  # noqa: N801 - reads as a sentence
    """The next transaction of `store` that has changed a work stands still before its commit, until it is told."""

    def __init__(self, store: Store) -> None:
        self._engine = store.database.engine()
        self._reached, self._go_on = threading.Event(), threading.Event()

    def _commit(self, _connection: Any) -> None:
        self._reached.set()
        assert self._go_on.wait(30)

    def __enter__(self) -> tuple[threading.Event, threading.Event]:
        event.listen(self._engine, "commit", self._commit)
        return self._reached, self._go_on

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        event.remove(self._engine, "commit", self._commit)


# -- pauses among themselves -----------------------------------------------------------------------------------------


@HELD
def test_the_last_of_many_who_pause_and_resume_is_right(
    store: Store, target: PauseTarget, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pausing, "CHUNK", 5)
    other, third = twin(store), twin(store)
    put_red(store, *(f"w{n:02}" for n in range(30)))
    for _ in range(ROUNDS):
        together(
            lambda: pausing.pause(store, target),
            lambda: pausing.resume(other, target),
            lambda: pausing.pause(third, target),
        )
        held = {row(store, each).held for each in states(store)}
        assert held == ({1} if pausing.paused(store) else {None})
    for each in (other, third):
        each.close()


def test_two_pauses_of_one_work_at_the_same_moment(store: Store):
    other = twin(store)
    for n in range(ROUNDS):
        put_red(store, f"w{n}")
        assert together(lambda: pausing.pause(store, TAG), lambda: pausing.pause(other, NAME)) == [True, True]
        assert claimed(store) == set()
        assert together(lambda: pausing.resume(store, TAG), lambda: pausing.resume(other, NAME)) == [True, True]
        assert row(store, f"w{n}").held is None
    other.close()


@HELD
def test_a_row_that_somebody_holds_is_waited_for_in_bounds(server: Store, target: PauseTarget):
    hasty = impatient(server)
    put_red(server, "free", "held")
    with holding(server, "held"):
        with pytest.raises(PauseIncomplete):
            pausing.pause(hasty, target)
        assert row(server, "free").held == 1
        assert claimed(server) == set()
    assert claimed(server) == {"held"}  # it was let go before the pause came to it: that is what the error said
    move(server, pausing.HELP_AFTER + SECOND)
    pausing.go_on(server, {})
    assert row(server, "held").held == 1
    hasty.close()


@pytest.mark.parametrize("count", [1, 2])
def test_marks_are_read_after_the_labels_are_written(server: Store, count: int):
    """The order that makes an enqueue and a pause see each other."""
    sent: list[str] = []
    event.listen(server.database.engine(), "before_cursor_execute", lambda *given: sent.append(given[2]))
    server.enqueue([Step(tuple(job(tags={"red"}) for _ in range(count)), name="n")], lambda _: QUEUE)
    (asks,) = [at for at, statement in enumerate(sent) if "workmanager_pause" in statement]
    writes = [at for at, statement in enumerate(sent) if "INTO workmanager_tag" in statement]
    writes += [at for at, statement in enumerate(sent) if "INTO workmanager_member" in statement]
    assert len(writes) == 2
    assert max(writes) < asks
