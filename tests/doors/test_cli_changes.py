"""`work cancel`, `retry`, `run-now`, `prune` and `migrate`: what they do, and what they only say."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner
from sqlalchemy import text

from celery_workmanager import WorkManager
from celery_workmanager.cli import work
from celery_workmanager.migrations import HEAD
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests import services
from tests.doors.conftest import Shell
from tests.stores import (
    KEEP,
    enqueue,
    fail,
    info,
    job,
    put,
    put_chain,
    put_named,
    rows_of,
    state,
    states,
    step,
    succeed,
    take,
)


@pytest.fixture
def garden(shell: Shell) -> Shell:
    """Two chains, a name and a tag; "a" is finished."""
    store = shell.store
    put_chain(store, "a", "b", "c")
    put_named(store, "import", KEEP, job("n"))
    enqueue(store, step("n"), step("m", after=("n",)))
    put(store, job("t", tags={"x"}), "z")
    succeed(store, "a")
    return shell


# -- cancel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (["b"], "bc"),
        (["a", "z"], "bcz"),
        (["--tag", "x"], "t"),
        (["--name", "import"], "mn"),
        (["--all", "--yes"], "bcmntz"),
    ],
)
def test_cancel_cancels_exactly_what_its_dry_run_lists(garden: Shell, which: list[str], expected: str):
    before = states(garden.store)
    dry = garden("cancel", "--dry-run", "--json", *which)
    assert dry.code == 0
    assert [each["id"] for each in dry.json["would_cancel"]] == list(expected)
    assert dry.json["more"] is False
    assert states(garden.store) == before
    done = garden("cancel", "--json", *which)
    assert (done.code, sorted(done.json["cancelled"])) == (0, list(expected))
    assert [each for each, now in states(garden.store).items() if now == "CANCELLED"] == list(expected)


def test_cancel_tells_people_what_it_would_do_and_what_it_did(garden: Shell):
    assert (
        garden("cancel", "b", "--dry-run").text
        == """\
