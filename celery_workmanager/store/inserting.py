"""Enqueue: names are locked, policies planned, works inserted, all in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Text, bindparam, func, insert, select, text, update

from celery_workmanager.bell import RING, ring
from celery_workmanager.database import is_lock_timeout, is_mysql, locking
from celery_workmanager.errors import DuplicateWorkId, InvalidRequest, UniqueNameBusy
from celery_workmanager.events import Change, WorkEvent
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.news import note
from celery_workmanager.planning import Insertion, Member, NamePlan, NewWork, Step, plan_insertion, plan_name
from celery_workmanager.requests import WorkRequest
from celery_workmanager.sentences import Sentence, sending
from celery_workmanager.store import lists
from celery_workmanager.store.cancelling import cancel_with_descendants
from celery_workmanager.store.deleting import chunks, delete_works
from celery_workmanager.store.graph import lock_works
from celery_workmanager.store.marks import LABELS_ARE_PAUSED, bring_in_line, held_by
from celery_workmanager.store.rows import is_plain, new_row
from celery_workmanager.store.updating import update_work
from celery_workmanager.store.upserts import Meeting, insert_many
from celery_workmanager.tables import edge, member, name, tag, work
from celery_workmanager.terms import Terms
from celery_workmanager.work import State

_MARK_PARENTS = update(work).where(work.c.id.in_(bindparam("parents", expanding=True))).values(has_children=1)
_MEMBERS = (
    select(
        member.c.name,
        work.c.id,
        work.c.state,
        work.c.period_at,
        # One row of them: a server that is asked whether there are any may read all edges once, for all the works.
        select(edge.c.child).where(edge.c.parent == work.c.id).limit(1).scalar_subquery().is_(None).label("is_leaf"),
    )
    .join(member, member.c.work == work.c.id)
    .order_by(work.c.id)
)
_OF_NAMES = _MEMBERS.where(member.c.name.in_(bindparam("names", expanding=True)))
_OF_NAME = _MEMBERS.where(member.c.name == bindparam("name"))
#: On PostgreSQL: names that have any. Without statistics it would join all members of all names with all works.
_WITH_MEMBERS = Sentence(select(member.c.name).where(lists.is_among(member.c.name, "names")).distinct())
#: Most enqueues have one name: locked, where there are locks of rows.
_OF_NAME_ALONE = {True: Sentence(_OF_NAME.with_for_update(of=work)), False: Sentence(_OF_NAME)}
_ROWS = select(work.c.id, work.c.worker, work.c.state).order_by(work.c.id)
#: On PostgreSQL; some of them locked.
_OF_IDS = {
    False: Sentence(_ROWS.where(lists.is_among(work.c.id, "ids"))),
    True: Sentence(_ROWS.where(lists.is_among(work.c.id, "ids")).with_for_update()),
}
# By text first, then by what it means.
_WITH_TRIGGERS = select(work.c.options).where(
    work.c.state.in_([int(state) for state in UNFINISHED]), work.c.options.contains("content_uri_triggers")
)


def enqueue(
    connection: Connection,
    steps: Sequence[Step],
    queue_of: Callable[[WorkRequest], str],
    now: int,
    terms: Terms,
    *,
    name_wait: float,
    is_ours: bool,
    look_for_ids: bool,
    may_refuse: bool,
) -> Insertion:
    """Plan and store `steps`. `look_for_ids`: ask first which ids exist (else a known id raises IntegrityError).

    `may_refuse`: a label of a new work that a deleted one of its id has left behind raises it, too.
    """
    _check_content_triggers(connection, steps, terms.limits.content_trigger_works)
    first = {step.name: step for step in steps if step.is_first and step.name is not None}
    plans, known, gone = _plan_names(connection, first, now, terms, name_wait, is_ours=is_ours)
    if look_for_ids:
        known |= _existing(connection, steps)
    known |= _stored_before(connection, steps)
    insertion = plan_insertion(steps, plans, known, gone)
    # A new work has no labels yet, and the server writes them sooner if it need not pass over any.
    insert_works(connection, insertion, queue_of, now, terms, Meeting.REFUSED if may_refuse else Meeting.IGNORED)
    for work_id, request in insertion.updated:
        update_work(connection, request, queue_of(request), now, terms, work_id=work_id)
    if insertion.updated:
        ring(connection)
    return insertion


def _check_content_triggers(connection: Connection, steps: Sequence[Step], most: int | None) -> None:
    """Refuse more unfinished works with content triggers than the profile has (WorkManager, EnqueueUtils)."""
    if most is None:
        return
    new = sum(bool(request.constraints.content_uri_triggers) for step in steps for request in step.requests)
    if new:
        stored = connection.execute(_WITH_TRIGGERS).scalars()
        count = new + sum("content_uri_triggers" in json.loads(options).get("constraints", {}) for options in stored)
        if count > most:
            raise InvalidRequest("unfinished works with content triggers", f"at most {most} (the profile's)", count)


def _plan_names(
    connection: Connection,
    first: dict[str, Step],
    now: int,
    terms: Terms,
    name_wait: float,
    *,
    is_ours: bool,
) -> tuple[dict[str, NamePlan], dict[str, State], set[str]]:
    """The plans of the names, the states of what they append to, and what was deleted."""
    plans: dict[str, NamePlan] = {}
    known: dict[str, State] = {}
    gone: set[str] = set()
    if not first:
        return plans, known, gone
    names = sorted(first)
    with _bounded_wait(connection, names, name_wait, is_ours=is_ours):
        insert_many(connection, name, [{"name": each} for each in names], Meeting.LOCKED)
        all_members, is_fresh = _members(connection, names), True
        for each in names:
            members = (all_members if is_fresh else _members(connection, [each]))[each]
            plan = plan_name(first[each].policy, members)
            if plan.delete:
                cancelled = cancel_with_descendants(connection, plan.delete, now, terms, only_unfinished_roots=True)
                delete_works(connection, plan.delete)
                # What a name before appends to may be of this one, too, or depend on it.
                known |= dict.fromkeys(known.keys() & cancelled, State.CANCELLED)
                gone.update(plan.delete)
                is_fresh = False  # works of other names may have been among the descendants
            if plan.parents:
                known |= {found.id: found.state for found in members if found.id in plan.parents}
            plans[each] = plan
    return plans, known, gone


def _members(connection: Connection, names: Sequence[str]) -> dict[str, list[Member]]:
    """The works of each name, locked in the order of their ids."""
    found: dict[str, list[Member]] = {each: [] for each in names}
    for name_of, work_id, state, period_at, is_leaf in _member_rows(connection, names):
        found[name_of].append(Member(work_id, State(state), bool(is_leaf), period_at is not None))
    return found


def _member_rows(connection: Connection, names: Sequence[str]) -> Iterator[Sequence[Any]]:
    if len(names) == 1:
        alone = _OF_NAME_ALONE[connection.dialect.name != "sqlite"]
        yield from alone.say(connection, {"name": names[0]})
        return
    if connection.dialect.name == "postgresql":
        names = sorted(each for (each,) in _WITH_MEMBERS.say(connection, {"names": lists.joined(names)}))
    for some in chunks(names):
        yield from connection.execute(locking(_OF_NAMES, connection, of=work), {"names": some})


@contextmanager
def _bounded_wait(connection: Connection, names: list[str], wait: float, *, is_ours: bool) -> Iterator[None]:
    """Wait at most `wait` seconds for names that others hold; then UniqueNameBusy, and nothing is written."""
    with busy_names(names, wait):
        if connection.dialect.name != "postgresql":
            yield
            return
        if is_ours:
            _set_lock_timeout(connection, lock_timeout(wait))
            yield
            return
        before = connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one()
        # A savepoint, so that giving up does not spoil the caller's transaction.
        with connection.begin_nested():
            _set_lock_timeout(connection, lock_timeout(wait))
            yield
            _set_lock_timeout(connection, before)


@contextmanager
def busy_names(names: Sequence[str], wait: float) -> Iterator[None]:
    """Raise UniqueNameBusy for what has waited too long."""
    try:
        yield
    except Exception as error:
        if is_lock_timeout(error):
            raise UniqueNameBusy(", ".join(names), wait) from error
        raise


def lock_timeout(wait: float) -> str:
    """PostgreSQL's setting for `wait` seconds."""
    return f"{round(wait * 1000)}ms"


