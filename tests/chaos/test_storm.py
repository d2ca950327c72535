"""Short storms, for every run of the tests: nothing is lost, nothing finishes twice, no order is broken.

`make chaos` is the long one. `WORKMANAGER_STORM_SEED=…` repeats the dice of a storm (not its timing).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import services
from tests.chaos import storm
from tests.chaos.place import KINDS
from tests.chaos.table import table

SECONDS = 12.0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 10 * storm.QUIET)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_and_nothing_finishes_twice_in_a_storm(kind, capsys):
    """Workers, children, beats, networks, broker and database fall and get up again; the books are right at the end."""
    if reason := KINDS[kind].why_not():
        if services.REQUIRED:
            pytest.fail(f"expected a place for a storm on {kind}, got: {reason}", pytrace=False)
        pytest.skip(reason)
    seed = int(os.environ.get("WORKMANAGER_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    found = storm.run(kind, SECONDS, seed, pause=0.6, lease=4.0, deaths=1)
    with capsys.disabled():
        print("\n" + table([found]))
    assert not found.audit.anomalies, "\n".join([f"seed {seed}", *found.audit.anomalies[:20]])
    assert found.audit.notes.accepted
    # A node died with nothing else wrong, unless the machine stalled whenever it was tried.
    assert found.audit.delays or found.audit.notes.stalls
    assert _left_behind() == []


def _left_behind() -> list[str]:
    """Mounts and networks of this process that a storm should have taken away."""
    every = Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []
    mounts = [line for line in every if f"workmanager-chaos-{os.getpid()}-" in line]
    if shutil.which("ip") is None:
        return mounts
    listed = subprocess.run(["ip", "netns", "list"], check=False, capture_output=True, text=True).stdout.split()
    return mounts + [name for name in listed if name.startswith("wm") and f"{os.getpid() % 100000}n" in name]