ID  STATE       WORKER     WHEN       NOTE
b   ○ ENQUEUED  shop.bake  waits 0 s
c   ◌ BLOCKED   shop.bake             after 1 work
2 works would be cancelled.
"""
    )
    assert garden("cancel", "b").text == "2 works cancelled.\n"
    again = garden("cancel", "b")
    assert (again.code, again.text) == (1, "There was nothing to cancel.\n")
    dry = garden("cancel", "b", "--dry-run")
    assert (dry.code, dry.text) == (1, "No work would be cancelled.\n")


def test_cancel_of_an_unknown_work_is_told_and_keeps_no_other(garden: Shell):
    answer = garden("cancel", "nobody", "z")
    assert answer.code == 1
    assert "No work has the id nobody" in answer.text
    assert "1 work cancelled." in answer.text
    assert state(garden.store, "z") is State.CANCELLED


@pytest.mark.parametrize("which", [[], ["b", "--all"], ["--tag", "x", "--name", "import"], ["--tag", ""]])
def test_cancel_takes_one_way_of_saying_which(garden: Shell, which: list[str]):
    answer = garden("cancel", *which)
    assert answer.code in (1, 2)
    assert "expected" in answer.text
    assert "CANCELLED" not in states(garden.store).values()


def test_all_are_not_cancelled_without_a_yes(garden: Shell):
    answer = garden("cancel", "--all", input="y\n")
    assert answer.code == 2
    assert "expected --yes with --all where nobody can be asked" in answer.text
    assert garden("cancel", "--all", "--dry-run").code == 0
    assert "CANCELLED" not in states(garden.store).values()


# -- retry and run-now -------------------------------------------------------------------------------------------


def test_retry_runs_a_finished_work_again(shell: Shell):
    put(shell.store, "a", "b")
    fail(shell.store, "a")
    answer = shell("retry", "a")
    (new,) = (each for each in states(shell.store) if each not in ("a", "b"))
    assert (answer.code, answer.text) == (0, f"a runs again as {new}\n")
    assert info(shell.store, new).retry_of == "a"


def test_what_cannot_be_retried_is_told_and_keeps_no_other(shell: Shell):
    put(shell.store, "a", "b")
    succeed(shell.store, "a")
    answer = shell("retry", "b", "nobody", "a")
    assert answer.code == 1
    assert "b: expected work to retry to be finished, got: 'ENQUEUED'" in answer.text
    assert "nobody: expected the id of a stored work" in answer.text
    assert "a runs again as" in answer.text
    assert len(states(shell.store)) == 3


def test_run_now_lets_works_wait_no_longer(shell: Shell):
    put(shell.store, job("a", initial_delay=60), "b")
    answer = shell("run-now", "a", "b")
    assert answer.code == 0
    assert answer.text == "a waits no longer\nb was not waiting for its time; nothing changed\n"
    assert sorted(claim.id for claim in take(shell.store)) == ["a", "b"]


def test_run_now_as_json(on_file: Shell):
    put(on_file.store, job("a", initial_delay=60), "b", "c")
    succeed(on_file.store, "c")
    works = {each["id"]: each for each in on_file("run-now", "a", "b", "--json").json["works"]}
    assert works["a"] == {"id": "a", "applied": True, "ids": ["a"], "error": None}
    assert works["b"] == {"id": "b", "applied": False, "ids": [], "error": None}
    answer = on_file("run-now", "c")
    assert answer.code == 1
    assert "c: expected work to run now to be unfinished" in answer.text


# -- prune -------------------------------------------------------------------------------------------------------


def test_prune_deletes_what_its_dry_run_counts(garden: Shell):
    store = garden.store
    fail(store, "z")
    store.cancel("b")
    assert garden("prune", "--dry-run").text == "4 works would be deleted: 1 SUCCEEDED, 1 FAILED, 2 CANCELLED.\n"
    assert garden("prune", "--dry-run", "--json").json == {
        "would_prune": 4, "more": False, "states": {"SUCCEEDED": 1, "FAILED": 1, "CANCELLED": 2},
    }  # fmt: skip
    assert rows_of(store, "work") == 7
    assert garden("prune").text == "4 works deleted.\n"
    assert sorted(states(store)) == ["m", "n", "t"]
    assert garden("prune", "--json").json == {"pruned": 0}


def test_prune_of_the_expired_leaves_what_is_kept(on_file: Shell):
    store = on_file.store
    put(store, "a", job("b", keep_results_for_at_least=3600))
    succeed(store, "a", "b")
    store.clock.move(86_400 * SECOND)  # type: ignore[attr-defined]
    assert on_file("prune", "--expired", "--dry-run").text == "1 work would be deleted: 1 SUCCEEDED.\n"
    assert on_file("prune", "--expired").text == "1 work deleted.\n"
    assert list(states(store)) == ["b"]


# -- migrate -----------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_a_server_without_tables_says_which_command_helps(postgresql_url: str):
    services.empty_database(postgresql_url)
    app = Celery("shop", broker="memory://", set_as_current=False)
    manager = WorkManager(app, store_url=postgresql_url)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(work, arguments, obj=CLIContext(app, no_color=False, workdir=None))
        return done.exit_code, done.output

    for command in ("status", "list", "nodes", "watch"):
        code, said = call(command)
        assert (code, len(said.splitlines())) == (1, 1)
        assert said.endswith("got: none; run `celery -A proj work migrate`\n")
    assert call("migrate", "--check") == (
        1,
        f"{manager.store.database.shown_url} has schema none, this version needs {HEAD}\n",
    )
    assert call("migrate")[1].endswith(f" was brought from nothing to {HEAD}\n")
    assert call("list") == (1, "No works.\n")
    manager.store.close()


def test_migrate_brings_tables_up_to_date_and_its_check_only_looks(on_file: Shell):
    url = on_file.store.database.shown_url
    assert (on_file("migrate").code, on_file("migrate").text) == (0, f"{url} is up to date\n")
    answer = on_file("migrate", "--check")
    assert (answer.code, answer.text) == (0, f"{url} has schema {HEAD}, this version needs {HEAD}\n")
    with on_file.store.database.transaction() as connection:
        connection.execute(text("DELETE FROM workmanager_version"))
    answer = on_file("migrate", "--check", "--json")
    assert (answer.code, answer.json) == (
        1,
        {"store": url, "before": None, "after": None, "needed": HEAD, "fits": False},
    )
