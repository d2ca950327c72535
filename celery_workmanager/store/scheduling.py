"""Schedules: which beat fires an app's entries, and how far each entry is.

A schedule has one lease. Whoever takes it over makes a new token, and every write of the one before is refused from
then on. An entry's fire is claimed, published and confirmed: when its beat dies in between, the next one finds it
claimed and publishes it again, under the same task id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select, update

from celery_workmanager.bell import ring
from celery_workmanager.database import locking
from celery_workmanager.store import Store
from celery_workmanager.store.upserts import insert_or_ignore
from celery_workmanager.tables import entry, node, schedule

__all__ = ["Contents", "EntryRow", "ScheduleRow", "claim", "confirm", "load", "release", "renew", "schedules", "take"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule and who holds it (a node's id; ``None``: nobody yet). Times in microseconds."""

    name: str
    holder: str | None
    token: int
    lease_until: int


@dataclass(frozen=True, slots=True)
class EntryRow:
    """How far an entry is. Times in microseconds."""

    name: str
    is_work: bool
    last_run_at: int
    total_run_count: int
    #: The fire that is under way; ``None``: none is.
    firing_at: int | None = None


@dataclass(slots=True)
class Contents:
    """The entries of a schedule after they were compared with the configuration."""

    entries: dict[str, EntryRow] = field(default_factory=dict)
    #: Entries that stood for works and are in the configuration no more, or as ordinary tasks.
    gone_works: list[str] = field(default_factory=list)


def schedules(connection: Connection) -> list[ScheduleRow]:
    """All schedules that are known."""
    return [ScheduleRow(**row) for row in connection.execute(select(schedule).order_by(schedule.c.name)).mappings()]


# -- the lease -----------------------------------------------------------------------------------------------------


def take(store: Store, name: str, holder: str, length: int) -> ScheduleRow:
    """Take the schedule for `length` microseconds if nobody holds it; returns who does from now on.

    It is free when its lease has ended, or the holder's node has: its process is known to be gone.
    """
    now = store.clock.now()
    store.open()
    with store.database.plain() as connection:  # most looks find it held, and need no lock
        found = _row(connection, name)
        if found is not None and not _is_free(connection, found, now):
            return found

    def change(connection: Connection) -> ScheduleRow:
        connection.execute(
            insert_or_ignore(schedule, connection), {"name": name, "holder": None, "token": 0, "lease_until": 0}
        )
        held = _row(connection, name, lock=True)
        assert held is not None  # noqa: S101  # just seen to
        if not _is_free(connection, held, now):
            return held
        mine = ScheduleRow(name, holder, held.token + 1, now + length)
        values = {"holder": mine.holder, "token": mine.token, "lease_until": mine.lease_until}
        taken = update(schedule).where(schedule.c.name == name, schedule.c.token == held.token).values(values)
        connection.execute(taken)
        return mine

    return store.database.run(change)


def _row(connection: Connection, name: str, *, lock: bool = False) -> ScheduleRow | None:
    wanted = select(schedule).where(schedule.c.name == name)
    found = connection.execute(locking(wanted, connection) if lock else wanted).mappings().first()
    return None if found is None else ScheduleRow(**found)


def _is_free(connection: Connection, row: ScheduleRow, now: int) -> bool:
    if row.holder is None or row.lease_until < now:
        return True
    # A node that is known to be dead, or was declared lost, has no lease any more.
    alive = select(node.c.id).where(node.c.id == row.holder, node.c.lease_until > 0)
    return connection.execute(alive).first() is None


def renew(store: Store, mine: ScheduleRow, length: int) -> bool:
    """Extend the lease; ``False``: somebody else has taken the schedule over."""
    with store.database.plain() as connection:
        return _hold(connection, mine.name, mine.token, store.clock.now() + length)


def _hold(connection: Connection, name: str, token: int, until: int) -> bool:
    held = update(schedule).where(schedule.c.name == name, schedule.c.token == token).values(lease_until=until)
    return connection.execute(held).rowcount == 1


