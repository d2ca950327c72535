"""Leases: one a node incarnation, renewed with one statement; what a lost node held goes back to the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, insert, literal, or_, select, update

from celery_workmanager.database import locking
from celery_workmanager.events import Change
from celery_workmanager.lifecycle import Move, leaves
from celery_workmanager.news import note
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.store.claiming import STANDING, standing_of
from celery_workmanager.store.finishing import Settled, event_of, settle
from celery_workmanager.tables import node, work
from celery_workmanager.terms import Terms
from celery_workmanager.verdict import Verdict, judge
from celery_workmanager.work import State

#: What a node that runs nothing, and only keeps time, says of itself under "kind".
BEAT = "beat"
#: How many works of a lost node are put back in one transaction.
HEAL_CHUNK = 200


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node incarnation: one start of one worker. Times in microseconds."""

    id: str
    name: str
    host: str
    pid: int
    pid_started_at: int
    started_at: int
    lease_until: int
    facts: str

    def is_alive(self, now: int) -> bool:
        """Whether the lease runs."""
        return self.lease_until >= now

    @property
    def runs_works(self) -> bool:
        """Whether it is a worker's; a beat's only keeps time."""
        return bool(json.loads(self.facts).get("kind") != BEAT)

    @property
    def host_name(self) -> str:
        """The machine's name, without what tells its starts apart."""
        return self.host.split("/", maxsplit=1)[0]


def register(connection: Connection, row: NodeRow) -> None:
    """Announce a node incarnation with its first lease."""
    values = {name: getattr(row, name) for name in NodeRow.__slots__}
    connection.execute(insert(node), values)


_RENEW = (
    update(node)
    .where(node.c.id == bindparam("node_id"))
    .values(lease_until=bindparam("until"), facts=bindparam("now_facts"))
)


def renew(connection: Connection, node_id: str, lease_until: int, facts: str) -> bool:
    """Extend the lease; ``False`` when the node has been declared lost and must take a new identity."""
    renewed = connection.execute(_RENEW, {"node_id": node_id, "until": lease_until, "now_facts": facts})
    return renewed.rowcount == 1


def unregister(connection: Connection, node_id: str) -> None:
    """Take a node off the list; whatever it still held is healed by `heal`, so only an idle node says goodbye."""
    held = select(work.c.id).where(work.c.node == node_id).limit(1)
    if connection.execute(held).first() is None:
        connection.execute(delete(node).where(node.c.id == node_id))


def nodes(connection: Connection) -> list[NodeRow]:
    """The node incarnations that are known."""
    return [NodeRow(**row) for row in connection.execute(select(node).order_by(node.c.id)).mappings()]


def give_up(connection: Connection, node_ids: Sequence[str]) -> None:
    """End the leases of nodes that are known to be dead (their process is gone from this machine)."""
    connection.execute(update(node).where(node.c.id.in_(node_ids)).values(lease_until=0))


_HEALED = (
    work.c.id, work.c.token, work.c.worker, work.c.queue, work.c.state, work.c.run_attempt_count,
    work.c.interruptions, work.c.generation, work.c.enqueued_at, work.c.run_at, work.c.options, STANDING,
)  # fmt: skip


def heal(
    connection: Connection,
    before: int,
    now: int,
    terms: Terms,
    *,
    passing: Sequence[str] = (),
    sparing: bool = False,
) -> tuple[str, Settled] | None:
    """Put back works of one node whose lease ended before `before`, a chunk at a time; ``None``: there is none.

    `passing`: nodes to leave alone this time. `sparing`: works that would end for good are left, as `held`.
    The node's row is locked first, so a renewal that comes late finds the node gone or waits, and healers don't meet.
    """
    lost = _lost_node(connection, before, passing)
    if lost is None:
        return None
    held = select(*_HEALED).where(work.c.node == lost).order_by(work.c.id).limit(HEAL_CHUNK)
    rows = connection.execute(held).all()
    if not rows:
        connection.execute(delete(node).where(node.c.id == lost))
        return lost, Settled()
    verdicts = [judge(_claim_of(row, lost), _loss_of(row), now, 0.0, terms) for row in rows]
    spared = {verdict.id for verdict in verdicts if sparing and verdict.state.is_finished}
    settled = settle(connection, [verdict for verdict in verdicts if verdict.id not in spared], now, terms)
    settled.held |= spared
    _note_unstarted(connection, verdicts, settled)
    return lost, settled


