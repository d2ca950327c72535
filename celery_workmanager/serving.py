"""Which nodes could run a work, and what keeps each of the others from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from celery_workmanager.constraints import Constraints
from celery_workmanager.explanation import NodeView, Reason, ReasonKind
from celery_workmanager.judgement import Unmet, unmet
from celery_workmanager.readings import Readings
from celery_workmanager.timing import as_datetime

#: Nodes that a sentence names.
NAMED = 3
#: Nodes that a reason tells of one by one.
MOST_VIEWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A node that runs works, as it told with its lease; moments in microseconds."""

    id: str
    name: str
    lease_until: int
    is_alive: bool
    #: None: every one (that of the testing kit).
    queues: frozenset[str] | None
    workers: frozenset[str] | None
    #: How many works it runs at once, if it has told, and how many it has in hand.
    concurrency: int | None = None
    holds: int = 0
    readings: Readings = field(default_factory=Readings)
    #: Whether it can watch files.
    watches_files: bool = False
    #: Whether it takes nothing more because its worker shuts down.
    is_closing: bool = False

    @property
    def lost_at(self) -> datetime | None:
        """When its lease ended; None: its process has said so itself, or was found dead."""
        return as_datetime(self.lease_until or None)

    def consumes(self, queue: str) -> bool:
        """Whether it takes works of the queue."""
        return self.queues is None or queue in self.queues

    def knows(self, worker: str) -> bool:
        """Whether it has registered the worker."""
        return self.workers is None or worker in self.workers

    def unmet(self, constraints: Constraints, now: int) -> tuple[Unmet, ...]:
        """What of `constraints` it doesn't meet at `now`; the testing kit's meets whatever no test has declared."""
        found = unmet(constraints, self.readings, now)
        if self.queues is not None:
            return found
        return tuple(each for each in found if each.sensor is None or each.sensor in self.readings)

    def view(self, found: Unmet) -> NodeView:
        """What it has read of something that it doesn't meet."""
        reading = None if found.sensor is None else self.readings.get(found.sensor)
        return NodeView(self.name, found.text, as_datetime(reading.at or None) if reading is not None else None)


@dataclass(frozen=True, slots=True)
class OfNodes:
    """What the nodes have to say of a work."""

    #: Why none of them may take it.
    holding: tuple[Reason, ...] = ()
    #: That none of them has room for it now.
    busy: tuple[Reason, ...] = ()
    #: The names of those that may take it.
    able: tuple[str, ...] = ()


def of_nodes(
    queue: str,
    worker: str,
    constraints: Constraints,
    nodes: Sequence[NodeFacts],
    drained: Mapping[str, datetime | None],
    now: int,
) -> OfNodes:
    """Why no node takes a work for `worker` in `queue` at `now`, or which do.

    `drained`: since when, by the names of nodes.
    """
    alive = [node for node in nodes if node.is_alive and not node.is_closing]
    serving = [node for node in alive if node.consumes(queue) and node.knows(worker)]
    if not serving:
        return OfNodes(holding=(_unserved(queue, worker, nodes, alive),))
    open_ = [node for node in serving if node.name not in drained]
    if not open_:
        return OfNodes(holding=(_drained("serves", serving, drained),))
    failing = {node.name: node.unmet(constraints, now) for node in serving}
    meeting = [node for node in open_ if not failing[node.name]]
    if not meeting:
        kept = [node for node in serving if not failing[node.name]]
        held = [_drained("could run", kept, drained)] if kept else []
        order = [each.constraint for each in unmet(constraints, Readings.NONE, now)]
        return OfNodes(holding=(*held, *_unmet(open_, failing, order)))
    if constraints.content_uri_triggers:
        return OfNodes(holding=(_untriggered(constraints, meeting),))
    return OfNodes(busy=tuple(_busy(meeting)), able=tuple(node.name for node in meeting))


