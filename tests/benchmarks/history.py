"""What each release measured: one line of JSON a run, so that a slow change is seen, and the latest run as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import median

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
HISTORY = "history.jsonl"


def add(bench: Bench, run: Mapping[str, str], folder: Path = FOLDER) -> None:
    """Append this run: median, lowest and highest of each figure, by row, system and column."""
    figures = {
        row: {
            system: {column: [_short(each) for each in (median(v), min(v), max(v))] for column, v in columns.items()}
            for system, columns in systems.items()
        }
        for row, systems in bench.figures.items()
    }
    line = {"at": datetime.now(UTC).date().isoformat(), "run": dict(run), "figures": figures, "absent": bench.absent}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HISTORY).open("a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write(page: str, name: str, folder: Path = FOLDER) -> None:
    """Keep the tables of this run under `name`; those of an earlier one go."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