_SET_LOCK_TIMEOUT = Sentence(select(func.set_config("lock_timeout", bindparam("value", type_=Text), True)))


def _set_lock_timeout(connection: Connection, value: str) -> None:
    _SET_LOCK_TIMEOUT.say(connection, {"value": value})


def _existing(connection: Connection, steps: Sequence[Step]) -> dict[str, State]:
    """The states of works that exist; those that get children now are locked, so that their states stay true."""
    workers = {request.id: request.worker_name for step in steps for request in step.requests}
    parents = {parent for step in steps for parent in step.parents}
    found: dict[str, State] = {}
    for ids, is_parent in ((workers.keys() & parents, True), (workers.keys() - parents, False)):
        for work_id, worker, state in _rows_of(connection, sorted(ids), is_locked=is_parent):
            if worker != workers[work_id]:
                raise DuplicateWorkId(work_id)
            found[work_id] = State(state)
    return found


def _rows_of(connection: Connection, ids: Sequence[str], *, is_locked: bool) -> Iterator[Sequence[Any]]:
    if connection.dialect.name == "postgresql":
        if ids:
            yield from _OF_IDS[is_locked].say(connection, {"ids": lists.joined(ids)})
        return
    for some in chunks(ids):
        rows = _ROWS.where(work.c.id.in_(some))
        yield from connection.execute(locking(rows, connection) if is_locked else rows)