def _unserved(queue: str, worker: str, nodes: Sequence[NodeFacts], alive: Sequence[NodeFacts]) -> Reason:
    if not alive:
        if closing := [node.name for node in nodes if node.is_alive]:
            text = f"{listed(closing, 'and')} will shut down; no other is alive"
            return Reason(ReasonKind.NO_NODE, text, nodes=tuple(NodeView(name, "shuts down") for name in closing))
        last = max(nodes, key=lambda node: node.lease_until, default=None)
        lost = "" if last is None else f"; the last one was {last.name}"
        until = None if last is None else last.lost_at
        lost += "" if until is None else f", until {told(until)}"
        return Reason(ReasonKind.NO_NODE, f"no node is alive{lost}", since=until)
    consuming = [node for node in alive if node.consumes(queue)]
    knowing = [node for node in alive if node.knows(worker)]
    if consuming:
        text = f"no live node of queue {queue!r} has registered the worker {worker!r}"
    else:
        text = f"no live node consumes the queue {queue!r}"
    views = [NodeView(node.name, f"consumes {queue!r}, hasn't registered {worker!r}") for node in consuming]
    views += [NodeView(node.name, f"has registered {worker!r}, consumes {_quoted(node.queues)}") for node in knowing]
    views = views or [NodeView(node.name, f"consumes {_quoted(node.queues)}") for node in alive]
    near = f"; {views[0].name} {views[0].text}"
    return Reason(ReasonKind.NO_NODE, text + near, nodes=tuple(views[:MOST_VIEWS]))


def _drained(does: str, serving: Sequence[NodeFacts], drained: Mapping[str, datetime | None]) -> Reason:
    """One reason for all: it would run on any of them."""
    views = [NodeView(node.name, f"is drained{since(drained[node.name])}") for node in serving]
    first = min((at for node in serving if (at := drained[node.name]) is not None), default=None)
    text = f"every node that {does} it is drained: {listed([view.name for view in views], 'and')}{since(first)}"
    return Reason(ReasonKind.PAUSED, text, since=first, nodes=tuple(views[:MOST_VIEWS]))


def _unmet(
    nodes: Sequence[NodeFacts], failing: Mapping[str, Sequence[Unmet]], order: Sequence[str]
) -> Iterator[Reason]:
    """One reason a constraint, first those that most nodes don't meet, else in the `order` of stop reasons.

    Nodes with other labels come last: what they read is of no account, as long as some node has the right ones.
    """
    others = {name for name, found in failing.items() if any(each.sensor == "labels" for each in found)}
    by_name = {node.name: node for node in sorted(nodes, key=lambda node: node.name in others)}

    def lacking(constraint: str) -> list[tuple[str, Unmet]]:
        return [(name, found) for name in by_name for found in failing[name] if found.constraint == constraint]

    def weight(constraint: str) -> tuple[int, int]:
        names = [name for name, _ in lacking(constraint)]
        return sum(name not in others for name in names), len(names)

    for constraint in sorted(filter(lacking, order), key=weight, reverse=True):
        some = [by_name[name].view(found) for name, found in lacking(constraint)]
        more = "" if len(some) == 1 else f" and {len(some) - 1} more"
        text = f"a constraint is unmet on {some[0].name}{more}: {some[0].text}"
        yield Reason(ReasonKind.CONSTRAINT, text, nodes=tuple(some[:MOST_VIEWS]))


def _untriggered(constraints: Constraints, nodes: Sequence[NodeFacts]) -> Reason:
    uris = [trigger.uri for trigger in constraints.content_uri_triggers]
    watching = [node.name for node in nodes if node.watches_files]
    if watching:
        means = f"watched by {listed(watching, 'and')}"
    else:
        means = "no node that could run it can watch files (celery-workmanager[files] is not installed there)"
    return Reason(ReasonKind.CONTENT_TRIGGER, f"it waits until {listed(uris)} has changed and rests: {means}")


def _busy(nodes: Sequence[NodeFacts]) -> Iterator[Reason]:
    if all(node.concurrency is not None and node.holds >= node.concurrency for node in nodes):
        views = [NodeView(node.name, f"has {node.holds} in hand and runs {node.concurrency} at once") for node in nodes]
        more = f", and {len(views) - 1} more are full" if len(views) > 1 else ""
        text = f"every node that could run it is busy: {views[0].name} {views[0].text}{more}"
        yield Reason(ReasonKind.BUSY, text, nodes=tuple(views[:MOST_VIEWS]))


# -- words -------------------------------------------------------------------------------------------------------


def told(at: datetime) -> str:
    """A moment, in a sentence."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def since(at: datetime | None) -> str:
    """Since when, if that is known, in a sentence."""
    return "" if at is None else f" since {told(at)}"


def listed(names: Sequence[str], joint: str = "or") -> str:
    """Some names in a sentence: "a, b, c or 4 more"."""
    shown = names if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"]
    return f" {joint} ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _quoted(queues: Iterable[str] | None) -> str:
    return "every queue" if queues is None else ", ".join(map(repr, sorted(queues))) or "no queue"
