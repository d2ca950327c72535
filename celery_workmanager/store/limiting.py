"""Limits of the fleet, kept at the claim: what has room gets permits, what has none is parked under the key it lacks.

Whoever counts, spends or parks holds the rows of the limits, taken in key order after those of works; and works that
others hold are passed over. So a claim that parks a work and an end that makes room for it see each other, whichever
comes first, and nobody waits in a circle.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    String,
    Update,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from celery_workmanager.bell import ring
from celery_workmanager.bounds import Bound, Room, bounds_of
from celery_workmanager.database import locking
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.outcome import Claim
from celery_workmanager.store.deleting import chunks
from celery_workmanager.store.many import Given, Many
from celery_workmanager.store.upserts import upsert
from celery_workmanager.tables import limit, permit, work
from celery_workmanager.timing import SECOND

#: After how long (microseconds) the works that a key has parked are looked at, should nothing have woken them.
RECHECK = 10 * SECOND
#: How many keys upkeep looks at in one transaction, and how many parked works of each.
KEYS, HEADS = 100, 100
NO_MOMENTS: Mapping[str, int] = {}


@dataclass(slots=True)
class Admission:
    """What became of works that were claimed."""

    claims: list[Claim] = field(default_factory=list)
    #: The key of a limit can't be filled in: these can't run.
    broken: list[tuple[Claim, InvalidRequest]] = field(default_factory=list)
    parked: list[tuple[Claim, Bound]] = field(default_factory=list)
    #: Ready again: more than were asked for.
    left: list[Claim] = field(default_factory=list)


class _Head(NamedTuple):
    """A parked work that is among the first of its key."""

    urgency: int
    run_at: int
    id: str
    bounds: tuple[Bound, ...]


@dataclass(slots=True)
class Locked:
    """Some keys whose rows are held until the transaction ends."""

    room: Room
    #: When the works parked under a key are looked at; None: there are none.
    wake_at: dict[str, int | None]


# -- at the claim ----------------------------------------------------------------------------------------------------


def admit(connection: Connection, claims: Sequence[Claim], most: int, now: int) -> Admission:
    """Of `claims`, made in this transaction, let up to `most` run, in order; park what has no room.

    Parked works whose turn comes before are woken first, and what they leave is for the claims.
    """
    done = Admission()
    bounds: dict[str, tuple[Bound, ...]] = {}
    for claim in claims:
        try:
            bounds[claim.id] = bounds_of(claim.options, claim.inputs)
        except InvalidRequest as error:
            done.broken.append((claim, error))
    locked = lock(connection, {bound.key for each in bounds.values() for bound in each}, now)
    heads = _heads(connection, _worth_looking(locked, bounds.values()))
    # What the woken are promised is taken off what the claims may have, and spent when they are claimed.
    left = locked.room.copy()
    woken = _judge([claim for claim in claims if claim.id in bounds], heads, bounds, left, most, done)
    for claim in done.claims:
        locked.room.take(bounds[claim.id])
    _permit(connection, done.claims, bounds)
    _wake(connection, woken)
    _PARK.write(connection, [{"claimed": each.id, "by": each.token, "under": bound.key} for each, bound in done.parked])
    _LEAVE.write(connection, [{"claimed": each.id, "by": each.token} for each in done.left])
    write(connection, locked, _spent(done.claims, bounds), _moments((bound for _, bound in done.parked), left))
    return done


def _judge(
    claims: Sequence[Claim],
    heads: Sequence[_Head],
    bounds: Mapping[str, tuple[Bound, ...]],
    left: Room,
    most: int,
    done: Admission,
) -> list[str]:
    """Go through claims and heads in their common order; returns the heads to be woken."""
    by_id = {claim.id: claim for claim in claims}
    woken = list[str]()
    places = [_Head(claim.urgency, claim.run_at or 0, claim.id, bounds[claim.id]) for claim in claims]
    for entry in sorted([*heads, *places]):
        claim, lacking = by_id.get(entry.id), left.lacking(entry.bounds)
        if claim is not None and len(done.claims) >= most:
            done.left.append(claim)
        elif lacking is None:
            left.take(entry.bounds)
            if claim is None:
                woken.append(entry.id)
            else:
                done.claims.append(claim)
        elif claim is not None:
            done.parked.append((claim, lacking))
    return woken


def _worth_looking(locked: Locked, bounds: Iterable[tuple[Bound, ...]]) -> dict[str, int]:
    """Keys that have parked works although there is room, with how much."""
    found: Counter[str] = Counter()
    for each in bounds:
        for bound in each:
            if locked.wake_at[bound.key] is not None:
                found[bound.key] = max(found[bound.key], min(locked.room.under(bound), HEADS))
    return {key: room for key, room in found.items() if room > 0}


def _mine(change: Update, given: Given) -> Update:
    return change.where(work.c.id == given["claimed"], work.c.token == given["by"]).values(node=None, token=None)


_PARK = Many(
    {"claimed": String, "by": BigInteger, "under": String},
    lambda change, given: _mine(change, given).values(parked_by=given["under"]),
)
_LEAVE = Many(
    {"claimed": String, "by": BigInteger},
    lambda change, given: _mine(change, given).values(ready_lane=work.c.lane),
)


def _permit(connection: Connection, claims: Sequence[Claim], bounds: Mapping[str, tuple[Bound, ...]]) -> None:
    permits = []
    for claim in claims:
        keys = {bound.key for bound in bounds[claim.id] if bound.per is None}
        claim.has_permits = bool(keys)
        permits += [{"key": key, "work": claim.id, "token": claim.token} for key in keys]
    if permits:
        connection.execute(upsert(permit, connection, "token"), permits)


def _spent(claims: Iterable[Claim], bounds: Mapping[str, tuple[Bound, ...]]) -> set[str]:
    return {bound.key for claim in claims for bound in bounds[claim.id] if bound.per is not None}


# -- the rows of limits ----------------------------------------------------------------------------------------------

#: Of a permit: that its work is still in the hands it was given to.
_COUNTS = exists().where(work.c.id == permit.c.work, work.c.token == permit.c.token, work.c.node.is_not(None))


def lock(connection: Connection, keys: Iterable[str], now: int) -> Locked:
    """Lock the rows of `keys`, in order, new ones among them, and count what holds room."""
    wanted = sorted(keys)
    if wanted:
        connection.execute(upsert(limit, connection, "key"), [{"key": key, "full_at": 0} for key in wanted])
    return _count(connection, wanted, now)


_AT = select(
    limit.c.key,
    limit.c.full_at,
    limit.c.wake_at,
    select(func.count()).where(permit.c.key == limit.c.key, _COUNTS).correlate(limit).scalar_subquery(),
).where(limit.c.key.in_(bindparam("keys", expanding=True)))


def _count(connection: Connection, keys: Sequence[str], now: int) -> Locked:
    full_at: dict[str, int] = {}
    wake_at: dict[str, int | None] = {}
    running: dict[str, int] = {}
    for some in chunks(keys):
        for key, *facts in connection.execute(_AT, {"keys": some}):
            full_at[key], wake_at[key], running[key] = facts
    return Locked(Room(running, full_at, now), wake_at)


def _moments(lacking: Iterable[Bound], left: Room) -> dict[str, int]:
    """When the works that lack room under these limits are looked at again."""
    found: dict[str, int] = {}
    for bound in lacking:
        opens = left.opens_at(bound)
        at = left.now + RECHECK if opens is None else opens
        found[bound.key] = min(at, found.get(bound.key, at))
    return found


_WRITE = (
    update(limit)
    .where(limit.c.key == bindparam("which"))
    .values(full_at=bindparam("full"), wake_at=bindparam("wake", type_=BigInteger))
)


def write(
    connection: Connection, locked: Locked, spent: Iterable[str], moments: Mapping[str, int] = NO_MOMENTS
) -> None:
    """Write what was spent, and have parked works looked at by `moments` at the latest."""
    earlier = {key for key, at in moments.items() if at < (locked.wake_at[key] or at + 1)}
    locked.wake_at |= {key: moments[key] for key in earlier}
    if earlier:
        ring(connection)  # upkeep has a moment to look at
    changed = earlier.union(spent)
    if changed:
        rows = ({"which": key, "full": locked.room.full_at[key], "wake": locked.wake_at[key]} for key in changed)
        connection.execute(_WRITE, list(rows))


# -- parked works ----------------------------------------------------------------------------------------------------


_FIRST = (
    select(work.c.urgency, work.c.run_at, work.c.id, work.c.options)
    .where(work.c.parked_by == bindparam("under"))
    .order_by(work.c.urgency, work.c.run_at, work.c.id)
    .limit(bindparam("most"))
)
_FIRST_FREE = _FIRST.with_for_update(skip_locked=True)


def _heads(connection: Connection, most: Mapping[str, int]) -> list[_Head]:
    """The first works that each key has parked, so many of each; those that others hold are passed over."""
    found = list[_Head]()
    parked = _FIRST if connection.dialect.name == "sqlite" else _FIRST_FREE
    for key, number in most.items():
        for urgency, run_at, work_id, options in connection.execute(parked, {"under": key, "most": number}):
            given = json.loads(options)
            # Of its limits those that may be meant by this key; the others are looked at when it is claimed.
            named = (given[name] for name in ("concurrency", "rate") if name in given)
            found.append(_Head(urgency, run_at, work_id, tuple(Bound(key, *rest) for _, *rest in named)))
    return found


_READY = (
    update(work)
    .where(work.c.id.in_(bindparam("parked", expanding=True)), work.c.parked_by.is_not(None))
    .values(parked_by=None, ready_lane=work.c.lane)
)


def _wake(connection: Connection, ids: Sequence[str]) -> None:
    for some in chunks(ids):
        connection.execute(_READY, {"parked": some})
    if ids:
        ring(connection)


def _wake_first(connection: Connection, locked: Locked, most: Mapping[str, int]) -> list[Bound]:
    """Of the first works of each key, so many of each, wake those for which there is room; returns what others lack."""
    woken = list[str]()
    lacking = list[Bound]()
    for head in _heads(connection, most):
        missing = locked.room.lacking(head.bounds)
        if missing is None:
            locked.room.take(head.bounds)
            woken.append(head.id)
        else:
            lacking.append(missing)
    _wake(connection, woken)
    return lacking


# -- when runs have ended, and time has passed -----------------------------------------------------------------------


_ENDED = (permit.c.work.in_(bindparam("ids", expanding=True)), ~_COUNTS)
_FREED = select(permit.c.key, func.count()).where(*_ENDED).group_by(permit.c.key)
_TAKE_BACK = delete(permit).where(
    permit.c.key == bindparam("of_key"), permit.c.work == bindparam("of_work"), permit.c.token == bindparam("of_token")
)


def _take_back(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Delete those of some permits that count for nothing, and never will again.

    They are read first: on InnoDB a DELETE that asks for their works would wait for whoever holds these.
    """
    stale = connection.execute(select(permit.c.key, permit.c.work, permit.c.token).where(*which, ~_COUNTS)).all()
    if stale:
        connection.execute(
            _TAKE_BACK, [{"of_key": key, "of_work": each, "of_token": token} for key, each, token in stale]
        )


