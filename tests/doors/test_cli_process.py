"""`celery … work …` as users call it: terminals, colours, wrong calls, and what it costs the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_workmanager import WorkManager
from celery_workmanager.cli import work
from celery_workmanager.cli.common import INTERRUPTED, WorkCommand
from celery_workmanager.store import Store
from tests import services
from tests.doors.conftest import Answer, Shell
from tests.doors.processes import APP, ROOT, celery, environment, run, terminal
from tests.stores import put, put_chain, states


def test_importing_the_command_line_imports_nothing_heavy():
    """Every `celery` command and every pytest run of the environment pays for it."""
    heavy = (
        "[name for name in ('sqlalchemy', 'psutil', 'celery.worker', 'celery_workmanager.app') if name in sys.modules]"
    )
    for entry_point in ("celery_workmanager.cli", "celery_workmanager.pytest_plugin"):
        code = f"import sys, {entry_point}; print({heavy})"
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout == "[]\n"


def test_the_help_lists_the_commands_in_order():
    said = call(Celery("shop", set_as_current=False), "--help").text
    names = [line.split()[0] for line in said.split("Commands:")[1].splitlines() if line.strip()]
    assert names == [
        "status", "list", "show", "why", "tree", "watch", "nodes", "periodic", "cancel", "retry", "run-now", "pause",
        "resume", "prune", "import-schedules", "migrate", "grants", "doctor",
    ]  # fmt: skip


def test_a_pipe_gets_whole_lines_without_colours(file: Store):
    put(file, "a" * 150)
    done = run(file, "list")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "a" * 150 in done.stdout


def test_a_terminal_gets_colours_and_lines_that_fit(file: Store):
    put(file, "a" * 150)
    with terminal(file, "list") as screen:
        assert screen.end() == 0
    assert "\x1b[36m○ ENQUEUED\x1b[0m" in screen.raw
    assert max(len(line) for line in screen.text.splitlines()) <= 80
    assert "a" * 35 + "…" in screen.text


def test_no_color_is_honoured(on_file: Shell):
    put_chain(on_file.store, "a", "b")
    for no_color in (False, True):
        context = CLIContext(on_file.app, no_color=no_color, workdir=None)
        for command in (["tree", "a"], ["status"], ["list"], ["show", "a", "nobody"], ["doctor"], ["migrate"]):
            said = CliRunner().invoke(work, command, obj=context, color=True).output
            assert ("\x1b[" in said) is not no_color


@pytest.mark.parametrize(("answer", "cancelled"), [("y", True), ("n", False)])
def test_on_a_terminal_all_are_cancelled_after_a_yes(file: Store, answer: str, cancelled: bool):
    put(file, "a", "b")
    with terminal(file, "cancel", "--all") as screen:
        screen.read_until("Cancel 2 unfinished works? [y/N]: ")
        screen.write(f"{answer}\n")
        assert screen.end() == (0 if cancelled else 1)
    assert set(states(file).values()) == {"CANCELLED" if cancelled else "ENQUEUED"}


def test_an_encoding_without_the_signs_gets_question_marks(on_file: Shell):
    put(on_file.store, "a")
    context = CLIContext(on_file.app, no_color=False, workdir=None)
    done = CliRunner(charset="ascii").invoke(work, ["list"], obj=context)
    assert done.exit_code == 0
    assert "? ENQUEUED" in done.output


def test_a_store_that_is_away_is_one_line_and_an_exit_code():
    port = services.free_port()
    done = run(None, "status", SHOP_STORE=f"postgresql+psycopg://shop:secret@127.0.0.1:{port}/shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        f"Error: expected store postgresql+psycopg://shop:***@127.0.0.1:{port}/shop to answer"
    )


# The same in this process, which is quicker.


def call(app: Celery, *arguments: str) -> Answer:
    done = CliRunner().invoke(work, arguments, obj=CLIContext(app, no_color=False, workdir=None))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return Answer(done.exit_code, done.output)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"store_url": "no url"}, "Error: expected setting workmanager_store_url to be an SQLAlchemy URL of SQLite"),
        (
            {"store_url": "nodb://x/y"},
            "Error: expected setting workmanager_store_url to be an SQLAlchemy URL of SQLite",
        ),
        (
            {"store_url": "sqlite:////proc/nowhere/store.sqlite3"},
            "Error: expected store sqlite:////proc/nowhere/store.sqlite3 to answer, got: [Errno 2]",
        ),
        (
            {"leese": 5},
            "Error: expected a known setting, got: 'workmanager_leese'; did you mean 'workmanager_lease'?\n",
        ),
    ],
)
def test_what_keeps_the_store_from_being_opened_is_one_line(settings: dict[str, Any], said: str):
    app = Celery("shop", broker="memory://", set_as_current=False)
    WorkManager(app, settings=settings)
    for command in ("status", "list", "nodes", "migrate"):
        answer = call(app, command)
        assert answer.code == 1
        assert answer.text.startswith(said)
        assert len(answer.text.splitlines()) == 1


def test_an_app_without_a_work_manager_is_a_wrong_call():
    answer = call(Celery("bare", broker="memory://", set_as_current=False), "list")
    assert answer.code == 2
    assert "expected WorkManager(app) to be called first, got: app 'bare' without one" in answer.text


def test_a_wrong_command_gets_a_suggestion(on_file: Shell):
    answer = on_file("stats")
    assert answer.code == 2
    assert "Did you mean one of these?\n    status" in answer.text


def test_a_store_is_created_on_first_use(tmp_path: Path):
    app = Celery("shop", broker="memory://", set_as_current=False)
    WorkManager(app, store_url=f"sqlite:///{tmp_path / 'new' / 'store.sqlite3'}")
    done = CliRunner().invoke(work, ["list"], obj=CLIContext(app, no_color=False, workdir=None))
    assert (done.exit_code, done.output) == (1, "No works.\n")
    app.workmanager.store.close()


def test_a_reader_that_goes_away_is_no_error(file: Store, tmp_path: Path):
    put(file, *(f"w{n:04}" for n in range(2000)))
    command = " ".join(celery(*APP, "work", "list", "--limit", "2000"))
    errors = tmp_path / "errors"
    done = subprocess.run(
        f"{command} 2>{errors} | head -1", shell=True, cwd=ROOT, env=environment(file), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("ID")
    assert "Traceback" not in errors.read_text()


def test_a_ctrl_c_that_a_library_turns_into_its_own_error_still_ends_it_quietly():
    @click.command(cls=WorkCommand)
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise AssertionError("a connection is checked in twice")

    assert CliRunner().invoke(interrupted).exit_code == INTERRUPTED


def test_an_error_without_a_ctrl_c_stays_one():
    @click.command(cls=WorkCommand)
    def broken() -> None:
        raise AssertionError("a defect")

    assert isinstance(CliRunner().invoke(broken).exception, AssertionError)
