"""The statement that ends runs: one for a batch where a database knows a way, guarded by the token of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    SmallInteger,
    String,
    Text,
    Update,
    any_,
    bindparam,
    case,
    func,
    select,
    update,
)

from celery_workmanager.lifecycle import Move, leaves
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import lists
from celery_workmanager.store.many import Given, Many
from celery_workmanager.store.owning import Own
from celery_workmanager.store.rows import EXPEDITED
from celery_workmanager.tables import state_in, work
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State

_RUN = leaves(Move.SUCCEED)

#: The parameters of a settlement with their types, one set a verdict.
PARAMETERS: dict[str, Any] = {
    "key": Text,
    "run": BigInteger,
    "to_state": SmallInteger,
    "attempts": Integer,
    "lost": Integer,
    "reason": SmallInteger,
    "began": BigInteger,
    "ended": BigInteger,
    "prune": BigInteger,
    "next_run": BigInteger,
    "due": BigInteger,
    "is_ready": SmallInteger,
    "is_over": SmallInteger,
    "enqueued": BigInteger,
    "unprivileged": SmallInteger,
    "result": Text,
    "failure": Text,
    "keeps_progress": SmallInteger,
}


#: The same with the generation that was judged; and each as what all verdicts of a batch have in common.
_JUDGED = {**PARAMETERS, "as_of": Integer}
_SAME: dict[str, Any] = {name: bindparam(name, type_=kind) for name, kind in _JUDGED.items()}
#: Those that differ even among runs that ended in the same way, and where a verdict has them.
_OWN = {
    "key": "id", "run": "token", "began": "started_at", "prune": "prune_at", "enqueued": "enqueued_at",
    "result": "output",
}  # fmt: skip
_own_of: Callable[[Verdict], tuple[Any, ...]] = attrgetter(*_OWN.values())
#: All others are made of these.
_SHARED = attrgetter(
    "state", "run_attempt_count", "interruptions", "stop_reason", "finished_at", "run_at", "loses_privilege", "error",
    "keeps_progress", "generation",
)  # fmt: skip


def settlement(settled: Update, given: Any, begins: Any) -> Update:
    """`settled` with what ends the runs that are `given`.

    `begins`: whether the start of the run is to be written. That of a short one is never written by itself.
    """
    over = given["is_over"] == 1
    was_privileged = (given["unprivileged"] == 1) & (work.c.urgency < 0)
    values: dict[str, Any] = {
        "run_attempt_count": given["attempts"],
        "runs": case((begins, work.c.runs + 1), else_=work.c.runs),
        "interruptions": given["lost"],
        "stop_reason": given["reason"],
        "started_at": case((begins, given["began"]), else_=work.c.started_at),
        "finished_at": given["ended"],
        "prune_at": given["prune"],
        "run_at": given["next_run"],
        "due_at": given["due"],
        "ready_lane": case(((given["is_ready"] == 1) & work.c.held.is_(None), work.c.lane), else_=None),
        "enqueued_at": given["enqueued"],
        "expires_at": case((over, None), else_=work.c.expires_at),
        "urgency": case((was_privileged, work.c.urgency + EXPEDITED), else_=work.c.urgency),
        "output": given["result"],
        "error": given["failure"],
        "progress": case((given["keeps_progress"] == 1, work.c.progress), else_=None),
        "node": None,
        # A finished work keeps the token, so that its own run recognizes a finish it has already made.
        "token": case((over, work.c.token), else_=None),
        "version": work.c.version + 1,
        "state": given["to_state"],
    }
    return settled.where(work.c.id == given["key"], work.c.token == given["run"], state_in(_RUN)).values(values)


def begins(given: Any) -> Any:
    """Whether the start of a run is to be written with its end."""
    return given["began"].is_not(None) & (work.c.state == int(State.ENQUEUED))


#: The ids of the batch. PostgreSQL reads the rows that are asked for by a list of ids, and no others, whatever its
#: statistics say; for a join alone it may go through the whole index, if they are from a time when the table was empty.
_IDS = lists.taken_apart("key")


def _settlement_of_arrays() -> Update:
    # One statement for the whole batch, whatever its size: a third of the cost of one statement a row.
    given = lists.table_of(PARAMETERS).c
    return settlement(update(work), given, begins(given)).where(work.c.id == any_(_IDS))


def given_to(alike: bool) -> Mapping[str, Any]:
    """The parameters of a batch (see `batch`) as columns, with the generation that was judged, ``as_of``."""
    if not alike:
        return lists.table_of(_JUDGED).c  # type: ignore[no-any-return]
    return _SAME | dict(lists.table_of({name: _JUDGED[name] for name in _OWN}).c.items())


def _plain_settlement(given: Given) -> Update:
    # What has changed since the claim is not for this statement.
    return settlement(update(work), given, begins(given)).where(
        work.c.generation == given["as_of"], work.c.has_children == 0, work.c.held.is_(None)
    )


def _plain_settlement_of_arrays(alike: bool) -> Update:
    # Rows that others hold are passed over.
    free = select(work.c.id).where(work.c.id == any_(_IDS)).order_by(work.c.id).with_for_update(skip_locked=True)
    chosen = select(free.cte("free").c.id).scalar_subquery()
    settled = _plain_settlement(given_to(alike)).where(work.c.id == any_(func.array(chosen)))
    return settled.returning(work.c.id)


def _plain_settlement_of_json(alike: bool) -> Update:
    """The same in SQLite's words: each row of parameters is an array in a JSON text."""
    row = func.json_each(bindparam("rows", type_=Text)).table_valued("value", name="given").c.value
    listed = enumerate(_OWN if alike else _JUDGED)
    return _plain_settlement(
        _SAME | {name: func.json_extract(row, f"$[{at}]", type_=_JUDGED[name]()) for at, name in listed}
    )


