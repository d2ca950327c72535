"""The documentation page of the matrix; ``python -m tests.compat.page`` writes it."""

from __future__ import annotations

from pathlib import Path

from tests.compat.registry import GROUPS, Group, Row, all_rows

PATH = Path(__file__).parents[2] / "docs" / "celery-compatibility.md"

_INTRODUCTION = """\
# Compatibility with Celery

What a plain Celery task does, and what a task does with `base=Worker`, feature by feature. Each of the {rows} rows below
is a test: it runs on a real worker with plain tasks (Redis as broker and result backend) and with Workers (the app's result
backend once Redis, once `workmanager`), and what both sides show is asserted. In {differing} rows a Worker differs on
purpose; the last column says why.

Checked with Celery 5.7; "Celery 5.7" in the last column marks what older releases don't have or do otherwise. The tests are
in `tests/compat`, this page is written by `make compatibility`.
"""


def page() -> str:
    """The page, from the rows that the tests run."""
    rows = list(all_rows())
    differing = sum(row.differs is not None for row in rows)
    parts = [_INTRODUCTION.format(rows=len(rows), differing=differing), *(_table(group) for group in GROUPS)]
    return "\n".join(parts)


def _table(group: Group) -> str:
    lines = [f"## {group.title}", "", "| feature | plain Celery | Worker | note |", "| --- | --- | --- | --- |"]
    lines += (_line(row) for row in group.rows)
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    differs = row.differs
    worker = "the same" if differs is None else f"**differs**: {differs.worker}"
    note = " ".join(each for each in (differs.because if differs is not None else "", row.note) if each)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (row.feature, row.plain, worker, note)) + " |"


if __name__ == "__main__":
    PATH.write_text(page())
