"""Reads for people over the whole store: what waits where, what belongs together, what a change would touch.

Counts are capped and lists bounded, and each statement reads an index of its own: a look costs about the same over a
hundred works and over ten million.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, text

from celery_workmanager.database import is_mysql
from celery_workmanager.lifecycle import FINISHED, UNFINISHED
from celery_workmanager.queries import paused_lanes
from celery_workmanager.store.cancelling import unfinished_with
from celery_workmanager.store.claiming import ready_lanes
from celery_workmanager.store.deleting import CHUNK, chunks, prunable
from celery_workmanager.store.graph import descendants_of
from celery_workmanager.tables import edge, state_in, work
from celery_workmanager.work import State

#: Nothing is counted further than this.
MOST = 10_000
#: Pairs of queue and worker that are looked at one by one.
MOST_LANES = 500
#: The greatest family that is drawn.
MOST_RELATED = 1_000


@dataclass(frozen=True, slots=True)
class Pile:
    """Works of one queue and worker that wait for the same, or are in one node's hands."""

    state: State
    queue: str
    worker: str
    number: int
    #: The earliest moment from which one of them could run (microseconds).
    oldest: int
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Census:
    """How many works there are of each kind, as far as they were counted."""

    #: ENQUEUED: may be claimed now.
    ready: tuple[Pile, ...]
    #: ENQUEUED: could be claimed now, were they not paused.
    paused: tuple[Pile, ...]
    #: ENQUEUED: wait for their moment.
    delayed: tuple[Pile, ...]
    blocked: tuple[Pile, ...]
    #: Claimed by a node: RUNNING, or ENQUEUED and about to run.
    in_hand: tuple[Pile, ...]
    finished: Mapping[State, int]
    #: Of ``ready``, ``paused``, ``delayed``, ``blocked``, ``in_hand`` and ``finished``, those of which there are more.
    capped: frozenset[str]

    @property
    def states(self) -> dict[State, int]:
        """How many works were counted in each state."""
        numbers = dict.fromkeys(State, 0) | dict(self.finished)
        for pile in (*self.ready, *self.paused, *self.delayed, *self.blocked, *self.in_hand):
            numbers[pile.state] += pile.number
        return numbers

    @property
    def lower_bounds(self) -> frozenset[State]:
        """The states in which there are more works than were counted."""
        kinds = {
            "ready": {State.ENQUEUED},
            "paused": {State.ENQUEUED},
            "delayed": {State.ENQUEUED},
            "blocked": {State.BLOCKED},
            "in_hand": {State.ENQUEUED, State.RUNNING},
            "finished": set(FINISHED),
        }
        return frozenset().union(*(kinds[kind] for kind in self.capped))


def census(connection: Connection, most: int = MOST) -> Census:
    """Count the works of each kind up to `most`: first those that were due first, of finished ones the latest."""
    ready, paused, ready_capped, paused_capped = _ready(connection, most)
    waiting, held_capped = held(connection, most)
    delayed, delayed_capped = _piles(connection, work.c.due_at, work.c.due_at, most)
    blocked, blocked_capped = _piles(connection, work.c.waits_for, work.c.waits_for, most)
    in_hand, in_hand_capped = _piles(connection, work.c.node, work.c.node, most)
    finished, finished_capped = _finished(connection, most)
    capped = {
        "ready": ready_capped,
        "paused": paused_capped or held_capped,
        "delayed": delayed_capped,
        "blocked": blocked_capped,
        "in_hand": in_hand_capped,
        "finished": finished_capped,
    }
    kinds = frozenset(kind for kind, is_capped in capped.items() if is_capped)
    return Census(ready, _merged(paused + waiting), delayed, blocked, in_hand, finished, kinds)


_PILE = (work.c.state, work.c.queue, work.c.worker, work.c.node, work.c.run_at)


def _ready(connection: Connection, most: int) -> tuple[tuple[Pile, ...], tuple[Pile, ...], bool, bool]:
    """What waits in lanes: where nodes look and where they don't, because a queue or a worker is paused."""
    # A lane at a time, as nodes see them: a million works of one lane must not hide the others.
    found: dict[bool, list[Pile]] = {True: [], False: []}
    lanes = ready_lanes(connection)
    capped = dict.fromkeys(found, len(lanes) > MOST_LANES)
    pauses = paused_lanes(connection)
    for lane in lanes[:MOST_LANES]:
        head = select(*_PILE).where(work.c.ready_lane == lane).order_by(work.c.urgency, work.c.run_at)
        piles, more = _heaped(connection, head, most)
        is_paused = any(pauses.cover(pile.queue, pile.worker) for pile in piles)
        capped[is_paused] |= more
        found[is_paused] += piles
    return tuple(_sorted(found[False])), tuple(found[True]), capped[False], capped[True]


