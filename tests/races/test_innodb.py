"""What InnoDB does differently from the other databases, one by one: on MariaDB, as on MySQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine, event, select, text
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError, OperationalError

from celery_workmanager.database import is_conflict, time_of
from celery_workmanager.errors import (
    StatementTooLarge,
    StoreBusy,
    StoreUnavailable,
    UniqueNameBusy,
    UnsupportedOperation,
)
from celery_workmanager.outcome import Ending, Outcome
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.planning import Step
from celery_workmanager.settlement import Settlement
from celery_workmanager.store import Store, marks, pausing
from celery_workmanager.tables import work
from tests.stores import (
    APPEND,
    KEEP,
    REPLACE,
    emptied,
    end,
    enqueue,
    fail,
    holding,
    info,
    is_blocked,
    job,
    make_store,
    meanwhile,
    put,
    put_named,
    register,
    row,
    sql,
    state,
    states,
    step,
    take,
    take_one,
    twin,
    users_engine,
    wait_until,
)

pytestmark = pytest.mark.mariadb

MIB = 1024 * 1024


@pytest.fixture
def mariadb(mariadb_store_url: str) -> Iterator[Store]:
    made = make_store(emptied(mariadb_store_url))
    yield made
    made.close()


@pytest.fixture
def connection(mariadb: Store) -> Iterator[Connection]:
    """A transaction of somebody's own."""
    users = users_engine(mariadb)
    with users.connect() as connection, connection.begin():
        yield connection
    users.dispose()


def variables(connection: Connection) -> tuple[object, ...]:
    names = ("tx_isolation", "innodb_lock_wait_timeout", "lock_wait_timeout", "idle_transaction_timeout")
    return tuple(connection.execute(text("SELECT " + ", ".join(f"@@{name}" for name in names))).one())


# -- snapshots ---------------------------------------------------------------------------------------------------


def test_our_own_connections_read_what_is_committed_and_wait_only_so_long(mariadb: Store):
    with mariadb.database.transaction() as ours, mariadb.database.plain() as plain:
        assert variables(ours) == variables(plain) == ("READ-COMMITTED", 5, 5, 10)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "READ UNCOMMITTED"])
def test_a_callers_transaction_that_may_read_an_old_snapshot_is_refused(mariadb: Store, level: str):
    """The database would refuse nothing: a name would be given twice, a child be missed by its parent's cancel."""
    users = create_engine(mariadb.database.url, isolation_level=level)
    with users.begin() as connection:
        connection.execute(select(work.c.id)).all()
        with pytest.raises(UnsupportedOperation, match=f"READ COMMITTED, got: {level}"):
            put_named(mariadb, "order", KEEP, "a", connection=connection)
        connection.execute(text("INSERT INTO workmanager_fact VALUES ('own', '1')"))
    users.dispose()
    assert states(mariadb) == {}


def test_a_callers_serializable_transaction_reads_nothing_old(mariadb: Store):
    put_named(mariadb, "order", KEEP, "x")
    users = create_engine(mariadb.database.url, isolation_level="SERIALIZABLE")
    with users.begin() as connection:
        assert put_named(mariadb, "order", KEEP, "a", connection=connection).works == ()
        put(mariadb, "b", connection=connection)
    users.dispose()
    assert set(states(mariadb)) == {"x", "b"}


# -- gap locks ---------------------------------------------------------------------------------------------------


def test_an_open_transaction_locks_no_gap_between_names_ids_or_claimable_works(mariadb: Store, connection: Connection):
    """Under the default level each of these would keep all others from storing what lies beside it."""
    impatient = twin(mariadb, name_wait=1)
    put(mariadb, "m")
    put_named(mariadb, "m", APPEND, "n", connection=connection)
    mariadb.cancel("nothing of that id", connection=connection)
    mariadb.cancel_matching(tag="nothing of that tag", connection=connection)
    assert [claim.id for claim in take(mariadb)] == ["m"]
    with mariadb.database.transaction() as claiming:  # a claim that has found nothing, and is still at it
        claiming.execute(select(work.c.id).where(work.c.ready_lane.is_not(None)).with_for_update(skip_locked=True))
        put_named(impatient, "l", KEEP, "l")
        put_named(impatient, "o", KEEP, job("o", tags={"nothing of that tag"}))
        assert {claim.id for claim in take(impatient)} == {"l", "o"}
    impatient.close()


# -- waiting for locks -------------------------------------------------------------------------------------------


def test_who_waits_in_vain_in_a_callers_transaction_leaves_nothing_of_his_call_behind(
    mariadb: Store, connection: Connection
):
    """The database takes back the one statement; the call is taken back to where it began, the caller's rows stay."""
    impatient = twin(mariadb, name_wait=0.2)
    put_named(mariadb, "busy", KEEP, "held")
    put_named(mariadb, "able", KEEP, "kept")
    connection.execute(text("SET innodb_lock_wait_timeout = 7"))
    put(impatient, "before", connection=connection)
    with holding(mariadb, "held"):
        # The first is replaced, and then the second is waited for.
        both = [Step((job(),), name=name, policy=REPLACE) for name in ("able", "busy")]
        with pytest.raises(UniqueNameBusy):
            enqueue(impatient, *both, connection=connection)
        with pytest.raises(StoreBusy):
            impatient.cancel("held", connection=connection)
        put_named(impatient, "free", KEEP, "free", connection=connection)
    assert variables(connection)[1] == 7
    connection.commit()
    assert states(mariadb) == dict.fromkeys(["held", "kept", "before", "free"], "ENQUEUED")
    impatient.close()