def release(store: Store, mine: ScheduleRow) -> None:
    """Let others take the schedule at once."""

    def change(connection: Connection) -> None:
        held = update(schedule).where(schedule.c.name == mine.name, schedule.c.token == mine.token)
        if connection.execute(held.values(holder=None, lease_until=0)).rowcount:
            ring(connection)

    _write(store, change)


# -- the entries ---------------------------------------------------------------------------------------------------


def load(
    store: Store, mine: ScheduleRow, tasks: Collection[str], works: Collection[str],
    change_works: Callable[[Connection, Contents], None],
) -> Contents | None:  # fmt: skip
    """Make the stored entries those of the configuration; ``None``: somebody else has taken the schedule over.

    `tasks` and `works`: the names of ordinary entries and of entries that stand for works. What an entry was is kept
    while it stays one of its kind; a new one counts as run now. `change_works` is called in the same transaction.
    From its commit on no fire of a former holder can be claimed.
    """

    def change(connection: Connection) -> Contents | None:
        name, now = mine.name, store.clock.now()
        if not _hold(connection, name, mine.token, mine.lease_until):
            return None
        found = Contents()
        # Before they are read: a claim that comes first is seen, one that comes later is refused.
        connection.execute(update(entry).where(entry.c.schedule == name).values(token=mine.token))
        stored = {each.name: each for each in _entries(connection, name)}
        wanted = {**dict.fromkeys(tasks, False), **dict.fromkeys(works, True)}
        for each in stored.values():
            if wanted.get(each.name) is each.is_work:
                found.entries[each.name] = each
                continue
            connection.execute(delete(entry).where(_at(name, each.name)))
            if each.is_work:
                found.gone_works.append(each.name)
        for each_name, is_work in wanted.items():
            if each_name not in found.entries:
                row = EntryRow(each_name, is_work, now, 0)
                found.entries[each_name] = row
                connection.execute(insert(entry), _values(mine, row))
        change_works(connection, found)
        return found

    return _write(store, change)


def _values(mine: ScheduleRow, row: EntryRow) -> dict[str, Any]:
    return {
        "schedule": mine.name,
        "token": mine.token,
        "name": row.name,
        "is_work": int(row.is_work),
        "last_run_at": row.last_run_at,
        "total_run_count": row.total_run_count,
        "firing_at": row.firing_at,
    }


def _entries(connection: Connection, name: str) -> list[EntryRow]:
    rows = connection.execute(select(entry).where(entry.c.schedule == name).order_by(entry.c.name))
    return [EntryRow(row.name, bool(row.is_work), row.last_run_at, row.total_run_count, row.firing_at) for row in rows]


def _at(name: str, entry_name: str) -> Any:
    return (entry.c.schedule == name) & (entry.c.name == entry_name)


def claim(store: Store, mine: ScheduleRow, row: EntryRow, moment: int) -> bool:
    """Claim the fire of `row` at `moment`, or the one that is under way again.

    ``False``: somebody else has taken the schedule over, and nothing may be published. Like all that a holder writes,
    it is a single statement: one that freezes leaves no transaction open that would keep others waiting.
    """
    is_free = entry.c.firing_at.is_(None) | (entry.c.firing_at == moment)
    due = update(entry).where(_at(mine.name, row.name), entry.c.token == mine.token, is_free)
    with store.database.plain() as connection:
        claimed = due.where(entry.c.last_run_at == row.last_run_at).values(firing_at=moment)
        return connection.execute(claimed).rowcount == 1


def confirm(store: Store, mine: ScheduleRow, row: EntryRow, moment: int) -> bool:
    """Note that the fire at `moment` is published; ``False``: somebody has noted it already.

    It is true whoever holds the schedule by now, so no token is asked for.
    """
    done = update(entry).where(_at(mine.name, row.name), entry.c.firing_at == moment)
    values = {"last_run_at": moment, "total_run_count": entry.c.total_run_count + 1, "firing_at": None}
    with store.database.plain() as connection:
        return connection.execute(done.values(values)).rowcount == 1


def _write(store: Store, change: Callable[[Connection], T]) -> T:
    store.open()
    done: T = store.database.run(change)
    if store.after_commit is not None:
        store.after_commit()
    return done
