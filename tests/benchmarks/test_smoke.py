"""The benchmarks work: small counts, no figure is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import goals, history, plot
from tests.benchmarks.bench import QUICK, Bench, Row, is_wanted
from tests.benchmarks.catalogue import REFERENCE, SQLITE
from tests.benchmarks.goals import Goal
from tests.benchmarks.statements import Statement, listing
from tests.benchmarks.table import table
from tests.conftest import need

#: Rows without a server; those that need an idle worker share one.
ROWS = ["enqueue", "unique", "latency", "canvas", "scheduled", "idle", "growth"]


def measured_of(rows: list[str], systems: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of so much of a real run."""
    only = [option for name in systems for option in ("--only", f"={name}")]
    broken = benchmarks.main([*rows, "--quick", *only])
    said = capsys.readouterr().out
    assert broken == 0
    assert "absent" not in said
    assert "not measured" not in said
    return said


@pytest.mark.timeout(300)
def test_rows_are_measured_on_sqlite(capsys: pytest.CaptureFixture[str]):
    said = measured_of(ROWS, [SQLITE, "growth on SQLite"], capsys)

    assert said.count(f"| {SQLITE} | ") == len(ROWS) - 1
    assert "| growth on SQLite | " in said
    assert "claim ×" in said


def test_plain_celery_is_measured_on_a_real_redis(capsys: pytest.CaptureFixture[str]):
    need("redis-server")

    said = measured_of(["drain"], [REFERENCE], capsys)

    assert f"| {REFERENCE} | " in said


def measured(**figures: list[float]) -> Bench:
    """A run that measured drain of these systems."""
    bench = Bench(None, None, QUICK)  # type: ignore[arg-type]  # nothing is measured any more
    bench.figures = {"drain": {name: {"jobs/s": rates} for name, rates in figures.items()}}
    return bench


ROW = Row("drain", "Drain", ("Redis", "SQLite", "Other"), lambda _bench, _system: {})


def test_a_table_has_medians_ends_ratios_and_whoever_is_absent():
    bench = measured(Redis=[1000.0, 900.0, 1100.0], SQLite=[8000.0])
    bench.absent = {"drain": {"Other": "can't be installed"}}

    lines = table(bench, ROW).splitlines()

    assert lines[-3:] == [
        "| Redis | 1 000 (900–1 100) | 1.00 |",
        "| SQLite | 8 000 | 8.00 |",
        "| Other | absent: can't be installed | |",
    ]


@pytest.mark.parametrize(("rate", "reached"), [(4000.0, "**no**"), (6000.0, "yes"), (12_000.0, "moonshot")])
def test_a_goal_says_whether_it_was_reached(monkeypatch: pytest.MonkeyPatch, rate: float, reached: str):
    goal = Goal("drain", lambda bench: bench.median("drain", "SQLite", "jobs/s"), at_least=5000, moonshot=10_000)
    monkeypatch.setattr(goals, "GOALS", [goal])

    line = goals.table(measured(SQLite=[rate]), complete=True).splitlines()[-1]

    assert line.endswith(f"| {reached} |")


def test_a_goal_that_was_not_measured_is_not_called_reached():
    lines = goals.table(measured(), complete=True).splitlines()[4:]

    assert len(lines) == len(goals.GOALS)
    assert all(line.endswith("| not measured |") for line in lines)


def test_the_history_keeps_the_machine_and_the_ends(tmp_path):
    for _ in range(2):
        history.add(measured(SQLite=[1.0, 3.0, 2.0]), {"processors": "2"}, tmp_path / "benchmarks")

    lines = [json.loads(line) for line in (tmp_path / "benchmarks" / history.HISTORY).read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["run"] == {"processors": "2"}
    assert lines[0]["figures"]["drain"]["SQLite"]["jobs/s"] == [2.0, 1.0, 3.0]


def test_a_system_is_named_in_part_or_as_a_whole():
    names = ["SQLite", "SQLite, events", "PostgreSQL"]

    assert [name for name in names if is_wanted(name, ["SQLite"])] == ["SQLite", "SQLite, events"]
    assert [name for name in names if is_wanted(name, ["=SQLite", "Post"])] == ["SQLite", "PostgreSQL"]
    assert [name for name in names if is_wanted(name, None)] == names


def test_a_statement_is_shortened_and_counted_by_the_work():
    some = [Statement("SELECT a.one, a.two, a.three, a.four, a.five, a.six FROM a", 10, 300.0, 10, 0)]
    some.append(Statement("COMMIT", 10, 100.0, 0, 500))

    lines = listing(some, 20, most=1).splitlines()

    assert lines[2:] == [
        "| `SELECT … FROM a` | 0.500 | 30 | 15.0 | 75% | 0 |",
        "| 1 others | 0.500 | 10 | 5.0 | 25% | 25 |",
        "| all | 1.000 | 20 | 20.0 | 100% | 25 |",
    ]


def test_what_broke_has_a_line_and_the_run_goes_on():
    def measure(_bench: Bench, system: str) -> dict[str, float]:
        if system == "Redis":
            raise ValueError("no | answer")
        return {"jobs/s": 5.0}

    bench = measured()
    bench.catalogue = SimpleNamespace(get=str)  # type: ignore[assignment]
    row = replace(ROW, measure=measure, rounds=2)  # type: ignore[arg-type]

    bench.run(row, 5, ["=Redis", "=SQLite"])

    assert table(bench, row).splitlines()[-2:] == [
        "| Redis | absent: broke: ValueError: no / answer | |",
        "| SQLite | 5.00 (5.00–5.00) | – |",
    ]
    assert len(bench.broken) == 1
    assert bench.figures["drain"]["SQLite"]["jobs/s"] == [5.0, 5.0]


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")

    plot.draw(measured(SQLite=[1.0, 2.0], Redis=[0.5]), tmp_path / "picture.svg")

    assert "<svg" in (tmp_path / "picture.svg").read_text()