def _note_unstarted(connection: Connection, verdicts: Sequence[Verdict], settled: Settled) -> None:
    # Those whose runs had begun are told of where runs end.
    back = (each for each in verdicts if each.move is Move.GIVE_BACK and each.id in settled.accepted)
    note(connection, Change.HEALED, map(event_of, back))


def put_back(connection: Connection, node_id: str, ids: Sequence[str], now: int, terms: Terms) -> Settled:
    """Put back works that a living node holds and knows nothing of: the answer to its claim was lost."""
    held = select(*_HEALED).where(work.c.node == node_id, work.c.id.in_(ids[:HEAL_CHUNK])).order_by(work.c.id)
    rows = connection.execute(held).all()
    verdicts = [judge(_claim_of(row, node_id), _loss_of(row), now, 0.0, terms) for row in rows]
    settled = settle(connection, verdicts, now, terms)
    _note_unstarted(connection, verdicts, settled)
    return settled


#: Works in the hands of nobody: a node that was declared lost while it slept may have claimed on waking, before it
#: noticed.
_ORPHANS = select(work.c.node).where(work.c.node.is_not(None), ~exists().where(node.c.id == work.c.node))
_HAS_LOST = or_(exists().where(node.c.lease_until < bindparam("before")), _ORPHANS.exists()).label("has_lost")
_ONE = select(literal(1).label("one")).subquery()
_HERE = node.alias("here")
#: One row at least, also for a machine without nodes.
_LOOK_FOR_LOST = select(_HAS_LOST, _HERE).select_from(_ONE.outerjoin(_HERE, _HERE.c.host == bindparam("host")))


def look_for_lost(connection: Connection, host: str, before: int) -> tuple[list[NodeRow], bool]:
    """The node incarnations of a machine, and whether `heal` may find something; nothing is locked.

    One statement: idle nodes ask for both all the time.
    """
    rows = connection.execute(_LOOK_FOR_LOST, {"host": host, "before": before}).mappings().all()
    columns = NodeRow.__slots__
    here = [NodeRow(**{name: row[name] for name in columns}) for row in rows if row["id"] is not None]
    return here, bool(rows[0]["has_lost"])


def _lost_node(connection: Connection, before: int, passing: Sequence[str]) -> str | None:
    expired = select(node.c.id).where(node.c.lease_until < before, node.c.id.not_in(passing))
    expired = expired.order_by(node.c.lease_until).limit(1)
    found: str | None = connection.execute(locking(expired, connection, skip=True)).scalar()
    if found is None:
        orphans = _ORPHANS.where(work.c.node.not_in(passing))
        found = connection.execute(orphans.limit(1)).scalar()
    return found


def _claim_of(row: Any, node_id: str) -> Claim:
    started = row.state in _STARTED
    return Claim(
        id=row.id,
        worker=row.worker,
        queue=row.queue,
        token=row.token,
        node=node_id,
        run_attempt_count=row.run_attempt_count - started,
        interruptions=row.interruptions,
        generation=row.generation,
        inputs=[],
        enqueued_at=row.enqueued_at or 0,
        run_at=row.run_at,
        options=json.loads(row.options),
        start_written=started,
        standing=None if row.standing is None else standing_of(row.standing),
    )


_STARTED = [int(state) for state in leaves(Move.SUCCEED) if state is State.RUNNING]


def _loss_of(row: Any) -> Outcome:
    # Only a run whose start was written counts as interrupted; a claim that never began is merely given back.
    if row.state in _STARTED:
        return Outcome(Ending.LOST, started_at=0.0)
    return Outcome(Ending.GIVEN_BACK)
