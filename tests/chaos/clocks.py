"""A worker's own system clock, which can be stepped while it runs; its monotonic clock goes on."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


def why_no_clock() -> str | None:
    """Why there can be none here; None when there can."""
    return None if shutil.which("cc") else "no C compiler (Debian: apt-get install gcc libc6-dev)"


class Clock:
    """How far one process's clock is wrong: a file of eight bytes that it has mapped."""

    def __init__(self, folder: Path) -> None:
        self._library, self._file = folder / "clock.so", folder / "clock"
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(self._library), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._file.touch()
        self.step(0)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process have this clock."""
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}

    def step(self, seconds: int) -> None:
        """Set it wrong by so much."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