def test_who_changes_the_tables_is_not_waited_for_without_end(mariadb: Store):
    impatient = twin(mariadb, name_wait=0.2)
    impatient.open()
    with mariadb.database.plain() as connection:
        connection.execute(text("LOCK TABLES workmanager_work WRITE"))
        with pytest.raises(StoreBusy):
            put(impatient, "a")
        connection.execute(text("UNLOCK TABLES"))
    put(impatient, "a")
    impatient.close()


# -- deadlocks ---------------------------------------------------------------------------------------------------


def test_a_deadlock_ends_the_callers_whole_transaction_and_he_is_told(mariadb: Store, connection: Connection):
    """Nothing is tried again in it, not even the savepoint is there any more."""
    put(mariadb, "a", "b")
    # The database gives up the one of two that has changed less.
    sql_of = "UPDATE workmanager_work SET version = version + 1 WHERE id = 'b'"
    put(mariadb, "before", connection=connection)
    mariadb.cancel("a", connection=connection)

    def other() -> None:
        with mariadb.database.transaction() as own:
            own.execute(text("INSERT INTO workmanager_fact SELECT CONCAT('weight ', seq), '' FROM seq_1_to_200"))
            own.execute(text(sql_of))
            own.execute(text("UPDATE workmanager_work SET version = version + 1 WHERE id = 'a'"))

    with meanwhile(other) as theirs:
        wait_until(lambda: is_blocked(mariadb))
        with pytest.raises(OperationalError) as caught:
            mariadb.cancel("b", connection=connection)
        theirs.result()
    assert is_conflict(caught.value)
    connection.rollback()
    assert states(mariadb) == {"a": "ENQUEUED", "b": "ENQUEUED"}


# -- counting rows -----------------------------------------------------------------------------------------------


def test_a_row_that_is_written_as_it_was_counts_as_written(mariadb: Store):
    """Else a node that renews its lease twice in a microsecond would take itself for lost."""
    register(mariadb)
    assert mariadb.renew("node", 5, "{}")
    assert mariadb.renew("node", 5, "{}")
    assert not mariadb.renew("nobody", 5, "{}")


def test_an_assignment_reads_what_was_there_before(mariadb: Store):
    """MySQL assigns from left to right: the end of a short run looks at the state that it changes."""
    put(mariadb, "a", "b")
    end(mariadb, *take(mariadb))
    assert [(info(mariadb, each).runs, info(mariadb, each).started_at is not None) for each in "ab"] == [(1, True)] * 2


# -- pauses ------------------------------------------------------------------------------------------------------


def test_a_pause_waits_for_whoever_is_freeing_its_works_from_another_one(mariadb: Store):
    """He has not seen its mark, and it can't see yet that he frees them: their labels are where the two meet."""
    put(mariadb, job("a", tags={"blue", "red"}))
    blue, red = PauseTarget(PauseKind.TAG, "blue"), PauseTarget(PauseKind.TAG, "red")
    pausing.pause(mariadb, blue)
    sql(mariadb, "DELETE FROM workmanager_pause")
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.extend([statement] if "NOWAIT" in statement else [])

    event.listen(mariadb.database.engine(relaxed=True), "before_cursor_execute", note)
    with mariadb.database.engine().connect() as freeing:
        assert marks.bring_in_line(freeing, ["a"]) == (1, 0)
        with meanwhile(lambda: pausing.pause(mariadb, red)) as pause:
            wait_until(lambda: len(asked) > 3 or pause.done())
            freeing.commit()
            assert pause.result()
    assert take(mariadb) == []


# -- texts -------------------------------------------------------------------------------------------------------


def test_names_that_differ_in_any_character_are_different(mariadb: Store):
    names = ["a", "A", "a ", "ä", "a\u0308", "😀", "😁"]
    for each in names:
        put_named(mariadb, each, KEEP, job(f"id {each}", worker=each, tags={f"tag {each}"}))
    assert set(states(mariadb)) == {f"id {each}" for each in names}
    for each in names:
        assert mariadb.cancel_matching(unique_name=each) == [f"id {each}"]


def test_rows_are_locked_in_the_order_in_which_python_sorts_ids(mariadb: Store):
    ids = ["A", "Z", "a", "z", "ä", "\uffff", "😀"]
    put(mariadb, *ids)
    with mariadb.database.plain() as connection:
        assert connection.execute(select(work.c.id).order_by(work.c.id)).scalars().all() == sorted(ids)


