"""`python -m tests.benchmarks [ROW …]`: ours, plain Celery and other durable queues, in turn, in one run.

Without rows those of the goals are measured; `more` are the others, `long` what takes minutes a round. `--quick` is a
smoke test: small counts, one round; it fails only when a benchmark breaks, never on a figure. Figures are medians
(lowest–highest).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import goals, history, plot
from tests.benchmarks.bench import QUICK, Bench, Row, Sizes
from tests.benchmarks.catalogue import Catalogue
from tests.benchmarks.facts import facts, load
from tests.benchmarks.marks import ENVIRONMENT, Marks
from tests.benchmarks.rows.canvas import CANVAS, FAN_IN
from tests.benchmarks.rows.drain import DRAIN, LARGE, LIMITS, MILLION, POOLS, UNUSED, WORKERS
from tests.benchmarks.rows.enqueue import DJANGO, ENQUEUE, UNIQUE
from tests.benchmarks.rows.growth import GROWTH, ON_MARIADB
from tests.benchmarks.rows.idle import IDLE
from tests.benchmarks.rows.latency import LATENCY
from tests.benchmarks.rows.limit import LIMIT
from tests.benchmarks.rows.profile import ROW as PROFILE
from tests.benchmarks.rows.scheduled import BURST, SCHEDULED
from tests.benchmarks.servers import Servers
from tests.benchmarks.table import how, table

USUAL = [DRAIN, LIMIT, ENQUEUE, UNIQUE, LATENCY, CANVAS, IDLE, SCHEDULED, GROWTH, UNUSED]
MORE = [POOLS, LARGE, LIMITS, DJANGO, PROFILE]
LONG = [BURST, FAN_IN, ON_MARIADB, WORKERS, MILLION]
ROWS = {row.name: row for row in USUAL + MORE + LONG}
GROUPS = {"goals": USUAL, "more": MORE, "long": LONG}
_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables. Returns how many measurements broke."""
    options = _options(arguments)
    names = options.rows or ["goals"]
    rows = list(dict.fromkeys(row for name in names for row in GROUPS.get(name) or [ROWS[name]]))
    rounds = 1 if options.quick else options.rounds
    begun, at_start = datetime.now(UTC), load()
    with ExitStack() as stack:
        bench = _bench(stack, QUICK if options.quick else Sizes().scaled(options.scale), shares=options.quick)
        stack.callback(bench.catalogue.close)
        stack.callback(bench.release)
        measured, ended = _measure(bench, rows, rounds, options.only)
        run = {"at": f"{begun:%Y-%m-%d %H:%M} UTC", "load at the start": at_start, "load at the end": load()}
        run |= {"scale": "quick" if options.quick else f"{options.scale:g}", **facts()}
        run |= {"ended early": f"in row {measured[-1].name}"} if ended else {}
        page = _page(bench, measured, rounds, run)
        print(page)
        for each in bench.broken:
            print(f"broke: {each}", file=sys.stderr)
        if options.record:
            _record(bench, "-".join(names), page, run)
    return len(bench.broken) + ended


def _measure(bench: Bench, rows: Sequence[Row], rounds: int, only: Sequence[str] | None) -> tuple[list[Row], bool]:
    """The rows that were measured, and whether the run was ended before all were."""
    measured: list[Row] = []
    for row in rows:
        begun = time.monotonic()
        measured.append(row)
        try:
            bench.run(row, rounds, only)
        except (KeyboardInterrupt, SystemExit):  # whoever ends it sees what there is
            bench.took.setdefault(row.name, time.monotonic() - begun)
            return measured, True
    return measured, False


def _bench(stack: ExitStack, sizes: Sizes, *, shares: bool) -> Bench:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workmanager-bench-")))
    marks = folder / "marks"
    os.environ[ENVIRONMENT] = str(marks)  # the systems take these from here
    os.environ["WORKMANAGER_BENCH_LOGS"] = str(folder)
    os.environ["WORKMANAGER_BENCH_QUEUE"] = f"workmanager-bench-{os.getpid()}"
    servers = Servers(stack.enter_context(ExitStack()))  # they end after the drivers that are connected with them
    return Bench(Catalogue(servers, folder), Marks.create(marks, sizes.many + 1), sizes, shares)


def _page(bench: Bench, rows: Sequence[Row], rounds: int, run: Mapping[str, str]) -> str:
    facts_line = ", ".join(f"{name} {value}" for name, value in run.items())
    tables = [table(bench, row) for row in rows]
    judged = goals.table(bench, complete=len(rows) >= len(USUAL))
    parts = ["# Benchmarks", f"{facts_line}.", how(bench, rows, rounds), *tables, judged]
    return "\n\n".join(filter(None, parts)) + "\n"


def _record(bench: Bench, name: str, page: str, run: Mapping[str, str]) -> None:
    history.write(page, name)
    history.add(bench, {**run, "rows": name})
    if "drain" in bench.figures and "enqueue" in bench.figures:
        plot.draw(bench)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    known = [*GROUPS, *ROWS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of: {', '.join(known)}; without: goals")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often each system is measured, at most")
    parser.add_argument("--scale", type=float, default=1.0, help="measure this part of the usual number of jobs")
    parser.add_argument("--only", action="append", help="only systems whose name contains this; =NAME is the whole")
    parser.add_argument("--record", action="store_true", help="keep the run in docs/benchmarks: page, history, picture")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in known]:
        parser.error(f"expected rows among {', '.join(known)}, got: {', '.join(unknown)}")
    if options.quick and options.record:
        parser.error("--quick measures nothing that is worth to be recorded")
    return options


def _end(_signal: int, _frame: object) -> None:
    sys.exit("ended")


if __name__ == "__main__":
    # Whoever ends the run ends its servers and workers as well.
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
