"""What has grown in the second half of a soak, and whether that is a leak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean

#: What must stay as it is, and the part of itself by which it may differ within an hour.
WATCHED = {
    "parent": 0.1, "children": 0.1, "caller": 0.1, "files": 0.05, "threads": 0.05, "connections": 0.1, "tables": 0.2,
    "indexes": 0.2, "dead": 1.0, "rows": 0.2,
}  # fmt: skip
#: Fewer than these many minutes say nothing of an hour.
_SHORTEST = 10.0


@dataclass(frozen=True)
class Growth:
    """How much there was of something on average, and how much more in an hour, by the second half."""

    name: str
    average: float
    in_an_hour: float
    is_a_leak: bool

    def __str__(self) -> str:
        verdict = "  <- grows" if self.is_a_leak else ""
        return f"{self.name:<12} {self.average:>12,.1f} {self.in_an_hour:>+12,.1f} an hour{verdict}"


def growths(rows: Sequence[Mapping[str, float]]) -> Iterator[Growth]:
    """The growth of each thing that was sampled."""
    half = [row for row in rows if row["minutes"] >= rows[-1]["minutes"] / 2]
    for name, allowed in WATCHED.items():
        found = [(row["minutes"] / 60, row[name]) for row in half if name in row]
        if len(found) < 3:
            continue
        average = mean(value for _, value in found)
        slope = linear_regression([hours for hours, _ in found], [value for _, value in found]).slope
        is_long = rows[-1]["minutes"] >= _SHORTEST
        yield Growth(name, average, slope, is_long and slope > max(1.0, average * allowed))