def _with_new_input(change: Update, given: Given) -> Update:
    mine = change.where(work.c.id == given["key"], work.c.token == given["run"], state_in(_RUN))
    return mine.values(input=given["call"])


def _settlement_of_read(change: Update, given: Given) -> Update:
    # MySQL may read a state that it has assigned already: what the state was is said with the parameters.
    return settlement(change, given, given["begins"] == 1)


_NEW_INPUT = Many({"key": String, "run": BigInteger, "call": Text}, _with_new_input)
_SETTLE = Many({**PARAMETERS, "key": String, "begins": SmallInteger}, _settlement_of_read)
_SETTLE_ARRAYS = _settlement_of_arrays()
_SETTLE_PLAIN = {alike: Sentence(_plain_settlement_of_arrays(alike)) for alike in (False, True)}
_SETTLE_PLAIN_JSON = {alike: Sentence(_plain_settlement_of_json(alike)) for alike in (False, True)}


def write(connection: Connection, verdicts: Sequence[Verdict], found: Mapping[str, Own], now: int) -> None:
    """Write `verdicts` on works whose rows are locked, as they were `found`."""
    rows = [binds(verdict, now) for verdict in verdicts]
    if not rows:
        return
    inputs = [{"key": each.id, "run": each.token, "call": each.input} for each in verdicts if each.input is not None]
    _NEW_INPUT.write(connection, inputs)
    if connection.dialect.name == "postgresql":
        connection.execute(_SETTLE_ARRAYS, by_columns(rows))
    else:
        for row in rows:
            row["begins"] = int(row["began"] is not None and found[row["key"]].state == State.ENQUEUED)
        _SETTLE.write(connection, rows)


def write_plain(connection: Connection, verdicts: Sequence[Verdict], now: int) -> set[str]:
    """On PostgreSQL and SQLite, by one statement, write those of `verdicts` that end a work nothing depends on.

    Returns their ids. The others are as they were: another run may own their works, others may hold them, or there is
    more to be done. On SQLite an id may be missing though its verdict is written: to be found when it is tried again.
    """
    if connection.dialect.name == "postgresql":
        alike, values = batch(verdicts, now)
        return {row[0] for row in _SETTLE_PLAIN[alike].say(connection, values)}
    # A count, not rows: the driver would ask for the interpreter's lock at each, while the engine waits for it, too.
    alike = are_alike(verdicts)
    count = _SETTLE_PLAIN_JSON[alike].change(connection, _as_json(alike, verdicts, now))
    return {each.id for each in verdicts} if count == len(verdicts) else set()


def _as_json(alike: bool, verdicts: Sequence[Verdict], now: int) -> dict[str, Any]:
    if alike:
        shared = {name: value for name, value in binds(verdicts[0], now).items() if name not in _OWN}
        return {**shared, "as_of": verdicts[0].generation, "rows": json.dumps(list(map(_own_of, verdicts)))}
    rows = ((binds(each, now), each.generation) for each in verdicts)
    return {"rows": json.dumps([[*map(row.__getitem__, PARAMETERS), as_of] for row, as_of in rows])}


def are_alike(verdicts: Sequence[Verdict]) -> bool:
    """Whether `verdicts` differ in nothing but what is each one's `_OWN`."""
    first = _SHARED(verdicts[0])
    return all(_SHARED(each) == first for each in verdicts)


def batch(verdicts: Sequence[Verdict], now: int) -> tuple[bool, dict[str, Any]]:
    """The parameters of all `verdicts`, and whether they are alike: then only what is each one's `_OWN` is a list."""
    if are_alike(verdicts):
        columns = zip(*map(_own_of, verdicts), strict=True)
        own = {name: lists.joined(column) for name, column in zip(_OWN, columns, strict=True)}
        return True, {**binds(verdicts[0], now), "as_of": verdicts[0].generation, **own}
    generations = lists.joined([each.generation for each in verdicts])
    return False, {**by_columns([binds(each, now) for each in verdicts]), "as_of": generations}


def by_columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The parameters of all verdicts as lists."""
    return {name: lists.joined([row[name] for row in rows]) for name in PARAMETERS}


def binds(verdict: Verdict, now: int) -> dict[str, Any]:
    """The parameters of one."""
    over = verdict.state.is_finished
    later = not over and verdict.run_at > now
    return {
        "key": verdict.id,
        "run": verdict.token,
        "to_state": int(verdict.state),
        "attempts": verdict.run_attempt_count,
        "lost": verdict.interruptions,
        "reason": int(verdict.stop_reason),
        "began": verdict.started_at,
        "ended": verdict.finished_at,
        "prune": verdict.prune_at,
        "next_run": verdict.run_at,
        "due": verdict.run_at if later else None,
        "is_ready": int(not over and not later),
        "is_over": int(over),
        "enqueued": verdict.enqueued_at,
        "unprivileged": int(verdict.loses_privilege),
        "result": verdict.output,
        "failure": verdict.error,
        "keeps_progress": int(verdict.keeps_progress),
    }
