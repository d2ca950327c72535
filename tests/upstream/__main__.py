"""Celery's own integration suite with plain tasks and with Workers: ``make upstream``.

The suite is taken from the sdist of the installed Celery; nothing of it is kept here. Each side has a Redis of its own.
Exits 1 when a test ends otherwise with Workers and is not listed in `differences`.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import celery

from tests.upstream.differences import EXPECTED, EXPECTED_IN_REDIS, EXPECTED_IN_STORE
from tests.upstream.play import REPOSITORY, Ending, interrupt, played, stamp
from tests.upstream.sides import PLAIN, STORED, WORKER, Side

BUILD = REPOSITORY / "build" / "upstream"
FILES = (
    "test_canvas",
    "test_group_chains",
    "test_tasks",
    "test_inspect",
    "test_serialization",
    "test_upgrade",
    "test_loader",
)
Endings = dict[str, Ending]
DIFFERENT = "different"


def suite() -> Path:
    """The folder that holds Celery's ``t``, fetched once for each release."""
    folder = BUILD / f"celery-{celery.__version__}"
    if not (folder / "t" / "integration").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        pip += ["--no-binary", "celery", "-d", str(BUILD), f"celery=={celery.__version__}"]
        subprocess.run(pip, check=True)
        (archive,) = BUILD.glob(f"celery-{celery.__version__}.tar.gz")
        with tarfile.open(archive) as files:
            wanted = [each for each in files if "/t/" in each.name]
            files.extractall(BUILD, wanted, filter="data")
    return folder


def main() -> int:
    """Play, play again what differs, and tell. Returns the exit code."""
    given = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    where, folder = suite(), BUILD / stamp()
    sides = [PLAIN, STORED if given.stored else WORKER]
    files = [f"t/integration/{name}.py" for name in given.files or FILES]
    options = ["-k", given.k] if given.k else []

    def everywhere(tests: Sequence[str], name: str, more: Sequence[str] = ()) -> list[Endings]:
        def play(side: Side) -> Endings:
            return played(side, where, tests, folder / f"{side.name}-{name}", more)

        with ThreadPoolExecutor(len(sides)) as pool:
            try:
                return list(pool.map(play, sides))
            except KeyboardInterrupt:
                interrupt()
                raise

    plain, worker = everywhere(files, "first", options)
    for again in range(given.again):
        doubtful = [name for name in plain if _differs(plain, worker, name)]
        if not doubtful:
            break
        second = everywhere([_path(name) for name in doubtful], f"again{again}")
        for side, anew in zip((plain, worker), second, strict=True):
            side.update({name: ending for name, ending in anew.items() if ending.outcome != "failed"})
    expected = {**EXPECTED, **(EXPECTED_IN_STORE if given.stored else EXPECTED_IN_REDIS)}
    return _tell(plain, worker, sides[1], expected, folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("files", nargs="*", help="files of the suite, without .py")
    parser.add_argument("-k", help="only tests that match, as in pytest")
    parser.add_argument("--stored", action="store_true", help="with the store as the result backend, not Redis")
    parser.add_argument("--again", type=int, default=1, help="how often what differs is played again (1)")
    return parser.parse_args()


def _path(name: str) -> str:
    return f"t/integration/{name}"


def _tell(plain: Endings, worker: Endings, side: Side, expected: Mapping[str, str], folder: Path) -> int:
    unexpected = 0
    counts: dict[str, Counter[str]] = {}
    width = max(map(len, plain), default=0)
    print(f"{'test':{width}}  {PLAIN.name:8}{side.name}")
    for name in plain:
        what, said = _verdict(name, plain, worker, expected)
        unexpected += what == DIFFERENT
        counts.setdefault(name.partition("::")[0], Counter())[what] += 1
        print(f"{name:{width}}  {plain[name].outcome:8}{_of(worker, name).outcome:8}{said}".rstrip())
    print()
    for file, count in counts.items():
        print(f"{file}: " + ", ".join(f"{number} {what}" for what, number in sorted(count.items())))
    for name in sorted({_bare(name) for name in plain} & expected.keys()):
        if not any(_differs(plain, worker, each) for each in plain if _bare(each) == name):
            print(f"listed as a difference, and the same: {name}")
    print(f"{unexpected} unexpected differences; what was said is in {folder.relative_to(REPOSITORY)}")
    return 1 if unexpected or not plain else 0


def _of(side: Endings, name: str) -> Ending:
    return side.get(name, Ending("failed", "never began"))


def _bare(name: str) -> str:
    return name.partition("[")[0]


def _differs(plain: Endings, worker: Endings, name: str) -> bool:
    return _of(worker, name).outcome != plain[name].outcome


def _verdict(name: str, plain: Endings, worker: Endings, expected: Mapping[str, str]) -> tuple[str, str]:
    """What is counted, and the sentence beside it."""
    if not _differs(plain, worker, name):
        return ("same", "")
    if _of(worker, name).outcome == "passed":
        return ("passed by Workers only", f"plain Celery: {plain[name].said}")
    if _bare(name) in expected:
        return ("expected differences", expected[_bare(name)])
    return (DIFFERENT, f"{DIFFERENT.upper()}: {_of(worker, name).said or plain[name].said}")


if __name__ == "__main__":
    sys.exit(main())
