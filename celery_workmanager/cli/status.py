"""``work status`` and ``work nodes``: the whole store at a glance, and who runs it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option, read
from celery_workmanager.cli.screen import LOOKS, Cell, Column, Screen, clean, number, plural, span
from celery_workmanager.overview import Census, Pile, census
from celery_workmanager.pauses import PauseInfo, PauseKind, PauseTarget
from celery_workmanager.readings import Readings
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import as_datetime, moment
from celery_workmanager.work import State

#: Queues that are shown; with --json all are.
_MOST_QUEUES = 50
_ORDER = (State.ENQUEUED, State.RUNNING, State.BLOCKED, State.SUCCEEDED, State.FAILED, State.CANCELLED)


@command("status")
def status_command(screen: Screen, manager: WorkManager) -> int:
    """Show how many works are in which state and queue, and the nodes.

    Nothing is counted beyond 10 000: of finished works the latest are counted, of others those that were due first.
    """
    found: Census = read(manager.store, census)
    nodes, pauses = manager.store.nodes(), manager.paused()
    if screen.as_json:
        screen.json(_status_document(manager, found, nodes, pauses))
        return FINE
    screen.say(manager.store.database.shown_url, bold=True)
    screen.say()
    screen.table(_STATE_COLUMNS, _states(found, manager.clock.now()))
    screen.say()
    _show_queues(screen, found, manager.clock.now())
    _show_pauses(screen, pauses, manager.clock.now())
    screen.say()
    _show_nodes(screen, found, nodes, manager.clock.now())
    return FINE


@command("nodes")
@option("-r", "--readings", "with_readings", is_flag=True, help="Show what each node reads of itself.")
def nodes_command(screen: Screen, manager: WorkManager, *, with_readings: bool) -> int:
    """List the nodes: the Celery workers that run works, and the beats that keep time for them."""
    found: Census = read(manager.store, census)
    nodes = manager.store.nodes()
    drained = {pause.label: pause for pause in manager.paused() if pause.kind is PauseKind.NODE}
    if screen.as_json:
        documents = _node_documents(manager, found, nodes)
        screen.json({"nodes": [{**each, "drained": each["name"] in drained} for each in documents]})
    else:
        _show_nodes(screen, found, nodes, manager.clock.now())
        if with_readings:
            _show_readings(screen, nodes, manager.clock.now())
        _show_pauses(screen, list(drained.values()), manager.clock.now())
    return FINE if nodes else TROUBLE


# -- states ------------------------------------------------------------------------------------------------------

_STATE_COLUMNS = (Column("STATE"), Column("WORKS", to_the_right=True), Column("", least=12, may_go=True))


def _states(found: Census, now: int) -> Iterable[Sequence[Cell | str]]:
    for state in _ORDER:
        count = number(found.states[state], more=state in found.lower_bounds)
        note = _of_enqueued(found, now) if state is State.ENQUEUED else ""
        yield Cell(f"{LOOKS[state][0]} {state.name}", LOOKS[state][1]), count, Cell(note, {"dim": True})


def _of_enqueued(found: Census, now: int) -> str:
    """What kinds of ENQUEUED there are."""
    notes = []
    if found.ready:
        oldest = min(pile.oldest for pile in found.ready)
        notes.append(f"{_sum(found, 'ready')} ready, the oldest for {span(now - oldest)}")
    if found.paused:
        notes.append(f"{_sum(found, 'paused')} paused")
    if found.delayed:
        soonest = min(pile.oldest for pile in found.delayed)
        notes.append(f"{_sum(found, 'delayed')} delayed, the next due {_when(soonest, now)}")
    if found.limited:
        notes.append(f"{_sum(found, 'limited')} waiting for limits")
    if given := sum(pile.number for pile in found.in_hand if pile.state is State.ENQUEUED):
        notes.append(f"{number(given)} about to run")
    return "; ".join(notes)


def _when(at: int, now: int) -> str:
    return f"in {span(at - now)}" if at > now else "now"


def _sum(found: Census, kind: str) -> str:
    piles: Sequence[Pile] = getattr(found, kind)
    return number(sum(pile.number for pile in piles), more=kind in found.capped)


# -- queues ------------------------------------------------------------------------------------------------------

_QUEUE_COLUMNS = (
    Column("QUEUE", least=12),
    *(Column(title, to_the_right=True) for title in ("READY", "DELAYED", "BLOCKED", "RUNNING")),
    Column("OLDEST READY", to_the_right=True, may_go=True),
)
_KINDS = ("ready", "delayed", "blocked", "in_hand", "paused")
_PAUSED_COLUMN = Column("PAUSED", to_the_right=True)


def _by_queue(found: Census) -> dict[str, dict[str, Any]]:
    """The numbers of each queue, and since when its oldest ready work waits."""
    queues: dict[str, dict[str, Any]] = defaultdict(lambda: {**dict.fromkeys(_KINDS, 0), "oldest": None})
    for kind in _KINDS:
        for pile in getattr(found, kind):
            queues[pile.queue][kind] += pile.number
    for pile in found.ready:
        before = queues[pile.queue]["oldest"]
        queues[pile.queue]["oldest"] = pile.oldest if before is None else min(before, pile.oldest)
    return dict(sorted(queues.items()))


def _show_queues(screen: Screen, found: Census, now: int) -> None:
    queues = _by_queue(found)
    if not queues:
        screen.say("Nothing waits and nothing runs.")
        return
    fullest = sorted(queues, key=lambda queue: -queues[queue]["ready"])[:_MOST_QUEUES]
    rows = [_queue_row(queue, queues[queue], found, now) for queue in sorted(fullest)]
    # A column that is empty as a rule is left out.
    screen.table((*_QUEUE_COLUMNS, _PAUSED_COLUMN) if found.paused else _QUEUE_COLUMNS, rows)
    if len(queues) > len(rows):
        screen.say(f"… and {plural(len(queues) - len(rows), 'more queue')}", dim=True)


def _queue_row(queue: str, numbers: dict[str, Any], found: Census, now: int) -> Sequence[Cell | str]:
    *counts, paused = [number(numbers[kind], more=kind in found.capped and numbers[kind] > 0) for kind in _KINDS]
    oldest = "" if numbers["oldest"] is None else span(now - numbers["oldest"])
    return [clean(queue), *counts, oldest, *([paused] if found.paused else [])]


# -- pauses ------------------------------------------------------------------------------------------------------


def _show_pauses(screen: Screen, pauses: Sequence[PauseInfo], now: int) -> None:
    if pauses:
        screen.say()
    for pause in pauses[:_MOST_QUEUES]:
        since = "" if pause.since is None else f" for {span(now - moment(pause.since))}"
        begun = "" if pause.is_complete else ", and not carried out for all its works yet"
        screen.say(f"Paused: {clean(str(PauseTarget(pause.kind, pause.label)))}{since}{begun}", fg="yellow")
    if len(pauses) > _MOST_QUEUES:
        screen.say(f"… and {plural(len(pauses) - _MOST_QUEUES, 'more pause')}", dim=True)


# -- nodes -------------------------------------------------------------------------------------------------------

_NODE_COLUMNS = (
    Column("NODE"),
    Column("LEASE"),
    Column("POOL", may_go=True),
    Column("HOLDS", to_the_right=True),
    Column("UP", to_the_right=True, may_go=True),
    Column("QUEUES", least=12, may_go=True),
    Column("HOST", least=12, may_go=True),
    Column("PID", to_the_right=True, may_go=True),
)


def _show_nodes(screen: Screen, found: Census, nodes: Sequence[NodeRow], now: int) -> None:
    if not nodes:
        screen.say("No nodes: `celery -A proj worker` starts one.", fg="yellow")
        return
    held = _held(found)
    screen.table(_NODE_COLUMNS, [_node_row(node, held, now) for node in sorted(nodes, key=lambda each: each.name)])


def _node_row(node: NodeRow, held: Counter[str | None], now: int) -> Sequence[Cell | str]:
    facts = json.loads(node.facts)
    alive = node.is_alive(now)
    lease = Cell("alive", {"fg": "green"}) if alive else Cell(_ended(node, now), {"fg": "red"})
    pool = f"{facts.get('pool', '?')} × {facts.get('concurrency', '?')}" if node.runs_works else "beat"
    queues, host = clean(", ".join(facts.get("queues", ()))), clean(node.host_name)
    return [
        clean(node.name),
        lease,
        pool,
        number(held[node.id]),
        span(now - node.started_at),
        queues,
        host,
        str(node.pid),
    ]


_READING_COLUMNS = (
    Column("NODE"),
    Column("SENSOR"),
    Column("READ", to_the_right=True, may_go=True),
    Column("READING", least=12),
)


def _show_readings(screen: Screen, nodes: Sequence[NodeRow], now: int) -> None:
    rows = [row for node in sorted(nodes, key=lambda each: each.name) for row in _reading_rows(node, now)]
    if rows:
        screen.say()
        screen.table(_READING_COLUMNS, rows)


def _reading_rows(node: NodeRow, now: int) -> Iterable[Sequence[Cell | str]]:
    for sensor, reading in sorted(Readings.from_json(json.loads(node.facts).get("readings", {})).items()):
        ago = span(now - reading.at) if reading.at else ""
        if reading.value is None:
            read = Cell(clean(f"unknown: {reading.note}"), {"fg": "yellow"})
        else:
            facts = ", ".join(f"{name} {json.dumps(value)}" for name, value in reading.value.items())
            read = Cell(clean(f"{facts} ({reading.note})" if reading.note else facts))
        yield clean(node.name), clean(sensor), ago, read


def _ended(node: NodeRow, now: int) -> str:
    # Its process may have said so itself: then the lease was ended by hand, at the beginning of time.
    return f"lost {span(now - node.lease_until)} ago" if node.lease_until else "lost"


def _held(found: Census) -> Counter[str | None]:
    held: Counter[str | None] = Counter()
    for pile in found.in_hand:
        held[pile.node] += pile.number
    return held


# -- JSON --------------------------------------------------------------------------------------------------------


def _status_document(
    manager: WorkManager, found: Census, nodes: Sequence[NodeRow], pauses: Sequence[PauseInfo]
) -> dict[str, Any]:
    queues = _by_queue(found)
    for numbers in queues.values():
        numbers["oldest"] = _iso(numbers["oldest"])
        numbers["running"] = numbers.pop("in_hand")
    return {
        "store": manager.store.database.shown_url,
        "states": {state.name: found.states[state] for state in _ORDER},
        "at_least": [state.name for state in _ORDER if state in found.lower_bounds],
        "oldest_ready": _iso(min((pile.oldest for pile in found.ready), default=None)),
        "next_due": _iso(min((pile.oldest for pile in found.delayed), default=None)),
        "queues": queues,
        "pauses": [pause.to_dict() for pause in pauses],
        "nodes": _node_documents(manager, found, nodes),
    }


def _node_documents(manager: WorkManager, found: Census, nodes: Sequence[NodeRow]) -> list[dict[str, Any]]:
    held, now = _held(found), manager.clock.now()
    return [
        {
            "id": node.id,
            "name": node.name,
            "alive": node.is_alive(now),
            "lease_until": _iso(node.lease_until),
            "started_at": _iso(node.started_at),
            "host": node.host_name,
            "pid": node.pid,
            "holds": held[node.id],
            **json.loads(node.facts),
        }
        for node in nodes
    ]


def _iso(at: int | None) -> str | None:
    found = as_datetime(at)
    return None if found is None else found.isoformat()
