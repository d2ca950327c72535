"""Tables: what a storm threw and what became of it, for one storm and for all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.audit import GRACE
from tests.chaos.storm import Storm

Value = Callable[[Sequence[Storm]], object]


def _sum(count: Callable[[Storm], int]) -> Value:
    return lambda storms: sum(map(count, storms))


def _by_kind(counts: Callable[[Storm], Counter[str]]) -> Value:
    def shown(storms: Sequence[Storm]) -> str:
        total = sum(map(counts, storms), Counter[str]())
        return ", ".join(f"{name} {count}" for name, count in sorted(total.items())) or "none"

    return shown


def _states(storm: Storm) -> Counter[str]:
    return Counter(info.state.name for info in storm.audit.infos.values() if info.state.is_finished)


def _calls(storm: Storm) -> Counter[str]:
    refused = Counter(call.refused for call in storm.audit.notes.calls if call.refused)
    return storm.audit.notes.errors | refused


def _slowest(storms: Sequence[Storm]) -> str:
    delays = [delay for storm in storms for delay in storm.audit.delays]
    return (
        f"{max(delays):.1f} s of {len(delays)} (promised: {storms[0].lease + GRACE:g} s)"
        if delays
        else "no node died undisturbed"
    )


ROWS: dict[str, Value] = {
    "seconds": _sum(lambda storm: round(storm.seconds)),
    "accepted works": _sum(lambda storm: len(storm.audit.notes.accepted)),
    "works whose answer was lost": _sum(
        lambda storm: sum(len(call.edges) for call in storm.audit.notes.calls if call.is_unsure)
    ),
    "finished": _by_kind(_states),
    "visibly waiting": _sum(lambda storm: len(storm.audit.waiting)),
    "replaced under their names": _sum(lambda storm: len(storm.audit.replaced)),
    "calls that failed": _by_kind(_calls),
    "cancels and updates": _by_kind(lambda storm: storm.audit.notes.asked),
    "changes of state and owner": _sum(lambda storm: storm.audit.changes),
    "runs begun": _sum(lambda storm: len(storm.audit.runs)),
    "runs repeated, by reason": _by_kind(lambda storm: storm.audit.again),
    "moments when the machine was too busy": _sum(lambda storm: len(storm.audit.notes.stalls)),
    "faults": _sum(lambda storm: len(storm.audit.notes.faults)),
    "kinds of faults": lambda storms: len({fault.kind for storm in storms for fault in storm.audit.notes.faults}),
    "faults by kind": _by_kind(lambda storm: Counter(fault.kind for fault in storm.audit.notes.faults)),
    "longest until a dead node's work was back": _slowest,
}


def table(storms: Sequence[Storm]) -> str:
    """A Markdown table of these storms: a column each, and one for the whole."""
    columns = [[storm] for storm in storms] + ([list(storms)] if len(storms) > 1 else [])
    heads = [f"{storm.title} (seed {storm.seed})" for storm in storms] + (["all"] if len(storms) > 1 else [])
    rows = [("", *heads), ("---", *["---"] * len(heads))]
    rows += [(name, *[str(value(column)) for column in columns]) for name, value in ROWS.items()]
    for promise in storms[0].audit.found:
        rows.append((f"**{promise}**", *[str(_broken(column, promise)) for column in columns]))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    skipped = sorted({f"{storm.title}: without {each}" for storm in storms for each in storm.skipped})
    return "\n".join([*lines, "", *skipped])


def _broken(storms: Sequence[Storm], promise: str) -> int:
    return sum(len(storm.audit.found[promise]) for storm in storms)