def release(connection: Connection, ids: Sequence[str], now: int) -> None:
    """Take back permits of works whose runs have ended, after that was committed, and wake who waited for them."""
    freed: Counter[str] = Counter()
    for some in chunks(ids):
        for key, number in connection.execute(_FREED, {"ids": some}):
            freed[key] += number
    if not freed:
        return
    locked = lock(connection, freed, now)
    for some in chunks(ids):
        _take_back(connection, permit.c.work.in_(some))
    _wake_first(connection, locked, {key: freed[key] for key in freed if locked.wake_at[key] is not None})


def wake_due(connection: Connection, now: int) -> int:
    """Wake the works of keys that are to be looked at now, as far as there is room; returns how many keys those were.

    Permits of runs that nobody took back are deleted.
    """
    due = select(limit.c.key).where(limit.c.wake_at <= now).order_by(limit.c.wake_at).limit(KEYS)
    keys = sorted(connection.execute(locking(due, connection, skip=True)).scalars())
    if not keys:
        return 0
    _take_back(connection, permit.c.key.in_(keys))
    locked = _count(connection, keys, now)
    spent_before = dict(locked.room.full_at)
    moments = _moments(_wake_first(connection, locked, dict.fromkeys(keys, HEADS)), locked.room)
    waiting = select(limit.c.key).where(limit.c.key.in_(keys), exists().where(work.c.parked_by == limit.c.key))
    locked.wake_at = dict.fromkeys(keys)
    # Woken works spend when they are claimed.
    locked.room.full_at = spent_before
    # Where none lacks room, there are more than were looked at, or others hold them.
    write(connection, locked, keys, {key: moments.get(key, now) for key in connection.execute(waiting).scalars()})
    return len(keys)


