"""A change that takes one guard away, and how it is made in a copy of the tree."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "celery_workmanager"


@dataclass(frozen=True)
class Mutant:
    """One guard less."""

    #: A few words, by which it is chosen.
    name: str
    #: Below the package.
    file: str
    #: This text, which is there once, is replaced.
    old: str
    new: str
    #: The files (below tests/) that should notice.
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        return Path(PACKAGE, self.file)

    def count(self, tree: Path = ROOT) -> int:
        """How often its text is there."""
        return (tree / self.path).read_text().count(self.old)

    @contextmanager
    def applied(self, tree: Path) -> Iterator[None]:
        """Take the guard away in `tree` for the time of the block."""
        place = tree / self.path
        before = place.read_text()
        assert before.count(self.old) == 1, f"expected once in {self.path}: {self.old!r}"
        place.write_text(before.replace(self.old, self.new))
        try:
            yield
        finally:
            place.write_text(before)


def copy_of_the_tree(into: Path) -> Path:
    """What git knows of the tree, as it lies there now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, into / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return into
