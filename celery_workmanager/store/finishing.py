"""Finishing: verdicts on runs are written, guarded by their tokens, and children unblocked or failed with them.

A caller's open transaction must never stall a node: rows that others hold are passed over and reported as held.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, String, Text, Update, bindparam, case, func, select, update

from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.inheritance import Failed, inherited_errors
from celery_workmanager.lifecycle import Move, leaves, reaches
from celery_workmanager.news import note
from celery_workmanager.outcome import Claim
from celery_workmanager.sentences import Sentence
from celery_workmanager.store import aftermath, ending, following, periods, stops
from celery_workmanager.store.aftermath import BadEnd, bad_end
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.following import Taker
from celery_workmanager.store.graph import Locked, lock_descendants, lock_works, ways_down
from celery_workmanager.store.many import Given, Many
from celery_workmanager.store.owning import Own, as_they_were, look_at
from celery_workmanager.store.replacing import replace_work
from celery_workmanager.store.rows import ready_columns
from celery_workmanager.tables import edge, state_in, work
from celery_workmanager.terms import Terms, prune_moment
from celery_workmanager.timing import first_run_at
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State, StopReason

EMPTY = "{}"
_RUN = leaves(Move.SUCCEED)


@dataclass(slots=True)
class Settled:
    """What became of a batch of verdicts: ids by how they fared, and how many children may run now."""

    accepted: set[str] = field(default_factory=set)
    #: The run no longer owned its work: nothing was written.
    stale: set[str] = field(default_factory=set)
    #: Another transaction holds the work or a child: try again.
    held: set[str] = field(default_factory=set)
    unblocked: int = 0
    #: Works that were unblocked, and claimed at once.
    claims: list[Claim] = field(default_factory=list)

    def and_then(self, later: Settled) -> Settled:
        """Both together."""
        return Settled(
            self.accepted | later.accepted,
            self.stale | later.stale,
            self.held | later.held,
            self.unblocked + later.unblocked,
            self.claims + later.claims,
        )


def _free(connection: Connection, finished: Sequence[str]) -> None:
    # Not by the settlement: each of its works would pay for the index of those that are held.
    for some in chunks(finished):
        connection.execute(update(work).where(work.c.id.in_(some)).values(held=None))


def settle(
    connection: Connection,
    verdicts: Sequence[Verdict],
    now: int,
    terms: Terms,
    *,
    wait: bool = False,
    taker: Taker | None = None,
) -> Settled:
    """Write `verdicts` in one transaction; raises HeldByOthers when a child is held (the caller leaves that one out).

    With `wait` (a transaction of the user's own) locks are waited for instead. `taker` claims what is unblocked.
    """
    settled = Settled()
    by_id = {verdict.id: verdict for verdict in verdicts}
    rows = _lock_own(connection, by_id, settled, wait=wait)
    mine = [verdict for verdict in verdicts if verdict.id in rows]
    if not mine:
        return settled
    mine = judged_by_present_options(connection, mine, rows)
    if any(verdict.period is not None for verdict in mine):
        mine = periods.let_go(connection, mine)
        periods.write(connection, mine)
    stops.write_ends(connection, mine, now, terms)
    mine = as_they_were(connection, mine)
    ending.write(connection, [verdict for verdict in mine if verdict.replacement is None], rows, now)
    _free(connection, [each.id for each in mine if rows[each.id].held is not None and each.state.is_finished])
    for verdict in mine:
        if verdict.replacement is not None:
            replace_work(connection, verdict.id, verdict.token, verdict.replacement, now, terms)
    for move, change in _TOLD.items():
        ended = (each for each in mine if each.move is move and each.stop_reason is not StopReason.NOT_STOPPED)
        note(connection, change, map(event_of, ended))
    settled.accepted |= rows.keys()
    parents = [verdict for verdict in mine if rows[verdict.id].has_children]
    succeeded = [verdict.id for verdict in parents if verdict.state is State.SUCCEEDED]
    failed = [Failed(each.id, each.error, each.chord) for each in parents if each.state is State.FAILED]
    released = release_children(connection, succeeded, now, wait=wait) if succeeded else []
    settled.unblocked = len(released)
    if taker is not None:
        settled.claims = following.claim(connection, released, taker, now)
    if failed:
        fail_descendants(connection, failed, now, terms, wait=wait)
    ends = (BadEnd(each.id, each.state, each.error, each.errbacks) for each in mine if each.errbacks)
    aftermath.write(connection, ends, now, terms)
    return settled


#: What is told of runs, by how they ended: a system that stops or loses them isn't seen in Celery's signals.
_TOLD = {Move.STOP: Change.STOPPED, Move.HEAL: Change.HEALED}


def event_of(verdict: Verdict) -> WorkEvent:
    """What is told of a run that ended like this."""
    return WorkEvent(verdict.id, verdict.worker, verdict.state, verdict.stop_reason, verdict.node)


def judged_by_present_options(
    connection: Connection, verdicts: list[Verdict], rows: Mapping[str, Any]
) -> list[Verdict]:
    """The verdicts, those on works that were updated during the run judged again: its next run is the update's."""
    updated = [each.id for each in verdicts if rows[each.id].generation != each.generation]
    if not updated:
        return verdicts
    present: dict[str, Any] = {}
    columns = (work.c.id, work.c.options, work.c.override_at, work.c.override_generation)
    for ids in chunks(updated):
        present |= {row.id: row for row in connection.execute(select(*columns).where(work.c.id.in_(ids)))}
    return [_judged_again(each, rows[each.id].generation, present.get(each.id)) for each in verdicts]


def _judged_again(verdict: Verdict, generation: int, row: Any) -> Verdict:
    if row is None or verdict.again is None:
        return verdict
    return verdict.again(generation, json.loads(row.options), (row.override_at, row.override_generation))


def _lock_own(connection: Connection, by_id: dict[str, Verdict], settled: Settled, *, wait: bool) -> dict[str, Own]:
    """Lock the works whose run still owns them; sort the others into stale, held and finished by the run itself."""
    owned: dict[str, Own] = {}
    for ids in chunks(sorted(by_id)):
        locked, others = look_at(connection, ids, wait=wait)
        for each in ids:
            row = locked.get(each) or others.get(each)
            if row is None or row.token != by_id[each].token:
                settled.stale.add(each)
            elif row.state not in _RUN:
                # Finished under this very token: the worker completed in a transaction of its own.
                settled.accepted.add(each)
            elif each in locked:
                owned[each] = row
            else:
                settled.held.add(each)
    return owned


def _unblocked(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], state_in(leaves(Move.UNBLOCK))).values(
        state=int(reaches(Move.UNBLOCK)),
        waits_for=None,
        enqueued_at=given["at"],
        run_at=given["next_run"],
        due_at=given["due"],
        ready_lane=case((work.c.held.is_(None), given["lane_now"]), else_=None),
        version=work.c.version + 1,
    )


