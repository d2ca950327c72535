"""`python -m tests.benchmarks [ROW …]`: ours, plain Celery and other durable queues, in turn, in one run.

Without rows all but the long ones (million, workers, burst, fanin) are measured. `--quick` is a smoke test: small
counts, one round; it fails only when a benchmark breaks, never on a figure. Figures are medians (lowest–highest).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import goals, history, plot
from tests.benchmarks.bench import QUICK, Bench, Row, Sizes
from tests.benchmarks.catalogue import Catalogue
from tests.benchmarks.facts import facts
from tests.benchmarks.marks import ENVIRONMENT, Marks
from tests.benchmarks.rows.canvas import CANVAS, FAN_IN
from tests.benchmarks.rows.drain import DRAIN, LARGE, MILLION, POOLS, UNUSED, WORKERS
from tests.benchmarks.rows.enqueue import DJANGO, ENQUEUE, UNIQUE
from tests.benchmarks.rows.growth import GROWTH
from tests.benchmarks.rows.idle import IDLE
from tests.benchmarks.rows.latency import LATENCY
from tests.benchmarks.rows.limit import LIMIT
from tests.benchmarks.rows.scheduled import BURST, SCHEDULED
from tests.benchmarks.servers import Servers
from tests.benchmarks.table import table

USUAL = [DRAIN, LIMIT, POOLS, LARGE, ENQUEUE, UNIQUE, DJANGO, UNUSED, LATENCY, CANVAS, SCHEDULED, IDLE, GROWTH]
LONG = [BURST, FAN_IN, WORKERS, MILLION]
ROWS = {row.name: row for row in USUAL + LONG}
_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables. Returns how many measurements broke."""
    options = _options(arguments)
    rows = [ROWS[name] for name in options.rows] or USUAL
    rounds = 1 if options.quick else options.rounds
    with ExitStack() as stack:
        bench = _bench(stack, QUICK if options.quick else Sizes().scaled(options.scale))
        stack.callback(bench.catalogue.close)
        for row in rows:
            bench.run(row, rounds, options.only)
        _report(bench, rows, rounds, record=options.record)
    return len(bench.broken)


def _bench(stack: ExitStack, sizes: Sizes) -> Bench:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workmanager-bench-")))
    marks = folder / "marks"
    os.environ[ENVIRONMENT] = str(marks)  # the systems take both from here
    os.environ["WORKMANAGER_BENCH_LOGS"] = str(folder)
    servers = Servers(stack.enter_context(ExitStack()))  # they end after the drivers that are connected with them
    return Bench(Catalogue(servers, folder), Marks.create(marks, sizes.many + 1), sizes)


def _report(bench: Bench, rows: Sequence[Row], rounds: int, *, record: bool) -> None:
    machine = facts()
    print(f"\n{', '.join(f'{name} {value}' for name, value in machine.items())}; {rounds} rounds.\n")
    for row in rows:
        print(f"{table(bench, row)}\n")
    print(goals.table(bench, complete=len(rows) >= len(USUAL)))
    for each in bench.broken:
        print(f"broke: {each}", file=sys.stderr)
    if record:
        history.add(bench, machine, rounds)
        plot.draw(bench)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often each system is measured")
    parser.add_argument("--scale", type=float, default=1.0, help="measure this part of the usual number of jobs")
    parser.add_argument("--only", action="append", help="only systems whose name contains this, or another one given")
    parser.add_argument("--record", action="store_true", help="add the run to the history, and draw the picture")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"expected rows among {', '.join(ROWS)}, got: {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    # Whoever ends the run ends its servers and workers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    sys.exit(main())
