"""A picture of drain and single enqueue: medians, with the ends of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import median, number

PICTURE = Path(__file__).parents[2] / "docs" / "benchmarks" / "drain.svg"
_OURS, _OTHERS = "#0b6e4f", "#9aa5b1"
_STORES = ("SQLite", "PostgreSQL", "MariaDB")
_PANELS = (("drain", "jobs/s", "drain, jobs a second"), ("enqueue", "single/s", "single enqueue, jobs a second"))


def draw(bench: Bench, path: Path = PICTURE) -> None:
    """Write the picture. Raises ImportError without matplotlib (the extra ``bench``)."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "workmanager"  # the same figures make the same file
    shown = [panel for panel in _PANELS if bench.figures.get(panel[0])]
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(6.5 * len(shown), 5), squeeze=False)
    for axis, (row, column, title) in zip(axes[0], shown, strict=True):
        _bars(axis, bench.figures[row], column, title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(axis: Any, systems: dict[str, dict[str, list[float]]], column: str, title: str) -> None:
    found = sorted((median(each[column]), name) for name, each in systems.items() if column in each)
    names = [name for _, name in found]
    rates = [rate for rate, _ in found]
    values = [systems[name][column] for name in names]
    ends = [
        [rate - min(each) for rate, each in zip(rates, values, strict=True)],
        [max(each) - rate for rate, each in zip(rates, values, strict=True)],
    ]
    colours = [_OURS if name.startswith(_STORES) else _OTHERS for name in names]
    axis.barh(names, rates, xerr=ends, color=colours, ecolor="#444444", capsize=2)
    for place, (rate, each) in enumerate(zip(rates, values, strict=True)):
        axis.text(max(each), place, f" {number(rate)}", va="center", fontsize=8)
    axis.margins(x=0.15)
    axis.set_title(title)
    axis.spines[["top", "right"]].set_visible(False)
