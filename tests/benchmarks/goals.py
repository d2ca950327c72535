"""What was to be reached, and whether it was: ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.benchmarks import catalogue as c
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import number
from tests.benchmarks.rows.canvas import CHAIN, FAN
from tests.benchmarks.rows.drain import RATE
from tests.benchmarks.rows.enqueue import NAMED
from tests.benchmarks.rows.idle import CPU, STATEMENTS
from tests.benchmarks.rows.limit import SYSTEM


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that shall be at least (or at most) so much."""

    text: str
    figure: Callable[[Bench], float | None]
    at_least: float | None = None
    at_most: float | None = None
    moonshot: float | None = None

    def reached(self, figure: float) -> str:
        """What the table says of it."""
        if self.at_least is not None:
            if self.moonshot is not None and figure >= self.moonshot:
                return "moonshot"
            return "yes" if figure >= self.at_least else "**no**"
        return "yes" if self.at_most is not None and figure <= self.at_most else "**no**"

    @property
    def target(self) -> str:
        """In words."""
        goal = f"≥ {self.at_least:,g}" if self.at_least is not None else f"≤ {self.at_most:,g}"
        return f"{goal}, moonshot ≥ {self.moonshot:g}" if self.moonshot is not None else goal


def _ratio(row: str, column: str, own: str, other: str) -> Callable[[Bench], float | None]:
    def figure(bench: Bench) -> float | None:
        ours, theirs = bench.median(row, own, column), bench.median(row, other, column)
        return ours / theirs if ours is not None and theirs else None

    return figure


def _plain(row: str, column: str, own: str) -> Callable[[Bench], float | None]:
    return lambda bench: bench.median(row, own, column)


def _drain(own: str, other: str) -> Callable[[Bench], float | None]:
    return _ratio("drain", RATE, own, other)


def _fastest_peer(bench: Bench) -> float | None:
    peers = [rate for peer in c.PEERS if (rate := bench.median("drain", peer, RATE)) is not None]
    own = bench.median("drain", c.POSTGRESQL, RATE)
    return own / max(peers) if peers and own is not None else None


def _limit(own: str) -> Callable[[Bench], float | None]:
    def figure(bench: Bench) -> float | None:
        columns = bench.figures.get("limit", {}).get(SYSTEM, {})
        rates = [rate for name in columns if name.endswith(RATE) and (rate := bench.median("limit", SYSTEM, name))]
        drained = bench.median("drain", own, RATE)
        return drained / max(rates) if rates and drained is not None else None

    return figure


def _duplicates(own: str) -> Callable[[Bench], float | None]:
    return _ratio("unique", "duplicate/s", own, "celery-once")


def _named_beside_copy(bench: Bench) -> float | None:
    own = bench.median("enqueue", c.POSTGRESQL, NAMED)
    floor = bench.median("enqueue", "COPY, bare", "bulk/s")
    return own / floor if own is not None and floor else None


def _on_both(make: Callable[[str], Goal]) -> Iterator[Goal]:
    return (make(store) for store in (c.SQLITE, c.POSTGRESQL))


GOALS = [
    Goal("drain, PostgreSQL / Celery, Redis", _drain(c.POSTGRESQL, c.REFERENCE), at_least=5, moonshot=10),
    Goal("drain, PostgreSQL / Celery, RabbitMQ", _drain(c.POSTGRESQL, c.RABBITMQ), at_least=1.7, moonshot=3.5),
    Goal("drain, PostgreSQL / Celery, results in PostgreSQL", _drain(c.POSTGRESQL, c.RESULTS_IN_SQL), at_least=12),
    Goal("drain, PostgreSQL / the fastest durable peer", _fastest_peer, at_least=1.0, moonshot=1.5),
    Goal("drain, PostgreSQL at +1 ms a flush / without", _drain(c.SLOW_POSTGRESQL, c.POSTGRESQL), at_least=0.7),
    Goal("drain, SQLite / Celery, Redis", _drain(c.SQLITE, c.REFERENCE), at_least=6, moonshot=12),
    Goal("drain, SQLite / the pool fed from memory", _limit(c.SQLITE), at_least=0.85),
    Goal("drain, PostgreSQL / the pool fed from memory", _limit(c.POSTGRESQL), at_least=0.7),
    *_on_both(
        lambda store: Goal(
            f"single enqueue, {store} / `delay()` on Redis",
            _ratio("enqueue", "single/s", store, c.REFERENCE),
            at_least=1.0,
        )
    ),
    Goal("bulk enqueue with names and edges, PostgreSQL / bare COPY", _named_beside_copy, at_least=0.33),
    *_on_both(lambda store: Goal(f"duplicate rejected, {store} / celery-once", _duplicates(store), at_least=4)),
    Goal("idle latency to start, SQLite, p50 ms", _plain("latency", "start p50 ms", c.SQLITE), at_most=15),
    Goal(
        "idle latency to start, PostgreSQL / Celery, Redis, p50",
        _ratio("latency", "start p50 ms", c.POSTGRESQL, c.REFERENCE),
        at_most=1.0,
    ),
    *_on_both(
        lambda store: Goal(f"{CHAIN}, {store} / Celery, Redis", _ratio("canvas", CHAIN, store, c.REFERENCE), at_most=1)
    ),
    *_on_both(
        lambda store: Goal(f"{FAN}, {store} / Celery, Redis", _ratio("canvas", FAN, store, c.REFERENCE), at_most=0.5)
    ),
    *_on_both(
        lambda store: Goal(
            f"10 000 scheduled, {store}: a worker grows by, MiB",
            _plain("scheduled", "worker grows by MiB", store),
            at_most=2,
        )
    ),
    *_on_both(
        lambda store: Goal(
            f"10 000 scheduled, {store}: late p50, ms", _plain("scheduled", "late p50 ms", store), at_most=20
        )
    ),
    *_on_both(
        lambda store: Goal(
            f"10 000 scheduled, {store}: late p99, ms", _plain("scheduled", "late p99 ms", store), at_most=100
        )
    ),
    *_on_both(
        lambda store: Goal(
            f"claim beside 10⁶ rows / 10³, {store}", _plain("growth", "claim ×", f"growth on {store}"), at_most=1.2
        )
    ),
    *_on_both(lambda store: Goal(f"idle worker, {store}: CPU %", _plain("idle", CPU, store), at_most=0.5)),
    *_on_both(
        lambda store: Goal(
            f"drain, {store} beside constraints and limits / without",
            _ratio("unused", RATE, f"{store}, constraints and limits", store),
            at_least=0.97,
        )
    ),
    *_on_both(
        lambda store: Goal(
            f"drain, {store} with events / without", _ratio("unused", RATE, f"{store}, events", store), at_least=0.97
        )
    ),
    *_on_both(lambda store: Goal(f"idle worker, {store}: statements/s", _plain("idle", STATEMENTS, store), at_most=2)),
]


#: Lines before the first goal.
_HEAD = 4


def table(bench: Bench, *, complete: bool) -> str:
    """Each goal, its figure in this run, and whether it was reached; `complete`: those not measured, too."""
    lines = ["## Goals", "", "| | goal | here | reached |", "|---|---|---|---|"]
    for goal in GOALS:
        figure = goal.figure(bench)
        if figure is None and not complete:
            continue
        here = ("–", "not measured") if figure is None else (number(figure), goal.reached(figure))
        lines.append(f"| {goal.text} | {goal.target} | {here[0]} | {here[1]} |")
    return "\n".join(lines) if len(lines) > _HEAD else ""
