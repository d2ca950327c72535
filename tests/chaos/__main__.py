"""`make chaos`: storms on every kind of store in turn; the exit code says whether every promise was kept."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

import click

from tests.chaos import storm
from tests.chaos.place import KINDS
from tests.chaos.table import table

#: Anomalies that are told in full.
_SHOWN, _WIDTH = 20, 400


@click.command()
@click.option("--minutes", default=15.0, show_default=True, help="How long it storms, in sum.")
@click.option("--seed", type=int, help="Repeat the dice of a run (not its timing).")
@click.option("--only", type=click.Choice(list(KINDS)), multiple=True, help="Only these stores.")
@click.option("--lease", default=5.0, show_default=True, help="Seconds of a node's lease.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the logs of workers, works and the storm.")
def main(minutes: float, seed: int | None, only: tuple[str, ...], lease: float, keep: Path | None) -> None:
    """Storms over works, workers, brokers and databases, and an audit of what came of them."""
    # What was made outside of us (networks, mounts, servers) is undone however we end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = seed or random.SystemRandom().randrange(1, 10**6)
    storms = []
    for kind in only or KINDS:
        if reason := KINDS[kind].why_not():
            click.echo(f"{kind}: left out, {reason}")
            continue
        seconds = minutes * 60 / len(only or KINDS)
        click.echo(f"{kind}: {seconds:.0f} s of storm, seed {seed} ...")
        storms.append(storm.run(kind, seconds, seed, lease=lease, keep=keep))
        if keep is not None:
            (keep / kind / "anomalies").write_text("\n".join(storms[-1].audit.anomalies))
        for each in storms[-1].audit.anomalies[:_SHOWN]:
            click.echo(f"  {each[:_WIDTH]}")
    if not storms:
        raise click.ClickException("no store to storm on")
    click.echo("\n" + table(storms))
    sys.exit(any(each.audit.anomalies for each in storms))


if __name__ == "__main__":
    main()
