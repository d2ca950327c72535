"""Runs the tests of this folder in processes of their own: there is one Django in a process, for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GROUPS = {"pages": ("access_check", "tag", "views"), "admin": ("admin",)}
#: A browser's start, and thousands of works.
SLOW_GROUPS = {"element": ("element",), "admin_scale": ("admin_scale",)}


def path_of(name: str) -> Path:
    return HERE / f"tests_{name}.py"


def run(*names: str) -> None:
    files = [str(path_of(name)) for name in names]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def test_every_file_is_run():
    groups = [*GROUPS.values(), *SLOW_GROUPS.values()]
    assert sorted(path_of(name) for group in groups for name in group) == sorted(HERE.glob("tests_*.py"))


@pytest.mark.parametrize("group", GROUPS)
def test_in_a_process_of_its_own(group):
    run(*GROUPS[group])


@pytest.mark.slow
@pytest.mark.parametrize("group", SLOW_GROUPS)
def test_slow_ones(group):
    run(*SLOW_GROUPS[group])
