"""What each release measured, one line of JSON each, so that a slow change is seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.facts import commit
from tests.benchmarks.figures import median

HISTORY = Path(__file__).parents[2] / "docs" / "benchmarks" / "history.jsonl"


def add(bench: Bench, machine: dict[str, str], rounds: int) -> None:
    """Append this run: median, lowest and highest of each figure, by row, system and column."""
    figures = {
        row: {
            system: {column: [_short(each) for each in (median(v), min(v), max(v))] for column, v in columns.items()}
            for system, columns in systems.items()
        }
        for row, systems in bench.figures.items()
    }
    line = {"at": datetime.now(UTC).date().isoformat(), "commit": commit(), "rounds": rounds, "machine": machine}
    HISTORY.parent.mkdir(parents=True, exist_ok=True)
    with HISTORY.open("a") as file:
        file.write(json.dumps({**line, "figures": figures, "absent": bench.absent}, ensure_ascii=False) + "\n")


def _short(value: float) -> float:
    return float(f"{value:.4g}")