UNBLOCK = Many(
    {"key": String, "at": BigInteger, "next_run": BigInteger, "due": BigInteger, "lane_now": BigInteger}, _unblocked
)
_WAIT_ON = Many(
    {"key": String, "count": Integer},
    lambda change, given: change.where(work.c.id == given["key"]).values(waits_for=given["count"]),
)


_CHILDREN = select(edge.c.child, func.count()).group_by(edge.c.child)
_CHILDREN_OF_ONE = Sentence(_CHILDREN.where(edge.c.parent == bindparam("parent")))


def _children_of(connection: Connection, parents: Sequence[str]) -> Counter[str]:
    """How many of `parents` each of their children has."""
    counts: Counter[str] = Counter()
    if len(parents) == 1:
        counts.update({str(row[0]): int(row[1]) for row in _CHILDREN_OF_ONE.say(connection, {"parent": parents[0]})})
    else:
        for some in chunks(parents):
            counts.update(dict(connection.execute(_CHILDREN.where(edge.c.parent.in_(some))).all()))
    return counts


def release_children(connection: Connection, parents: Sequence[str], now: int, *, wait: bool = False) -> list[Locked]:
    """Take succeeded `parents` off the counters of their children; returns the children that are ENQUEUED by that.

    The children are locked first and then counted down: two parents that finish together can't both miss the last.
    """
    counts = _children_of(connection, parents)
    children = lock_works(connection, counts, wait=wait)
    unblocked: list[Locked] = []
    waiting = []
    for child in children.values():
        if child.state != State.BLOCKED:
            continue
        left = (child.waits_for or 0) - counts[child.id]
        if left > 0:
            waiting.append({"key": child.id, "count": left})
        else:
            unblocked.append(child)
    _WAIT_ON.write(connection, waiting)
    UNBLOCK.write(connection, [unblocked_binds(child, now) for child in unblocked])
    if unblocked:
        note(connection, Change.UNBLOCKED, map(unblocked_event, unblocked))
    return unblocked


