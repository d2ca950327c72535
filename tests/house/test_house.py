"""The rules of the house that no linter knows: where SQL and clocks may be, and how long a room may grow."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import celery_workmanager

PACKAGE = Path(celery_workmanager.__path__[0])
FILES = sorted(PACKAGE.rglob("*.py"))

SQL_ROOMS = {
    "tables", "database", "schema", "store", "queries", "overview", "circumstances", "migrations", "bell", "mysql",
    "postgresql",
}  # fmt: skip
SQL_WORDS = {"select", "insert", "update", "delete", "text", "union", "union_all", "exists"}

LAYERS = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
    "layers"
]
#: Floors 0 and 1, as the import contract lists them.
PURE_ROOMS = set(re.findall(r"\w+", " ".join(LAYERS[-2:])))
CLOCKS = r"time\.|(datetime\.)?(datetime|date)\.(now|utcnow|today)$"


def room(path: Path) -> str:
    """The module or folder right below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def where(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("path", FILES, ids=where)
def test_sql_is_said_only_where_sql_lives(path: Path):
    if room(path) in SQL_ROOMS:
        return
    imported = [
        f"{where(path)}:{node.lineno} imports {name.name} from {node.module}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        for name in node.names
        if name.name in SQL_WORDS
    ]
    assert imported == []


def reads_a_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time"
    return isinstance(node, ast.Attribute) and re.match(CLOCKS, ast.unparse(node)) is not None


@pytest.mark.parametrize("path", [file for file in FILES if room(file) in PURE_ROOMS - {"ids"}], ids=where)
def test_words_and_rules_read_no_clock(path: Path):
    """A rule gets `now` as an argument; only a new id holds the time of its making."""
    lines = [ast.unparse(node) for node in ast.walk(tree_of(path)) if reads_a_clock(node)]
    assert lines == []


@pytest.mark.parametrize("path", FILES, ids=where)
def test_no_file_is_longer_than_400_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 400


# A migration is a list of statements, in the order in which they were once run.
@pytest.mark.parametrize("path", [file for file in FILES if room(file) != "migrations"], ids=where)
def test_no_function_is_longer_than_50_lines(path: Path):
    long = [
        f"{where(path)}:{node.lineno} {node.name}: {(node.end_lineno or node.lineno) - node.lineno + 1} lines"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > 50
    ]
    assert long == []