def _stored_before(connection: Connection, steps: Sequence[Step]) -> dict[str, State]:
    """The states of prerequisites that an earlier enqueue of the same chain has stored, locked as they get children."""
    own = {request.id for step in steps for request in step.requests}
    earlier = {parent for step in steps for parent in step.parents} - own
    rows = lock_works(connection, earlier, wait=True) if earlier else {}
    return {each: State(row.state) for each, row in rows.items()}


def insert_works(
    connection: Connection,
    insertion: Insertion,
    queue_of: Callable[[WorkRequest], str],
    now: int,
    terms: Terms,
    labels: Meeting = Meeting.IGNORED,
) -> None:
    """Insert what was planned; existing works that get children are locked already.

    `labels`: what becomes of a new work's label that stands there already.
    """
    works = insertion.works
    labelled = [(new.request, new.name) for new in works] + list(insertion.existing)
    with sending(connection) if len(works) > 1 else nullcontext(False) as is_ahead:
        # What is sent ahead is written while the rows are made. Elsewhere what refuses a row comes before all writing.
        rows = [] if is_ahead else _rows(works, queue_of, now, terms)
        # Labels come first: see `store.marks`.
        has_labels = _label(connection, labelled, len(works), labels)
        insert_many(connection, edge, [entry for new in works if new.parents for entry in _edges(new)])
        rows = rows or _rows(works, queue_of, now, terms)
        if len(rows) > 1:
            _insert_rows(connection, rows)
    may_be_held = _ring_and_ask(connection, rows, has_labels=has_labels)
    if may_be_held and (held := _held(connection, labelled)):
        bring_in_line(connection, sorted(held))
    _mark_parents(connection, insertion)
    for state, change in _TOLD.items():
        note(connection, change, (new_event(new.request, state) for new in works if new.state is state))


def once_each(queue_of: Callable[[WorkRequest], str]) -> Callable[[WorkRequest], str]:
    """`queue_of`, asked once for each worker: among many requests there are few, and routing takes its time."""
    found: dict[tuple[str | None, str], str] = {}

    def remembered(request: WorkRequest) -> str:
        key = (request.queue, request.worker_name)
        if key not in found:
            found[key] = queue_of(request)
        return found[key]

    return remembered


_INSERT_ONE = insert(work)
_INSERT = Sentence(_INSERT_ONE)
#: Sees the marks of whoever was committed before it, and so before the labels that were written earlier were seen.
_INSERT_AND_ASK = Sentence(_INSERT_ONE.returning(LABELS_ARE_PAUSED))
#: On PostgreSQL: the bell of a single work is a part of its insert.
_INSERT_AND_RING = Sentence(_INSERT_ONE.returning(RING))
_INSERT_ASK_AND_RING = Sentence(_INSERT_ONE.returning(LABELS_ARE_PAUSED, RING))
_ASK = select(LABELS_ARE_PAUSED)
_ASK_AND_RING = Sentence(select(LABELS_ARE_PAUSED, RING))


def _insert_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    # One statement needs the same columns of all its rows.
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(row)
    for some in alike.values():
        insert_many(connection, work, some)


