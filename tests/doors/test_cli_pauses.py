"""`work pause` and `work resume`, and what the other commands and the doctor say of pauses."""

from __future__ import annotations

from typing import Any

import pytest

from celery_workmanager.doctor.examination import examine
from celery_workmanager.overview import census, unfinished
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.store import Store, pausing
from celery_workmanager.timing import SECOND
from tests.doors.conftest import Shell
from tests.stores import KEEP, WORKER, enqueue, info, job, put, put_named, step, take

OPTIONS = [("--queue", "celery"), ("--tag", "red"), ("--name", "import"), ("--tag", WORKER)]


def fill(store: Store) -> None:
    put_named(store, "import", KEEP, job("a", tags={"red"}))
    put(store, job("b", "shop.sell", queue="mail"))


@pytest.mark.parametrize("which", OPTIONS)
def test_pause_and_resume_do_so_once(shell: Shell, which: tuple[str, str]):
    fill(shell.store)
    done = shell("pause", *which, "--json")
    assert (done.code, done.json) == (0, {"kind": which[0][2:], "label": which[1], "applied": True})
    assert [info(shell.store, each).paused for each in "ab"] == [True, False]
    again = shell("pause", *which, "--json")
    assert (again.code, again.json["applied"]) == (1, False)
    assert shell("resume", *which, "--json").json["applied"] is True
    assert not info(shell.store, "a").paused
    again = shell("resume", *which, "--json")
    assert (again.code, again.json["applied"]) == (1, False)


def test_people_are_told_in_a_sentence(on_file: Shell):
    told = [on_file(verb, "--name", "import").text for verb in ("pause", "pause", "resume", "resume")]
    assert told == [
        "Unique name 'import' is paused.\n",
        "Unique name 'import' was paused already.\n",
        "Unique name 'import' is resumed.\n",
        "Unique name 'import' was not paused.\n",
    ]


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "expected one of --queue, --tag, --name and --node"),
        (["--tag", "a", "--queue", "b"], "expected one of --queue, --tag, --name and --node"),
        (["--tag", ""], "expected tag to be a non-empty str"),
    ],
)
def test_a_wrong_call_changes_nothing(on_file: Shell, verb: str, options: list[str], told: str):
    answer = on_file(verb, *options)
    assert (answer.code, told in answer.text) == (2, True)
    assert on_file.manager.paused() == []


def test_status_lists_pauses_and_counts_what_waits_behind_them(on_file: Shell):
    store = on_file.store
    fill(store)
    put(store, job("c", tags={"red"}, initial_delay=60), job("d", queue="mail"), job("e", tags={"red"}, queue="mail"))
    for each in ("--tag=red", "--queue=mail"):
        on_file("pause", each)
    store.clock.move(90 * SECOND)  # type: ignore[attr-defined]
    found = on_file("status").text
    assert "5  4 paused; 1 delayed, the next due now" in found
    assert (
        """\
QUEUE   READY  DELAYED  BLOCKED  RUNNING  PAUSED
celery      0        1        0        0       1
mail        0        0        0        0       3

Paused: queue 'mail' for 1 min
Paused: tag 'red' for 1 min
"""
        in found
    )
    document = on_file("status", "--json").json
    assert [(each["kind"], each["label"], each["is_complete"]) for each in document["pauses"]] == [
        ("queue", "mail", True),
        ("tag", "red", True),
    ]
    assert [document["queues"][each]["paused"] for each in ("celery", "mail")] == [1, 3]


def test_without_pauses_status_says_nothing_of_them(on_file: Shell):
    fill(on_file.store)
    assert "paused" not in on_file("status").text.lower()
    assert on_file("status", "--json").json["pauses"] == []


def test_list_show_and_json_tell_of_a_paused_work(on_file: Shell):
    store = on_file.store
    fill(store)
    enqueue(store, step("a"), step(job("after", tags={"red"}), after=("a",)))
    claim = take(store, workers=["shop.sell"], queues=["mail"])
    assert [each.id for each in claim] == ["b"]
    for label in ("red", "shop.sell"):
        on_file("pause", "--tag", label)
    listed = on_file("list", "--oldest").text
    assert [line.split("  ")[0] for line in listed.splitlines() if "paused" in line] == ["a", "after", "b"]
    assert "after 1 work, paused" in listed
    assert "paused        yes" in on_file("show", "a").text
    assert "paused        its next run waits until it is resumed" in on_file("show", "b").text
    assert on_file("list", "--json", "--oldest").json["works"][0]["paused"] is True


@pytest.mark.parametrize("most", [3, 100])
def test_held_works_are_counted_in_bounds(store: Store, most: int):
    put(store, *(job(f"w{n}", tags={"red"}) for n in range(7)))
    put(store, *(job(f"z{n}") for n in range(2)))
    pausing.pause(store, PauseTarget(PauseKind.TAG, "red"))
    with store.database.plain() as connection:
        found = census(connection, most)
    assert sum(pile.number for pile in found.paused) == min(most, 7)
    assert ("paused" in found.capped) is (most == 3)
    assert sum(pile.number for pile in found.ready) == 2


def findings(shell: Shell) -> dict[str, Any]:
    return {each.code: each for check in examine(shell.manager, patience=0.01) for each in check.findings}


def test_the_doctor_reminds_of_pauses(on_file: Shell):
    fill(on_file.store)
    on_file("pause", "--tag", WORKER)
    found = findings(on_file)["paused"]
    assert found.severity.value == "note"
    assert "The tag 'shop.bake' has been paused since 2030-03-17 17:46 UTC; waiting behind it: 1 work." in found.seen
    assert "work resume --tag shop.bake" in found.do


def test_the_doctor_warns_of_a_pause_that_was_not_carried_out(on_file: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pausing, "_carry_out", lambda *_: None)
    on_file("pause", "--name", "a b")
    found = findings(on_file)["pause-incomplete"]
    assert found.severity.value == "warning"
    assert "--name 'a b'" not in found.do


def test_paused_works_of_a_store_without_nodes_are_not_said_to_wait_for_one(on_file: Shell):
    fill(on_file.store)
    on_file("cancel", "b")
    on_file("pause", "--tag", "red")
    assert findings(on_file)["no-node"].severity.value == "note"


def test_watch_knows_held_works(on_file: Shell):
    store = on_file.store
    fill(store)
    on_file("pause", "--tag", "red")
    with store.database.plain() as connection:
        assert sorted(unfinished(connection, 10)) == ["a", "b"]
