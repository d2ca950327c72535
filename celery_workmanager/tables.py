"""The tables of the store: for SQLite, PostgreSQL and MariaDB, and for any ORM that knows plain types.

Times are integers (microseconds since 1970-01-01 UTC), JSON is text, ids are strings: so the same rows can be written
through SQLAlchemy's own connections and through those of a web framework.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    literal_column,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from celery_workmanager.mysql import DIALECTS, small_index_columns
from celery_workmanager.pauses import PauseKind, PausePhase
from celery_workmanager.work import State

ID_LENGTH = 155
NAME_LENGTH = 255
#: MySQL's TEXT ends at 64 KiB.
LONG_TEXT = Text().with_variant(LONGTEXT(), "mysql", "mariadb")

metadata = MetaData()


def _column(name: str, kind: Any, *, null: bool = False, **kw: Any) -> Column[Any]:
    return Column(name, kind, nullable=null, **kw)


work = Table(
    "workmanager_work",
    metadata,
    _column("id", String(ID_LENGTH), primary_key=True),
    _column("worker", String(NAME_LENGTH)),
    _column("queue", String(NAME_LENGTH)),
    _column("state", SmallInteger),
    # Claiming. `lane` stands for all that a node must offer to run the work (queue and worker); `ready_lane` repeats it
    # while the work may be claimed and is NULL otherwise, so the claimable works are a small index of their own.
    _column("lane", BigInteger),
    _column("ready_lane", BigInteger, null=True),
    _column("urgency", SmallInteger),
    _column("run_at", BigInteger),
    _column("due_at", BigInteger, null=True),
    _column("expires_at", BigInteger, null=True),
    # 1 while a tag or unique name of the work is paused: then it gets no `ready_lane`, whatever happens to it.
    _column("held", SmallInteger, null=True),
    # From then on it runs whatever its constraints say: its lane is then that of a work without any.
    _column("deadline_at", BigInteger, null=True),
    # The limit of the fleet that had no room for it: then it gets no `ready_lane` until that limit wakes it.
    _column("parked_by", String(NAME_LENGTH), null=True),
    # The run that owns the work: a node's incarnation and the token that fences its writes.
    _column("node", String(ID_LENGTH), null=True),
    _column("token", BigInteger, null=True),
    _column("run_attempt_count", Integer),
    _column("runs", Integer),
    _column("interruptions", Integer),
    _column("generation", Integer),
    _column("stop_reason", SmallInteger),
    # The graph: how many direct prerequisites are unfinished, and whether there are any edges in or out at all.
    _column("waits_for", Integer, null=True),
    _column("has_parents", SmallInteger),
    _column("has_children", SmallInteger),
    _column("created_at", BigInteger),
    _column("enqueued_at", BigInteger, null=True),
    _column("started_at", BigInteger, null=True),
    _column("finished_at", BigInteger, null=True),
    _column("prune_at", BigInteger, null=True),
    _column("version", BigInteger),
    _column("retry_of", String(ID_LENGTH), null=True),
    # Periodic work: how many periods have ended, the nominal moment of the occurrence that is due or running (NULL: it
    # is one-time work), and the moment that its next run was set to.
    _column("period_count", Integer, server_default="0"),
    _column("period_at", BigInteger, null=True),
    _column("override_at", BigInteger, null=True),
    _column("override_generation", Integer, server_default="0"),
    # What the rules and the worker need, as JSON: only options that differ from their defaults.
    _column("options", LONG_TEXT),
    _column("input", LONG_TEXT),
    _column("output", LONG_TEXT, null=True),
    _column("progress", LONG_TEXT, null=True),
    _column("error", LONG_TEXT, null=True),
)

edge = Table(
    "workmanager_edge",
    metadata,
    _column("parent", String(ID_LENGTH), primary_key=True),
    _column("child", String(ID_LENGTH), primary_key=True),
    _column("position", Integer),
)

tag = Table(
    "workmanager_tag",
    metadata,
    _column("work", String(ID_LENGTH), primary_key=True),
    _column("tag", String(NAME_LENGTH), primary_key=True),
)

#: One permanent row a unique name: the place where enqueues of that name meet.
name = Table("workmanager_name", metadata, _column("name", String(NAME_LENGTH), primary_key=True))

member = Table(
    "workmanager_member",
    metadata,
    _column("name", String(NAME_LENGTH), primary_key=True),
    _column("work", String(ID_LENGTH), primary_key=True),
)

#: What is paused. Queues, workers' names and nodes are looked at by nodes, other tags and unique names by enqueues.
pause = Table(
    "workmanager_pause",
    metadata,
    _column("kind", String(8), primary_key=True),
    _column("label", String(NAME_LENGTH), primary_key=True),
    _column("since", BigInteger),
    # Who paused or resumed last: when, a random number, and how far the works have been marked (`PausePhase`).
    _column("changed_at", BigInteger),
    _column("token", Integer),
    _column("phase", SmallInteger),
)

#: The latest runs of periodic works, each numbered from 1.
run = Table(
    "workmanager_run",
    metadata,
    _column("work", String(ID_LENGTH), primary_key=True),
    _column("number", Integer, primary_key=True, autoincrement=False),
    _column("period", Integer),
    _column("scheduled_at", BigInteger),
    _column("started_at", BigInteger, null=True),
    _column("finished_at", BigInteger),
    _column("node", String(ID_LENGTH), null=True),
    _column("outcome", String(20)),
    _column("stop_reason", SmallInteger),
    _column("output", LONG_TEXT, null=True),
    _column("error", LONG_TEXT, null=True),
)

#: The runs that were stopped, each numbered from 1: when, why and where.
stop = Table(
    "workmanager_stop",
    metadata,
    _column("work", String(ID_LENGTH), primary_key=True),
    _column("number", Integer, primary_key=True, autoincrement=False),
    _column("reason", SmallInteger),
    _column("at", BigInteger),
    _column("started_at", BigInteger, null=True),
    _column("node", String(ID_LENGTH), null=True),
    _column("run_attempt_count", Integer),
)

#: A limit of the fleet. `full_at`: when a rate has all its tokens; `wake_at`: when works that it parked are looked at.
limit = Table(
    "workmanager_limit",
    metadata,
    _column("key", String(NAME_LENGTH), primary_key=True),
    _column("full_at", BigInteger),
    _column("wake_at", BigInteger, null=True),
)

#: The works that run under a limit; one counts as long as its work is still owned under this token.
permit = Table(
    "workmanager_permit",
    metadata,
    _column("key", String(NAME_LENGTH), primary_key=True),
    _column("work", String(ID_LENGTH), primary_key=True),
    _column("token", BigInteger),
)

node = Table(
    "workmanager_node",
    metadata,
    _column("id", String(ID_LENGTH), primary_key=True),
    _column("name", String(NAME_LENGTH)),
    _column("host", String(NAME_LENGTH)),
    _column("pid", Integer),
    _column("pid_started_at", BigInteger),
    _column("started_at", BigInteger),
    _column("lease_until", BigInteger),
    _column("facts", LONG_TEXT),
)

#: Results and groups of ordinary tasks, when the store is the app's result backend.
result = Table(
    "workmanager_result",
    metadata,
    _column("key", String(NAME_LENGTH), primary_key=True),
    _column("value", LONG_TEXT),
    _column("expires_at", BigInteger, null=True),
)

#: Facts about the whole store, such as when all work was last cancelled.
fact = Table(
    "workmanager_fact",
    metadata,
    _column("key", String(NAME_LENGTH), primary_key=True),
    _column("value", LONG_TEXT),
)

#: An app's `beat_schedule`: which beat fires its entries. Its token, repeated in them, fences those who held it before.
schedule = Table(
    "workmanager_schedule",
    metadata,
    _column("name", String(NAME_LENGTH), primary_key=True),
    _column("holder", String(ID_LENGTH), null=True),
    _column("token", BigInteger),
    _column("lease_until", BigInteger),
)

#: The entries of a schedule. `firing_at`: the fire that is under way, published or not.
entry = Table(
    "workmanager_entry",
    metadata,
    _column("schedule", String(NAME_LENGTH), primary_key=True),
    _column("name", String(NAME_LENGTH), primary_key=True),
    _column("token", BigInteger),
    _column("is_work", SmallInteger),
    _column("last_run_at", BigInteger),
    _column("total_run_count", BigInteger),
    _column("firing_at", BigInteger, null=True),
)


#: The columns whose NULLs small indexes leave out.
_GUARDS: dict[str, str] = {}


def _small_index(title: str, guard: Column[Any], *columns: Column[Any]) -> Index:
    # A partial index where there are such; elsewhere the NULLs lie together at one end and are never read.
    _GUARDS[title] = guard.name
    condition = guard.is_not(None)
    return Index(title, *columns, postgresql_where=condition, sqlite_where=condition)


# With the id, by which works that became ready at the same moment are claimed in the order in which they were made.
_small_index("workmanager_work_ready", work.c.ready_lane, work.c.ready_lane, work.c.urgency, work.c.run_at, work.c.id)
_small_index("workmanager_work_due", work.c.due_at, work.c.due_at)
_small_index("workmanager_work_expires", work.c.expires_at, work.c.expires_at)
_small_index("workmanager_work_node", work.c.node, work.c.node)
_small_index("workmanager_work_prune", work.c.prune_at, work.c.prune_at)
_small_index("workmanager_work_blocked", work.c.waits_for, work.c.id)
_small_index("workmanager_work_held", work.c.held, work.c.id)
_small_index("workmanager_work_periodic", work.c.period_at, work.c.id)
_small_index("workmanager_work_deadline", work.c.deadline_at, work.c.deadline_at)
_small_index("workmanager_work_parked", work.c.parked_by, work.c.parked_by, work.c.urgency, work.c.run_at, work.c.id)
_small_index("workmanager_limit_wake", limit.c.wake_at, limit.c.wake_at)
Index("workmanager_permit_work", permit.c.work)
Index("workmanager_work_worker", work.c.worker, work.c.id)
Index("workmanager_edge_child", edge.c.child, edge.c.position)
Index("workmanager_tag_tag", tag.c.tag, tag.c.work)
Index("workmanager_member_work", member.c.work)
_small_index("workmanager_result_expires", result.c.expires_at, result.c.expires_at)


def metadata_of(dialect: str) -> MetaData:
    """The tables as that database has them: `small_index_columns` says in what they differ."""
    if dialect not in DIALECTS:
        return metadata
    own = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(own)
    for table in own.tables.values():
        for index in [each for each in table.indexes if each.name in _GUARDS]:
            table.indexes.discard(index)
            names = small_index_columns(dialect, _GUARDS[str(index.name)], *index.columns.keys())
            Index(index.name, *(table.c[each] for each in names))
    return own


def _pauses_of(*kinds: PauseKind) -> ColumnElement[bool]:
    # Literals: nodes and enqueues ask so often that a list of parameters would be felt.
    return and_(_is_of(*kinds), IN_FORCE)


def _is_of(*kinds: PauseKind) -> ColumnElement[bool]:
    return pause.c.kind.in_([literal_column(f"'{kind.value}'") for kind in kinds])


IN_FORCE = pause.c.phase != literal_column(str(int(PausePhase.RESUMING)))
#: Pauses of kinds that this version knows: a later one may know more.
IS_KNOWN = _is_of(*PauseKind)
#: Pauses that nodes look at: a tag may be a worker's name.
OF_LANES = _pauses_of(PauseKind.QUEUE, PauseKind.TAG, PauseKind.NODE)
#: Pauses that works are held for.
OF_LABELS = _pauses_of(PauseKind.TAG, PauseKind.NAME)


def state_in(states: Iterable[State]) -> ColumnElement[bool]:
    """The guard that a work is in one of `states`: literals, so that a statement can be run for many rows at once."""
    return work.c.state.in_([literal_column(str(int(state))) for state in states])
