"""One run of the benchmarks: what it measures with, what it has measured, and how a row is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tests.benchmarks.catalogue import Catalogue
from tests.benchmarks.figures import median
from tests.benchmarks.marks import Marks
from tests.benchmarks.servers import Absent
from tests.benchmarks.system import Broken, System, Workers

PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs each measurement takes; slow systems are drained of a quarter."""

    drain: int = 8_000
    single: int = 1_000
    samples: int = 50
    fan_in: int = 10_000
    scheduled: int = 10_000
    spread: float = 30.0
    ahead: float = 30.0
    idle: float = 10.0
    rows: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    times: int = 50
    many: int = 1_000_000

    def scaled(self, part: float) -> Sizes:
        """A part of what is counted by jobs, for a busy machine or a short hour."""
        counts = {name: max(20, round(getattr(self, name) * part)) for name in ("drain", "single", "samples", "times")}
        return replace(self, **counts)


#: Enough to see that every benchmark works.
QUICK = Sizes(200, 30, 3, 50, 50, 1.0, 4.0, 1.0, (100, 200, 400), 3, 1_000)

#: One system's figures of one round, by the name of the column.
Measured = Mapping[str, "float | Sequence[float]"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of measurement: what it is called on the command line, its title, and the systems, reference first."""

    name: str
    title: str
    systems: Sequence[str]
    measure: Callable[[Bench, System], Measured]


@dataclass
class Bench:
    """What a row's `measure` works with; `figures` are by row, system and column, one value or more a round."""

    catalogue: Catalogue
    marks: Marks
    sizes: Sizes
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def run(self, row: Row, rounds: int, only: Sequence[str] | None) -> None:
        """Measure the systems in turn, `rounds` times."""
        own = self.figures.setdefault(row.name, {})
        missing = self.absent.setdefault(row.name, {})
        names = [name for name in row.systems if not only or any(part in name for part in only)]
        for number in range(rounds):
            for name in names:
                if name in missing:
                    continue
                try:
                    measured = row.measure(self, self.catalogue.get(name))
                except Absent as reason:
                    missing[name] = str(reason)
                    continue
                except (Broken, TimeoutError) as error:
                    missing[name] = f"broke: {error}"[:200]
                    self.broken.append(f"{row.name}: {error}")
                    print(f"broke: {row.name}: {error}", flush=True)
                    continue
                columns = own.setdefault(name, {})
                for column, values in measured.items():
                    columns.setdefault(column, []).extend([values] if isinstance(values, (int, float)) else values)
                print(f"{row.name}, round {number + 1}: {name}: {_short(measured)}", flush=True)

    def median(self, row: str, system: str, column: str) -> float | None:
        """The middle of what was measured; None of nothing."""
        values = self.figures.get(row, {}).get(system, {}).get(column)
        return median(values) if values else None

    def drain_size(self, system: System) -> int:
        """How many jobs a drain of this system takes."""
        return self.sizes.drain // 4 if system.is_slow else self.sizes.drain

    @contextmanager
    def idle_worker(self, system: System) -> Iterator[Workers]:
        """A worker that has run one job of an empty queue; marks are clear."""
        self.marks.clear()
        system.call("reset")
        with system.workers() as workers:
            system.call("enqueue_each", 0, 1)
            self.marks.wait(1, PATIENCE)
            self.marks.clear()
            yield workers


def _short(measured: Measured) -> str:
    return ", ".join(
        f"{column} {median([values] if isinstance(values, (int, float)) else list(values)):,.4g}"
        for column, values in measured.items()
    )
