"""The nodes, and whether each work that waits has one that serves it."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from celery_workmanager.app import WorkManager
from celery_workmanager.doctor.finding import Finding, error, note, several, warning, works
from celery_workmanager.lanes import Lane
from celery_workmanager.overview import MOST, Census, Pile
from celery_workmanager.pauses import PauseInfo, PauseKind, PauseTarget
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND
from celery_workmanager.worker import Worker


@dataclass(frozen=True)
class Seen:
    """What was read for this part; `now` by the database's clock, `heard` is what workers answered over the broker."""

    nodes: Sequence[NodeRow]
    census: Census
    now: int
    heard: dict[str, Any]
    pauses: Sequence[PauseInfo] = ()
    #: What the lanes ask for in which works could be claimed.
    lanes: Sequence[Lane] = ()

    @cached_property
    def living(self) -> list[NodeRow]:
        """Nodes whose lease runs, beats too."""
        return [node for node in self.nodes if node.is_alive(self.now)]

    @cached_property
    def alive(self) -> list[NodeRow]:
        """Those of them that run works."""
        return [node for node in self.living if node.runs_works]

    @cached_property
    def beats(self) -> list[NodeRow]:
        """Those of them that only keep time."""
        return [node for node in self.living if not node.runs_works]

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """What the live nodes that run works tell of themselves."""
        return [json.loads(node.facts) for node in self.alive]

    def serves(self, queue: str, worker: str) -> bool:
        """Whether a live node consumes the queue and has registered the worker."""
        return any(queue in facts.get("queues", ()) and worker in facts.get("workers", ()) for facts in self.facts)

    @property
    def waiting(self) -> list[Pile]:
        """Works that nobody has claimed."""
        return [*self.census.ready, *self.census.delayed, *self.census.limited, *self.census.blocked]


# -- nodes -------------------------------------------------------------------------------------------------------


def examine_nodes(manager: WorkManager, seen: Seen) -> Iterator[Finding]:
    """Nodes that are lost, missing, deaf to works, or on too many machines for a file."""
    if not seen.alive:
        yield _nobody(seen)
    yield from _lost(seen)
    machines = {_machine(node) for node in seen.living}
    if manager.store.database.is_sqlite and len(machines) > 1:
        names = sorted({node.host_name for node in seen.living})
        yield error(
            "store-shared",
            f"Nodes on {len(machines)} machines share one SQLite file: {several(names)}.",
            "SQLite is for the processes of one machine: works may be lost or run twice.",
            "Use PostgreSQL or MariaDB for several machines.",
        )
    yield from _of_versions(seen)
    yield from _without_node(manager, seen)


def _of_versions(seen: Seen) -> Iterator[Finding]:
    """A rolling upgrade that is under way, or was left in the middle."""
    versions: dict[str, list[str]] = defaultdict(list)
    for node in seen.living:
        versions[json.loads(node.facts).get("version", "unknown")].append(node.name)
    if len(versions) > 1:
        told = "; ".join(f"{version}: {several(sorted(names))}" for version, names in sorted(versions.items()))
        yield note(
            "versions",
            f"Live nodes have {len(versions)} versions of celery-workmanager ({told}).",
            "Two releases that follow each other work side by side; others may not.",
            "Nothing during an upgrade; else restart those that are behind.",
        )


def _nobody(seen: Seen) -> Finding:
    waiting = sum(pile.number for pile in seen.waiting)
    do = "Start a worker: `celery -A proj worker`."
    if not waiting:
        return note("no-node", "No node is alive.", "Works that are enqueued wait.", do)
    seen_ = f"No node is alive; waiting for one: {works(waiting, MOST)}."
    return error("no-node", seen_, "They run as soon as a worker starts.", do)


def _lost(seen: Seen) -> Iterator[Finding]:
    for node in seen.nodes:
        if node.is_alive(seen.now):
            continue
        held = sum(pile.number for pile in seen.census.in_hand if pile.node == node.id)
        since = f" {(seen.now - node.lease_until) // SECOND} s ago" if node.lease_until else ""
        healed = (
            "A live node puts its works back into the queue." if seen.living else "Nobody is there to take its works."
        )
        yield warning(
            "node-lost",
            f"The lease of node {node.name} ended{since}; still in its hands: {works(held, MOST)}.",
            f"Its process died, froze or can't reach the database. {healed}",
            "Look into its log; start it again if it doesn't come back." if seen.alive else "Start a worker.",
        )


def _machine(node: NodeRow) -> str:
    # Containers of one machine have names of their own, and the same kernel.
    name, _, rest = node.host.partition("/")
    return rest.split("/")[0] or name


def _without_node(manager: WorkManager, seen: Seen) -> Iterator[Finding]:
    """Workers that have registered ours and run none."""
    ours = {name for name in _workers(manager) if not name.startswith("celery_workmanager.")}  # those are everybody's
    names = {node.name for node in seen.alive}
    for name, told in sorted(seen.heard.items()):
        if name not in names and ours & set(told["tasks"]):
            yield warning(
                "worker-without-node",
                f"Worker {name} knows our workers and runs no works (its pool: {told['pool']}).",
                "Its pool can't run works, it uses another store, or it runs a version without them.",
                'Its log says why: look for "This worker runs no works".',
            )