def _ring_and_ask(connection: Connection, rows: Sequence[dict[str, Any]], *, has_labels: bool) -> bool:
    """Ring, and tell whether some works may be held, now that their labels are written. One work is inserted here."""
    if len(rows) == 1:
        return insert_row(connection, rows[0], has_labels=has_labels)
    if rows and has_labels and connection.dialect.name == "postgresql":
        return bool(_ASK_AND_RING.say(connection, {})[0][0])
    if rows:
        ring(connection)
    return has_labels and bool(connection.execute(_ASK).scalar_one())


def insert_row(connection: Connection, row: dict[str, Any], *, has_labels: bool) -> bool:
    """The same for one work."""
    rings = connection.dialect.name == "postgresql"
    if not has_labels:
        (_INSERT_AND_RING if rings else _INSERT).say(connection, row)
        return False
    if is_mysql(connection):
        _INSERT.say(connection, row)
        return bool(connection.execute(_ASK).scalar_one())
    return bool((_INSERT_ASK_AND_RING if rings else _INSERT_AND_ASK).say(connection, row)[0][0])


#: What is told of a new work, by the state it begins in.
_TOLD = {State.ENQUEUED: Change.ENQUEUED, State.BLOCKED: Change.BLOCKED, State.CANCELLED: Change.CANCELLED}


def new_event(request: WorkRequest, state: State) -> WorkEvent:
    """What is told of a new work."""
    return WorkEvent(request.id, request.worker_name, state, request=request)


def _rows(
    works: Sequence[NewWork], queue_of: Callable[[WorkRequest], str], now: int, terms: Terms
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    has_child = {parent for new in works for parent in new.parents}
    # Works without options differ in little: each of them is a copy of the first one like it.
    alike: dict[tuple[Any, ...], dict[str, Any]] = {}
    for new in works:
        request, queue = new.request, queue_of(new.request)
        if not is_plain(request, terms.limits):
            rows.append(_row(new, queue, now, terms))
            continue
        key = (request.worker_name, queue, new.state, new.unfinished_parents, not new.parents)
        if (first := alike.get(key)) is None:
            first = alike[key] = _row(new, queue, now, terms)
        rows.append({**first, "id": request.id, "input": request.input_data.to_json()})
    for row in rows:
        row["has_children"] = int(row["id"] in has_child)
    return rows


def _row(new: NewWork, queue: str, now: int, terms: Terms) -> dict[str, Any]:
    return new_row(
        new.request, queue, new.state, now, terms, waits_for=new.unfinished_parents, has_parents=bool(new.parents)
    )


def _edges(new: NewWork) -> list[dict[str, Any]]:
    return [
        {"parent": parent, "child": new.request.id, "position": position}
        for position, parent in enumerate(dict.fromkeys(new.parents))
    ]


def _label(
    connection: Connection, labelled: Sequence[tuple[WorkRequest, str | None]], new: int, meeting: Meeting
) -> bool:
    """Write tags and memberships, those of the first `new` as `meeting` says; returns whether there are any."""
    has_labels = _label_some(connection, labelled[:new], meeting)
    return _label_some(connection, labelled[new:], Meeting.IGNORED) or has_labels


def _label_some(connection: Connection, labelled: Sequence[tuple[WorkRequest, str | None]], meeting: Meeting) -> bool:
    # The worker's name is a tag of every work without a row of its own: queries look at the worker column for it.
    tags = [
        {"work": request.id, "tag": label}
        for request, _ in labelled
        if len(request.tags) > 1
        for label in sorted(request.tags - {request.worker_name})
    ]
    members = [{"name": unique, "work": request.id} for request, unique in labelled if unique is not None]
    insert_many(connection, tag, tags, meeting)
    insert_many(connection, member, members, meeting)
    return bool(tags or members)


def _held(connection: Connection, labelled: Sequence[tuple[WorkRequest, str | None]]) -> set[str]:
    """Those of the works that are paused by a tag of their own or their unique name."""
    tags = {request.id: own for request, _ in labelled if (own := request.tags - {request.worker_name})}
    names = {request.id: (unique,) for request, unique in labelled if unique is not None}
    return held_by(connection, tags, names) if tags or names else set()


def _mark_parents(connection: Connection, insertion: Insertion) -> None:
    """Tell existing parents that they have children now; their rows have been locked since their states were read."""
    new = {each.request.id for each in insertion.works}
    parents = sorted({parent for each in insertion.works for parent in each.parents} - new)
    for some in chunks(parents):
        connection.execute(_MARK_PARENTS, {"parents": some})