def unblocked_event(child: Locked) -> WorkEvent:
    """What is told of a work that waits for nothing any more."""
    return WorkEvent(child.id, child.worker, reaches(Move.UNBLOCK))


def unblocked_binds(child: Locked, now: int) -> dict[str, Any]:
    """The parameters that make a BLOCKED work ENQUEUED: its delay counts from now."""
    delay = json.loads(child.options).get("initial_delay", 0)
    ready = ready_columns(first_run_at(now, delay), child.lane, now)
    return {
        "key": child.id,
        "at": now,
        "next_run": ready["run_at"],
        "due": ready["due_at"],
        "lane_now": ready["ready_lane"],
    }


def _with_failure(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["key"], state_in(leaves(Move.INHERIT_FAILURE))).values(
        state=int(reaches(Move.INHERIT_FAILURE)),
        stop_reason=int(StopReason.NOT_STOPPED),
        output=EMPTY,
        error=given["why"],
        finished_at=given["at"],
        prune_at=given["prune"],
        ready_lane=None,
        held=None,
        due_at=None,
        expires_at=None,
        waits_for=None,
        node=None,
        token=None,
        version=work.c.version + 1,
    )


_INHERIT = Many({"key": String, "why": Text, "at": BigInteger, "prune": BigInteger}, _with_failure)


def fail_descendants(
    connection: Connection, roots: Sequence[Failed], now: int, terms: Terms, *, wait: bool = False
) -> list[str]:
    """All unfinished downstream of the failed `roots` becomes FAILED; cancelled works stay, and are walked through."""
    ids = [root.id for root in roots]
    rows = lock_descendants(connection, ids, wait=wait)
    doomed = {row.id: row for row in rows.values() if not State(row.state).is_finished}
    if not doomed:
        return []
    options = {each: json.loads(row.options) for each, row in rows.items()}
    inherited = inherited_errors(roots, ways_down(connection, ids), options)
    binds = [
        {
            "key": row.id,
            "why": inherited[row.id].error,
            "at": now,
            "prune": prune_moment(now, row.enqueued_at, options[row.id], terms),
        }
        for row in doomed.values()
    ]
    _INHERIT.write(connection, binds)
    ends = (
        bad_end(each, State.FAILED, inherited[each].error, options[each], by_itself=inherited[each].is_chord)
        for each in doomed
    )
    aftermath.write(connection, ends, now, terms)
    return list(doomed)


def with_children(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that have works depending on them."""
    found: set[str] = set()
    for some in chunks(ids):
        parents = select(work.c.id).where(work.c.id.in_(some), work.c.has_children == 1)
        found |= set(connection.execute(parents).scalars())
    return found
