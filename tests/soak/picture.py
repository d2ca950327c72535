"""The picture of a soak: each thing over the minutes, a line for each store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"sqlite": "#b3541e", "postgresql": "#2f5d8a"}
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
_PANELS = (
    ("parent", "worker's parent process, PSS, MiB"),
    ("children", "its two children, PSS, MiB"),
    ("files", "its file descriptors"),
    ("connections", "connections to the database"),
    ("tables", "tables (SQLite: file and log), MiB"),
    ("indexes", "indexes, MiB"),
    ("dead", "dead tuples"),
    ("rows", "works in the store"),
    ("finished", "runs ended"),
)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write the picture. Raises ImportError without matplotlib (the extra ``bench``)."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "workmanager"  # the same samples make the same file
    figure, axes = plt.subplots(3, 3, figsize=(13, 9), sharex=True)
    for axis, (name, title) in zip(axes.flat, _PANELS, strict=True):
        for store, rows in found.items():
            _line(axis, store, [(row["minutes"], row[name]) for row in rows if name in row])
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    axes.flat[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _line(axis: Any, store: str, points: list[tuple[float, float]]) -> None:
    if points:
        minutes, values = zip(*points, strict=True)
        axis.plot(minutes, values, color=_COLOURS[store], label=_NAMES[store], linewidth=1)
