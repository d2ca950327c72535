"""Every command that docs/guarantees.md names runs a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["guarantees.md", "security.md"]
COMMAND = re.compile(r"pytest (tests/[\w/.]+)(?: -k (\w+))?")


def commands(page: str) -> list[tuple[str, str]]:
    return COMMAND.findall((ROOT / "docs" / page).read_text())


def named_in(path: Path) -> set[str]:
    """The names of a file's tests, or of those of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("test*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for name in functions if name.startswith("test_")} | {file.stem for file in files}


@pytest.mark.parametrize(("path", "word"), sorted({each for page in PAGES for each in commands(page)}))
def test_a_command_of_the_pages_runs_a_test(path: str, word: str) -> None:
    found = named_in(ROOT / path)
    assert found
    # A whole name is that of one test; a word may be a part of several.
    assert word in found if word.startswith("test_") else any(word in name for name in found)


def test_the_pages_name_commands() -> None:
    assert len(commands("guarantees.md")) > 30
