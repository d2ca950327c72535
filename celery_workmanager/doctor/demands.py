"""Works that ask for what no live node has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from celery_workmanager.circumstances import node_facts
from celery_workmanager.doctor.finding import Finding, several, warning
from celery_workmanager.doctor.fleet import Seen
from celery_workmanager.lanes import TRIGGER, Lane
from celery_workmanager.serving import NodeFacts


def examine_demands(seen: Seen) -> Iterator[Finding]:
    """Constraints that no node will meet, whatever it reads, and files that none can watch."""
    nodes = [node_facts(row, seen.now) for row in seen.alive]
    for lane in sorted(seen.lanes, key=lambda each: (each.queue, each.worker, each.constraints.key)):
        serving = [node for node in nodes if node.consumes(lane.queue) and node.knows(lane.worker)]
        if not serving:
            continue  # said of its queue
        lacking = [_never(lane, node, seen.now) for node in serving]
        if all(lacking):
            yield _unmeetable(lane, [each for each in lacking if each is not None])
        elif lane.mark == TRIGGER and not any(node.watches_files for node in serving):
            yield _unwatched(lane, serving)


def _never(lane: Lane, node: NodeFacts, now: int) -> str | None:
    """What the node can't meet as it was started: labels it hasn't, and what it doesn't know of itself."""
    for found in node.unmet(lane.constraints, now):
        reading = node.readings.get(found.sensor or "")
        if found.sensor == "labels" or (found.sensor is not None and (reading is None or reading.value is None)):
            return f"{node.name}: {found.text}"
    return None


def _unmeetable(lane: Lane, lacking: Sequence[str]) -> Finding:
    return warning(
        "constraint-unmeetable",
        f"Works for {lane.worker!r} in queue {lane.queue!r} wait for what no live node has: {several([*lacking], 3)}.",
        "They wait until a node is started that has it, or for ever.",
        "Start such a worker (its labels: workmanager_node_labels), let it read what it doesn't know, or update the "
        "works.",
    )


def _unwatched(lane: Lane, serving: Sequence[NodeFacts]) -> Finding:
    names = several([node.name for node in serving])
    return warning(
        "files-unwatched",
        f"Works for {lane.worker!r} in queue {lane.queue!r} wait for changes of files; {names} can't watch any.",
        "They wait until a node can.",
        'Install it there: pip install "celery-workmanager[files]".',
    )
