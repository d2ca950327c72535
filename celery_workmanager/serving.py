"""Which nodes could run a work, and what keeps each of the others from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_workmanager.explanation import NodeView, Reason, ReasonKind
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

    def consumes(self, queue: str) -> bool:
        """Whether it takes works of the queue."""
        return self.queues is None or queue in self.queues

    def knows(self, worker: str) -> bool:
        """Whether it has registered the worker."""
        return self.workers is None or worker in self.workers


@dataclass(frozen=True, slots=True)
class OfNodes:
    """What the nodes have to say of a work."""

    #: Why none of them may take it.
    holding: tuple[Reason, ...] = ()
    #: That none of them has room for it now.
    busy: tuple[Reason, ...] = ()
    #: The names of those that may take it.
    able: tuple[str, ...] = ()


def of_nodes(queue: str, worker: str, nodes: Sequence[NodeFacts], drained: Mapping[str, datetime | None]) -> OfNodes:
    """Why no node takes a work for `worker` in `queue`, or which do; `drained`: since when, by the names of nodes."""
    alive = [node for node in nodes if node.is_alive]
    serving = [node for node in alive if node.consumes(queue) and node.knows(worker)]
    if not serving:
        return OfNodes(holding=(_unserved(queue, worker, nodes, alive),))
    open_ = [node for node in serving if node.name not in drained]
    if not open_:
        return OfNodes(holding=tuple(_drained(serving, drained)))
    return OfNodes(busy=tuple(_busy(open_)), able=tuple(node.name for node in open_))


def _unserved(queue: str, worker: str, nodes: Sequence[NodeFacts], alive: Sequence[NodeFacts]) -> Reason:
    if not alive:
        last = max(nodes, key=lambda node: node.lease_until, default=None)
        since = as_datetime(last.lease_until) if last is not None and last.lease_until else None
        lost = "" if last is None else f"; the last one was {last.name}"
        lost += "" if last is None or not last.lease_until else f", until {told(last.lease_until)}"
        return Reason(ReasonKind.NO_NODE, f"no node is alive{lost}", since=since)
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


def _drained(serving: Sequence[NodeFacts], drained: Mapping[str, datetime | None]) -> Iterator[Reason]:
    """One reason for all: it would run on any of them."""
    views = [NodeView(node.name, f"is drained{_since(drained[node.name])}") for node in serving]
    since = min((at for node in serving if (at := drained[node.name]) is not None), default=None)
    text = f"every node that serves it is drained: {views[0].name}{_since(since)}"
    more = f" and {len(views) - 1} more" if len(views) > 1 else ""
    yield Reason(ReasonKind.PAUSED, text + more, since=since, nodes=tuple(views[:MOST_VIEWS]))


def _busy(nodes: Sequence[NodeFacts]) -> Iterator[Reason]:
    if all(node.concurrency is not None and node.holds >= node.concurrency for node in nodes):
        views = [NodeView(node.name, f"has {node.holds} in hand and runs {node.concurrency} at once") for node in nodes]
        more = f", and {len(views) - 1} more are full" if len(views) > 1 else ""
        text = f"every node that could run it is busy: {views[0].name} {views[0].text}{more}"
        yield Reason(ReasonKind.BUSY, text, nodes=tuple(views[:MOST_VIEWS]))


# -- words -------------------------------------------------------------------------------------------------------


def told(at: int) -> str:
    """A moment, in a sentence."""
    return f"{as_datetime(at):%Y-%m-%d %H:%M:%S} UTC"


def _since(at: datetime | None) -> str:
    return "" if at is None else f" since {at:%Y-%m-%d %H:%M:%S} UTC"


def listed(names: Sequence[str]) -> str:
    """Some names in a sentence: "a, b, c or 4 more"."""
    if len(names) <= NAMED:
        return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{', '.join(names[:NAMED])} or {len(names) - NAMED} more"


def _quoted(queues: Iterable[str] | None) -> str:
    return "every queue" if queues is None else ", ".join(map(repr, sorted(queues))) or "no queue"
