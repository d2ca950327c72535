"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.benchmarks.bench import Bench, Row
from tests.benchmarks.figures import median, number, spread

#: Columns after which their ratio to the row's first system is worth a column.
_RATIOS = ("jobs/s", "single/s", "bulk/s", "first/s", "duplicate/s", "start p50 ms", "done p50 ms", "s", "late p50 ms")


def table(bench: Bench, row: Row) -> str:
    """One row's table; whoever is absent has a line that says why."""
    found = bench.figures.get(row.name, {})
    columns = list(dict.fromkeys(column for each in found.values() for column in each))
    reference = found.get(row.systems[0], {})  # no ratio to whoever happens to be there
    head = [cell for column in columns for cell in ((column, "ratio") if _has_ratio(column) else (column,))]
    lines = [f"## {row.title}", "", f"| | {' | '.join(head or ['figures'])} |", "|---" * (max(1, len(head)) + 1) + "|"]
    for name in row.systems:
        if name in found:
            lines.append(f"| {name} | {' | '.join(_cells(found[name], reference, columns))} |")
        elif name in bench.absent.get(row.name, {}):
            why = bench.absent[row.name][name].replace("|", "/").replace("\n", " ")
            lines.append(f"| {name} | absent: {why} |" + " |" * (len(head) - 1))
    if row.name in bench.notes:
        lines += ["", bench.notes[row.name]]
    return "\n".join(lines)


def how(bench: Bench, rows: Sequence[Row], rounds: int) -> str:
    """How much was measured, and how long each row took."""
    sizes = bench.sizes
    took = [f"{row.name} {bench.took[row.name] / 60:.1f}{_fewer(bench, row, rounds)}" for row in rows]
    return (
        f"{_rounds(rounds)}; drains of {sizes.drain:,} jobs (a half or an eighth of slower systems), {sizes.single:,}"
        f" single and {sizes.bulk:,} bulk enqueues, {sizes.samples:,} samples of latency a round."
        f" Minutes: {', '.join(took)}."
    )


def _fewer(bench: Bench, row: Row, rounds: int) -> str:
    own = bench.rounds_of(row, rounds)
    return "" if own == rounds else f" ({_rounds(own)})"


def _rounds(count: int) -> str:
    return f"{count} round{'s' if count > 1 else ''}"


def _has_ratio(column: str) -> bool:
    return column in _RATIOS or column.endswith(", s")


def _cells(own: dict[str, list[float]], reference: dict[str, list[float]], columns: list[str]) -> Iterator[str]:
    for column in columns:
        values = own.get(column)
        yield spread(values) if values else "–"
        if _has_ratio(column):
            other = reference.get(column)
            yield number(median(values) / median(other)) if values and other and median(other) else "–"