def held(connection: Connection, most: int) -> tuple[tuple[Pile, ...], bool]:
    """Works that a tag or a unique name holds; those that wait for something else as well are found there."""
    is_free = and_(work.c.state == int(State.ENQUEUED), work.c.node.is_(None), work.c.due_at.is_(None))
    # The first are read, whatever they wait for: how many fit is not known before.
    some = select(*_PILE, is_free.label("is_free")).where(work.c.held.is_not(None)).order_by(work.c.id).limit(most + 1)
    each = some.subquery("each")
    kind = (each.c.state, each.c.queue, each.c.worker)
    heaps = select(*kind, func.count().label("number"), func.min(each.c.run_at).label("oldest")).where(each.c.is_free)
    rows = connection.execute(heaps.group_by(*kind)).all()
    seen = connection.execute(select(func.count()).select_from(each)).scalar_one()
    numbers, _ = _capped([row.number for row in rows], most)
    piles = zip(rows, numbers, strict=True)
    return tuple(Pile(State(row.state), row.queue, row.worker, n, row.oldest) for row, n in piles), seen > most


def _merged(piles: Iterable[Pile]) -> tuple[Pile, ...]:
    """Piles of one queue and worker as one."""
    found: dict[tuple[str, str], Pile] = {}
    for pile in piles:
        key = pile.queue, pile.worker
        if key in found:
            both = found[key], pile
            pile = replace(pile, number=sum(p.number for p in both), oldest=min(p.oldest for p in both))  # noqa: PLW2901
        found[key] = pile
    return tuple(_sorted(found.values()))


def _sorted(piles: Iterable[Pile]) -> list[Pile]:
    return sorted(piles, key=lambda pile: (pile.queue, pile.worker))


def _piles(connection: Connection, guard: Any, order: ColumnElement[Any], most: int) -> tuple[tuple[Pile, ...], bool]:
    return _heaped(connection, select(*_PILE).where(guard.is_not(None)).order_by(order), most)


def _heaped(connection: Connection, some: Select[Any], most: int) -> tuple[tuple[Pile, ...], bool]:
    # One row more than is counted tells whether there are more.
    each = some.limit(most + 1).subquery("each")
    kind = (each.c.state, each.c.queue, each.c.worker, each.c.node)
    heaps = select(*kind, func.count().label("number"), func.min(each.c.run_at).label("oldest")).group_by(*kind)
    rows = connection.execute(heaps.order_by(*kind)).all()
    numbers, capped = _capped([row.number for row in rows], most)
    piles = zip(rows, numbers, strict=True)
    return tuple(Pile(State(row.state), row.queue, row.worker, n, row.oldest, row.node) for row, n in piles), capped


def _finished(connection: Connection, most: int) -> tuple[dict[State, int], bool]:
    latest = select(work.c.state).where(work.c.prune_at.is_not(None)).order_by(work.c.prune_at.desc())
    return _by_state(connection, latest, most)


def _by_state(connection: Connection, some: Select[Any], most: int) -> tuple[dict[State, int], bool]:
    each = some.limit(most + 1).subquery("each")
    rows = connection.execute(select(each.c.state, func.count().label("number")).group_by(each.c.state)).all()
    numbers, capped = _capped([row.number for row in rows], most)
    return {State(row.state): n for row, n in zip(rows, numbers, strict=True)}, capped


def _capped(numbers: list[int], most: int) -> tuple[list[int], bool]:
    """`numbers` without the one that was counted to see that there are more than `most`."""
    if sum(numbers) <= most:
        return numbers, False
    numbers[numbers.index(max(numbers))] -= 1
    return numbers, True


