"""Works at a gentle pace for an hour, and what they leave behind: ``python -m tests.soak [--minutes 60] [--rate 30]``.

On each store a real worker runs them, kept for two minutes after their end, so that after some minutes nothing should
grow any more. What is sampled goes to `build/soak.json`, the picture to `docs/soak.svg`, growth to the terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from tests import services
from tests.soak.growth import Growth, growths
from tests.soak.load import Load
from tests.soak.picture import draw
from tests.soak.samples import Samples

ROOT = Path(__file__).parents[2]
_FOUND = ROOT / "build" / "soak.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Load, and what grows under it.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=30.0, help="works a second, on each store")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--draw", action="store_true", help="draw what was sampled last, and run nothing")
    given = parser.parse_args()
    if not given.draw:
        found = _run(given)
        _FOUND.parent.mkdir(exist_ok=True)
        _FOUND.write_text(json.dumps(found))
    found = json.loads(_FOUND.read_text())
    draw(found, ROOT / "docs" / "soak.svg")
    return _tell(found)


def _run(given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    with ExitStack() as stack:
        sampled = [_start(stack, store, given) for store in given.stores]
        # Who interrupts it sees what there is so far.
        with suppress(KeyboardInterrupt):
            threading.Event().wait(given.minutes * 60)
        return {each.store: each.rows for each in sampled}


def _start(stack: ExitStack, store: str, given: argparse.Namespace) -> Samples:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workmanager-soak-")))
    url = f"sqlite:///{folder / 'store.sqlite3'}"
    if store == "postgresql":
        if reason := services.why_not("postgresql"):
            sys.exit(f"expected a PostgreSQL, got: {reason}")
        name = "wm_soak"
        url = services.make_database(name)
        stack.callback(services.drop_database, name)
    load = Load(folder, url, given.rate)
    stack.callback(load.stop)
    load.start()
    samples = Samples(store, load, given.every)
    stack.callback(samples.stop)
    samples.start()
    return samples


def _tell(found: dict[str, list[dict[str, float]]]) -> int:
    grown: list[Growth] = []
    for store, rows in found.items():
        print(f"{store}: {rows[-1]['finished']:.0f} works in {rows[-1]['minutes']:.0f} minutes; second half:")
        for each in growths(rows):
            print(f"  {each}")
            grown += [each] if each.is_a_leak else []
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
