"""One run of the benchmarks: what it measures with, what it has measured, and how a row is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from tests.benchmarks.catalogue import Catalogue
from tests.benchmarks.figures import median
from tests.benchmarks.marks import Marks
from tests.benchmarks.servers import Absent
from tests.benchmarks.system import PATIENCE, System, Workers

#: Slow systems enqueue this part in bulk; that is never as slow as their drains.
_MOST_BULK = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs each measurement takes; a drain shall last two to three seconds (see `System.part`)."""

    drain: int = 24_000
    bulk: int = 12_000
    single: int = 1_000
    samples: int = 50
    fan_in: int = 10_000
    scheduled: int = 10_000
    spread: float = 20.0
    ahead: float = 15.0
    idle: float = 10.0
    rows: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    times: int = 50
    many: int = 1_000_000

    def scaled(self, part: float) -> Sizes:
        """A part of what is counted by jobs, for a busy machine or a short hour."""
        names = ("drain", "bulk", "single", "samples", "times")
        return replace(self, **{name: max(20, round(getattr(self, name) * part)) for name in names})


#: Enough to see that every benchmark works.
QUICK = Sizes(200, 100, 30, 3, 50, 50, 0.5, 3.0, 0.5, (50, 100, 200), 1, 1_000)

#: One system's figures of one round, by the name of the column.
Measured = Mapping[str, "float | Sequence[float]"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of measurement: what it is called on the command line, its title, and the systems, reference first.

    `rounds`: at most so many, of what takes long or measures much at once.
    """

    name: str
    title: str
    systems: Sequence[str]
    measure: Callable[[Bench, System], Measured]
    rounds: int | None = None


@dataclass
class Bench:
    """What a row's `measure` works with; `figures` are by row, system and column, one value or more a round.

    `shares`: a system's rows may use one worker, one after the other; enough to see that they work.
    """

    catalogue: Catalogue
    marks: Marks
    sizes: Sizes
    shares: bool = False
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    #: What a row has to say beside its table, and the seconds that each row took.
    notes: dict[str, str] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    _kept: tuple[System, Workers] | None = None
    _keeper: ExitStack = field(default_factory=ExitStack)

    def run(self, row: Row, rounds: int, only: Sequence[str] | None) -> None:
        """Measure the systems in turn, as often as `rounds` and the row say."""
        begun = time.monotonic()
        names = [name for name in row.systems if is_wanted(name, only)]
        for number in range(self.rounds_of(row, rounds)):
            for name in names:
                self._measure(row, name, number + 1)
        self.took[row.name] = self.took.get(row.name, 0.0) + time.monotonic() - begun

    @staticmethod
    def rounds_of(row: Row, rounds: int) -> int:
        """How often the row's systems are measured."""
        return min(rounds, row.rounds or rounds)

    def _measure(self, row: Row, name: str, number: int) -> None:
        missing = self.absent.setdefault(row.name, {})
        if name in missing:
            return
        if self._kept and self._kept[0].name != name:
            self.release()
        begun = time.monotonic()
        try:
            measured = row.measure(self, self.catalogue.get(name))
        except Absent as reason:
            missing[name] = str(reason)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the other figures of an hour must not be lost
            missing[name] = f"broke: {type(error).__name__}: {error}"[:200]
            self.broken.append(f"{row.name}: {name}: {type(error).__name__}: {error}")
            print(f"broke: {self.broken[-1]}", flush=True)
            return
        columns = self.figures.setdefault(row.name, {}).setdefault(name, {})
        for column, values in measured.items():
            columns.setdefault(column, []).extend([values] if isinstance(values, (int, float)) else values)
        took = time.monotonic() - begun
        print(f"{row.name}, round {number}: {name}: {_short(measured)} [{took:.0f} s]", flush=True)

    def median(self, row: str, system: str, column: str) -> float | None:
        """The middle of what was measured; None of nothing."""
        values = self.figures.get(row, {}).get(system, {}).get(column)
        return median(values) if values else None

    def drain_size(self, system: System) -> int:
        """How many jobs a drain of this system takes."""
        return max(20, self.sizes.drain // system.part)

    def bulk_size(self, system: System) -> int:
        """How many jobs a bulk enqueue of this system takes."""
        return max(20, self.sizes.bulk // min(system.part, _MOST_BULK))

    def fill(self, system: System, count: int, *, patience: float = PATIENCE) -> float:
        """Put `count` jobs into a queue that was empty; returns the seconds it took."""
        self.release()
        self.marks.clear()
        system.call("reset")
        system.before()
        seconds = system.call("enqueue_many", 0, count, patience=patience).seconds
        system.settle()
        return seconds

    @contextmanager
    def idle_worker(self, system: System, *, counted: bool = False) -> Iterator[Workers]:
        """A worker that has run one job of an empty queue; marks are clear."""
        self.marks.clear()
        system.call("reset")
        if self.shares and self._kept and self._kept[0] is system:
            yield self._kept[1]
            return
        self.release()
        with ExitStack() as stack:
            workers = stack.enter_context(system.workers(counted=counted or self.shares))
            system.call("enqueue_each", 0, 1)
            self.marks.wait(1, PATIENCE, workers.check)
            self.marks.clear()
            if self.shares:
                self._kept, self._keeper = (system, workers), stack.pop_all()
            yield workers

    def release(self) -> None:
        """End the worker that was kept for the next row."""
        self._kept = None
        self._keeper.close()


def is_wanted(name: str, only: Sequence[str] | None) -> bool:
    """Whether `only` has a part of the name, or with a "=" before it the whole."""
    return not only or any(name == part[1:] if part.startswith("=") else part in name for part in only)


def _short(measured: Measured) -> str:
    return ", ".join(
        f"{column} {median([values] if isinstance(values, (int, float)) else list(values)):,.4g}"
        for column, values in measured.items()
    )