def unfinished(connection: Connection, most: int) -> dict[str, int]:
    """The versions of up to `most` unfinished works: those in hand first, then ready, delayed, blocked, held ones."""
    found: dict[str, int] = {}
    for guard in (work.c.node, work.c.ready_lane, work.c.due_at, work.c.waits_for, work.c.held):
        order = work.c.id if guard is work.c.held else guard
        if (room := most - len(found)) > 0:
            some = select(work.c.id, work.c.version).where(guard.is_not(None)).order_by(order).limit(room)
            found |= {row.id: row.version for row in connection.execute(some)}
    return found


def family(connection: Connection, roots: Iterable[str], most: int = MOST_RELATED) -> tuple[dict[str, list[str]], bool]:
    """All works that are connected with `roots`, each with its direct dependents, the nearest first.

    Unknown roots are left out. The second value tells whether there are more than `most`.
    """
    known: dict[str, None] = {}
    children: dict[str, dict[str, int]] = defaultdict(dict)
    level = _known(connection, roots)
    while level and len(known) <= most:
        known |= dict.fromkeys(level)
        found: dict[str, None] = {}
        for parent, child, position in _edges_at(connection, level):
            children[parent][child] = position
            found |= {parent: None, child: None}
        level = [each for each in found if each not in known]
    kept = list(known)[:most]
    shown = set(kept)
    return {each: [child for child in sorted(children[each]) if child in shown] for each in kept}, len(known) > most


def _known(connection: Connection, ids: Iterable[str]) -> list[str]:
    asked = list(dict.fromkeys(ids))
    found: set[str] = set()
    for some in chunks(asked):
        found |= set(connection.execute(select(work.c.id).where(work.c.id.in_(some))).scalars())
    return [each for each in asked if each in found]


def _edges_at(connection: Connection, ids: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    for some in chunks(ids):
        touching = or_(edge.c.parent.in_(some), edge.c.child.in_(some))
        columns = (edge.c.parent, edge.c.child, edge.c.position)
        yield from connection.execute(select(*columns).where(touching).order_by(edge.c.child, edge.c.position))


def dependents(connection: Connection, work_id: str, most: int = MOST_RELATED) -> list[str]:
    """The works that wait or waited directly for this one, `most` of them."""
    below = select(edge.c.child).where(edge.c.parent == work_id).order_by(edge.c.child).limit(most)
    return list(connection.execute(below).scalars())


def to_cancel(
    connection: Connection,
    *,
    ids: Sequence[str] = (),
    tag: str | None = None,
    unique_name: str | None = None,
    most: int = MOST,
) -> tuple[list[str], bool]:
    """The works that a cancel would cancel, in id order, up to `most`; and whether there are more.

    `ids`, or the tag, or the unique name, or (nothing given) all; with everything that depends on them.
    """
    found: set[str] = set()
    whole = not ids and tag is None and unique_name is None
    for roots in [ids] if ids else _unfinished(connection, tag, unique_name):
        below = [] if whole else descendants_of(connection, roots)
        for some in chunks([*roots, *below]):
            unfinished = select(work.c.id).where(work.c.id.in_(some), state_in(UNFINISHED))
            found |= set(connection.execute(unfinished).scalars())
        if len(found) > most:
            break
    return sorted(found)[:most], len(found) > most


def _unfinished(connection: Connection, tag: str | None, unique_name: str | None) -> Iterator[list[str]]:
    after = ""
    while some := unfinished_with(connection, tag_name=tag, unique_name=unique_name, after=after, limit=CHUNK):
        yield some
        after = some[-1]


def to_prune(connection: Connection, before: int | None, most: int = MOST) -> tuple[dict[State, int], bool]:
    """How many works of each state a prune would delete, up to `most` in all; and whether there are more."""
    return _by_state(connection, prunable(before, work.c.state), most)


def carelessness(connection: Connection) -> list[str]:
    """Settings of the database under which what is committed may be lost, as "name = value"."""
    if is_mysql(connection):
        asked, show = {"innodb_flush_log_at_trx_commit": {"0", "2"}, "innodb_doublewrite": {"0", "OFF"}}, "SELECT @@"
    elif connection.dialect.name == "postgresql":
        asked, show = {each: {"off"} for each in ("fsync", "full_page_writes", "synchronous_commit")}, "SHOW "
    else:
        return []
    found = {name: str(connection.execute(text(f"{show}{name}")).scalar_one()) for name in asked}
    return [f"{name} = {value}" for name, value in found.items() if value in asked[name]]
