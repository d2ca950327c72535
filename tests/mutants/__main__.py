"""Take each guard away in a copy of the tree, run the tests that should notice, and write docs/mutants.md.

`make mutants` does it with all of them, `make mutants ARGS="-k token"` with those whose name or file says so.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, copy_of_the_tree

PAGE = ROOT / "docs" / "mutants.md"
#: Seconds after which tests that don't end have noticed.
PATIENCE = 600
#: Seconds after which a test fails: many of these guards keep somebody from waiting for ever.
LONGEST_TEST = 45
NOT_YET = "not tried yet"
SURVIVED = "**nothing noticed**"
HEAD = """\
# Mutants

A guard that no test needs is a guard that somebody takes away one day. So each of these was taken away, one at a time,
in a copy of the tree, and the tests that should notice were run until the first failure. `make mutants` does it again
and writes this page; `make mutants ARGS="-k token"` tries those with the word in them. That each still fits the text of
today is looked at in every run of the tests.

| Taken away | In | Noticed by | Seconds |
| --- | --- | --- | ---: |
"""
_FIRST = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)


@dataclass
class Found:
    """What came of one of them."""

    noticed_by: str
    seconds: str


def where(mutant: Mutant) -> str:
    """The databases that are enough: races need a server, and only what is said to be InnoDB's needs MariaDB."""
    if any("innodb" in each for each in mutant.tests):
        return ""
    is_race = any(each.startswith("races/") for each in mutant.tests)
    return "not mariadb" if is_race else "not mariadb and not postgresql"


def attempt(mutant: Mutant, tree: Path) -> Found:
    """Run its tests without the guard."""
    began = time.monotonic()
    tests = [f"tests/{each}" for each in mutant.tests]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "-rfE"]
    command += ["--timeout", str(LONGEST_TEST), "-k", where(mutant), *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with mutant.applied(tree):
        try:
            done = subprocess.run(
                command, cwd=tree, env=environment, timeout=PATIENCE, check=False, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return Found("they don't end", f"{PATIENCE}")
    seconds = f"{time.monotonic() - began:.0f}"
    if done.returncode == 0:
        return Found(SURVIVED, seconds)
    first = _FIRST.search(done.stdout)
    if done.returncode != 1 or first is None:
        raise SystemExit(f"{mutant.name}: the tests didn't run\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Found(f"`{first[1].removeprefix('tests/')}`", seconds)


def known() -> dict[str, Found]:
    """What the page says."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines if line.startswith("| ")]
    # Below the names of the columns, and the line under these.
    return {row[0]: Found(*row[2:]) for row in rows[2:]}


def write(found: dict[str, Found]) -> None:
    """Write the page, in the order of the catalogue."""
    lines = []
    for mutant in MUTANTS:
        result = found.get(mutant.name, Found(NOT_YET, ""))
        lines.append(f"| {mutant.name} | `{mutant.file}` | {result.noticed_by} | {result.seconds} |\n")
    PAGE.write_text(HEAD + "".join(lines))


def main() -> int:
    """Return 1 when one of them was not noticed."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("-k", default="", metavar="WORD", help="only those with this word in their name or file")
    parser.add_argument("--new", action="store_true", help="only those that the page knows no test of")
    given = parser.parse_args()
    found, survived = known(), 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = copy_of_the_tree(Path(folder))
        for mutant in MUTANTS:
            is_known = found.get(mutant.name, Found(NOT_YET, "")).noticed_by not in (NOT_YET, SURVIVED)
            if given.k not in f"{mutant.name} {mutant.file}" or (given.new and is_known):
                continue
            result = found[mutant.name] = attempt(mutant, tree)
            survived += result.noticed_by == SURVIVED
            print(f"{mutant.name}: {result.noticed_by} ({result.seconds} s)", flush=True)
            write(found)
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