def _workers(manager: WorkManager) -> list[str]:
    return sorted(name for name, task in manager.app.tasks.items() if isinstance(task, Worker))


# -- queues ------------------------------------------------------------------------------------------------------


def examine_queues(manager: WorkManager, seen: Seen) -> Iterator[Finding]:
    """Works, and routes, that lead where nobody takes them."""
    for (queue, worker), count in sorted(_stranded(seen).items()):
        found = _of_worker(manager, seen, worker, count) or _of_queue(seen, queue, worker, count)
        if found is not None:
            yield found
    yield from _routes(manager, seen)
    for pause in seen.pauses:
        yield _paused(seen, pause)


def _paused(seen: Seen, pause: PauseInfo) -> Finding:
    """Something is paused: on purpose, or forgotten."""
    target = PauseTarget(pause.kind, pause.label)
    since = "" if pause.since is None else f" since {pause.since:%Y-%m-%d %H:%M} UTC"
    behind = [pile for pile in seen.census.paused if pause.label in _LABELS[pause.kind](pile)]
    waiting = sum(pile.number for pile in behind)
    counted = f"; waiting behind it: {works(waiting, MOST)}" if behind else ""
    told = f"The {target} has been paused{since}{counted}."
    do = f"Resume it when it may go on: `celery -A proj work resume --{pause.kind} {shlex.quote(pause.label)}`."
    if pause.kind is PauseKind.NODE:
        return note("drained", told, "It takes no works until it is resumed; others may.", do)
    if pause.is_complete:
        return note("paused", told, "Its works don't start until it is resumed.", do)
    return warning(
        "pause-incomplete",
        f"{told} Not all works that existed before have been marked.",
        "Whoever paused it died or gave up, or is at it now; a live node carries it on.",
        "Look again in a minute; if it stays, end the transaction that holds the works, or pause it again.",
    )


#: The labels of a pile that a pause may be named by; tags and unique names of single works are not counted.
_LABELS: dict[PauseKind, Callable[[Pile], tuple[str, ...]]] = {
    PauseKind.QUEUE: lambda pile: (pile.queue,),
    PauseKind.TAG: lambda pile: (pile.worker,),
    PauseKind.NAME: lambda _: (),
    PauseKind.NODE: lambda _: (),
}


def _stranded(seen: Seen) -> dict[tuple[str, str], int]:
    """Works that wait for a queue and worker that no live node serves."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for pile in seen.waiting:
        if not seen.serves(pile.queue, pile.worker):
            found[pile.queue, pile.worker] += pile.number
    return found


def _of_worker(manager: WorkManager, seen: Seen, worker: str, count: int) -> Finding | None:
    """Something is the matter with the worker's name, whatever the queue."""
    if any(worker in facts.get("workers", ()) for facts in seen.facts):
        return None
    task = manager.app.tasks.get(worker)
    if isinstance(task, Worker):
        return None
    waiting, cancel = works(count, MOST), f"cancel them: `celery -A proj work cancel --tag {worker}`."
    if task is None:
        return error(
            "worker-unknown",
            f"This app has no worker {worker!r}; waiting for it: {waiting}.",
            "It was renamed or removed, or its module isn't imported: no node will run them.",
            f"Bring it back under this name until they have run, or {cancel}",
        )
    return error(
        "worker-taken-off",
        f"{worker!r} is no worker any more (its base isn't Worker); waiting for it: {waiting}.",
        "No node will run them; calls of the task go through the broker now.",
        f"Put base=Worker back until they have run, or {cancel}",
    )


def _of_queue(seen: Seen, queue: str, worker: str, count: int) -> Finding | None:
    if not seen.alive:
        return None  # said once, of the nodes
    waiting, means = works(count, MOST), "They wait until one does."
    if any(queue in facts.get("queues", ()) for facts in seen.facts):
        return error(
            "unserved",
            f"No live node of queue {queue!r} has registered {worker!r}; waiting there: {waiting}.",
            means,
            "Deploy the code that has this worker to a node of that queue.",
        )
    return error(
        "unserved",
        f"No live node consumes queue {queue!r}; waiting there for {worker!r}: {waiting}.",
        means,
        f"Start a worker with -Q {queue} (and its other queues).",
    )


def _routes(manager: WorkManager, seen: Seen) -> Iterator[Finding]:
    """Queues to which workers are routed and which no live node consumes."""
    if not seen.alive:
        return
    consumed = {queue for facts in seen.facts for queue in facts.get("queues", ())}
    unheard: dict[str, list[str]] = defaultdict(list)
    for worker in _workers(manager):
        queue = manager.queue_of(OneTimeWorkRequest(worker))
        if queue not in consumed:
            unheard[queue].append(worker)
    for queue, workers in sorted(unheard.items()):
        yield warning(
            "route",
            f"Works of {several(workers)} go to queue {queue!r}, which no live node consumes.",
            "They will wait there.",
            f"Start a worker with -Q {queue}, or change the route (task_routes, the task's queue).",
        )