def keys_beyond(connection: Connection, after: str, most: int = 500) -> tuple[str, list[str]]:
    """`most` keys beyond `after`, and where to go on."""
    some = select(limit.c.key).where(limit.c.key > after).order_by(limit.c.key).limit(most)
    keys = list(connection.execute(some).scalars())
    return (keys[-1] if len(keys) == most else ""), keys


def forget_unused(connection: Connection, keys: Sequence[str], now: int) -> None:
    """Delete the rows of those of `keys` that nothing is kept under.

    There may be as many keys as tenants, users or orders.
    """
    idle = (limit.c.key.in_(keys), limit.c.wake_at.is_(None), limit.c.full_at <= now)
    unused = select(limit.c.key).where(*idle, ~exists().where(permit.c.key == limit.c.key, _COUNTS))
    gone = list(connection.execute(locking(unused, connection, skip=True)).scalars())
    if gone:
        _take_back(connection, permit.c.key.in_(gone))
        connection.execute(delete(limit).where(limit.c.key.in_(gone)))


# -- for people ------------------------------------------------------------------------------------------------------


def look(connection: Connection, keys: Sequence[str], now: int) -> Room:
    """What room there is under `keys`; nothing is locked."""
    room = _count(connection, keys, now).room
    room.full_at = dict.fromkeys(keys, 0) | room.full_at
    return room


def holders(connection: Connection, key: str, most: int) -> list[str]:
    """The works that count under `key`, `most` of them."""
    held = select(permit.c.work).where(permit.c.key == key, _COUNTS).order_by(permit.c.work).limit(most)
    return list(connection.execute(held).scalars())