def test_the_longest_names_and_texts_fit(mariadb: Store):
    roomy, long = twin(mariadb, data_max_bytes=9 * MIB), "\u0000é😀" * (MIB // 4)
    request = job("😀" * 155, worker="😀" * 255, tags={"😁" * 255}, queue="😂" * 255, input={"x": long})
    put_named(roomy, "😃" * 255, KEEP, request)
    (claim,) = roomy.claim(roomy.ready_lanes(), "node", 1, 1)
    assert json.loads(claim.inputs[0]) == {"x": long}
    end(roomy, claim, output=json.dumps("x" * 8 * MIB))
    assert len(row(roomy, request.id).output) == 8 * MIB + 2
    roomy.close()


def test_what_does_not_fit_is_an_error_whatever_the_server_lets_pass(mariadb: Store):
    sql(mariadb, "INSERT INTO workmanager_fact VALUES ('mode', @@sql_mode)")
    with pytest.raises(DBAPIError, match="Data too long"):
        sql(mariadb, "INSERT INTO workmanager_fact VALUES (:key, '')", key="x" * 256)


# -- statements that are too large -----------------------------------------------------------------------------------


def too_large(store: Store) -> str:
    with store.database.plain() as connection:
        most = connection.execute(text("SELECT @@max_allowed_packet")).scalar_one()
    return '"' * (most // 2)  # quoted, it is twice as long


def test_a_statement_that_the_server_refuses_for_its_size_is_a_clear_error_and_no_outage(mariadb: Store):
    roomy = twin(mariadb, data_max_bytes=1024 * MIB)
    with pytest.raises(StatementTooLarge, match="max_allowed_packet"):
        put(roomy, job("a", input={"x": too_large(mariadb)}))
    put(roomy, "b")
    assert states(roomy) == {"b": "ENQUEUED"}
    roomy.close()


def test_an_end_that_is_too_large_fails_alone_and_with_the_reason(mariadb: Store):
    put(mariadb, "a", "b", "c")
    settlement = Settlement(mariadb, mariadb.clock)
    for claim in take(mariadb):
        output = json.dumps(too_large(mariadb)) if claim.id == "b" else "1"
        settlement.add(claim, Outcome(Ending.SUCCEEDED, output=output, started_at=mariadb.clock.monotonic()))
    settlement.write()
    assert settlement.is_empty
    assert states(mariadb) == {"a": "SUCCEEDED", "b": "FAILED", "c": "SUCCEEDED"}
    assert info(mariadb, "b").error.exc_type == "StatementTooLarge"


# -- connections -------------------------------------------------------------------------------------------------


def test_a_connection_that_the_server_ended_is_an_outage_of_one_call(mariadb: Store):
    def lose(connection: Connection) -> None:
        connection.execute(text("KILL CONNECTION_ID()"))
        connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable):
        mariadb.database.run(lose)
    put(mariadb, "a")
    for engine in (mariadb.database.engine(), mariadb.database.engine(relaxed=True)):
        with engine.connect() as connection, mariadb.database.plain() as other:
            number = connection.execute(text("SELECT CONNECTION_ID()")).scalar_one()
            connection.rollback()
            connection.close()
            other.execute(text(f"KILL {number}"))
    assert [claim.id for claim in take(mariadb)] == ["a"]  # they are tried before they are used


def test_a_use_of_a_connection_is_the_statement_and_no_more(mariadb: Store):
    """No question whether it is still there, and no rollback where nothing was begun."""
    if not hasattr(DefaultDialect, "detect_autocommit_setting"):
        pytest.skip("this release of SQLAlchemy always rolls back")
    asked = text(
        "SELECT variable_value FROM information_schema.session_status"
        " WHERE variable_name IN ('COM_ADMIN_COMMANDS', 'COM_ROLLBACK') ORDER BY variable_name"
    )
    mariadb.look()

    def seen() -> list[str]:
        with mariadb.database.plain() as connection:
            return list(connection.execute(asked).scalars())

    before = seen()
    for _ in range(3):
        mariadb.look()
    assert seen() == before


def test_the_clock_is_the_servers_in_whatever_zone_it_lives(mariadb: Store, connection: Connection):
    connection.execute(text("SET time_zone = '+05:30'"))
    before, now, after = time.time(), time_of(connection) or 0, time.time()
    assert before - 1 < now / 1_000_000 < after + 1
    assert (time_of(connection) or 0) > now  # within one transaction, too


# -- the graph ---------------------------------------------------------------------------------------------------


def test_a_child_that_is_stored_meanwhile_is_not_missed_by_its_parents_failure(mariadb: Store, connection: Connection):
    """A plain read would not see it; whoever adds a child holds its parent."""
    put(mariadb, "parent")
    claim = take_one(mariadb, "parent")
    enqueue(mariadb, step("parent"), step("child", after=["parent"]), connection=connection)
    assert end(mariadb, claim, ending=Ending.FAILED).held == {"parent"}
    connection.commit()
    end(mariadb, claim, ending=Ending.FAILED)
    assert states(mariadb) == {"parent": "FAILED", "child": "FAILED"}
    put(mariadb, "other")
    fail(mariadb, "other")
    assert state(mariadb, "other").name == "FAILED"
