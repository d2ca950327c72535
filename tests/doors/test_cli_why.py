"""`work why`, and what other commands and the doctor say of a drained node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.doctor.examination import examine
from celery_workmanager.readings import Readings
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND
from tests.doors.conftest import Shell
from tests.stores import QUEUE, START, WORKER, job, put, put_chain, start, succeed, take_one


def node(shell: Shell, name: str = "w@alpha", *queues: str, workers: tuple[str, ...] = (WORKER,), **told: Any) -> None:
    now = shell.store.clock.now()
    facts = {"queues": queues or (QUEUE,), "workers": workers, "pool": "solo", "concurrency": 1, **told}
    shell.store.register(NodeRow(name, name, "alpha", 1, 1, now, now + 3600 * SECOND, json.dumps(facts)))


def test_the_first_reason_stands_out_and_the_others_follow(on_file: Shell):
    node(on_file, "w@alpha", "mail")
    node(on_file, "w@beta", "mail", "rare")
    put(on_file.store, job("a", tags={"red"}, initial_delay=7200, expires=8000), job("b"))
    on_file("pause", "--tag", "red")
    on_file.store.clock.move(90 * SECOND)  # type: ignore[attr-defined]
    answer = on_file("why", "a", "b")
    assert answer.code == 0
    assert (
        answer.text
        == """\
○ ENQUEUED  a  shop.bake
  → It is not due until 2030-03-17 19:46:40 UTC: its initial delay (in 1 h)
  · The tag 'red' is paused since 2030-03-17 17:46:40 UTC (for 1 min)
  · No live node consumes the queue 'celery'; w@alpha has registered 'shop.bake', consumes 'mail'
      w@alpha: has registered 'shop.bake', consumes 'mail'
      w@beta: has registered 'shop.bake', consumes 'mail', 'rare'
  · It is cancelled unless it has started by 2030-03-17 20:00:00 UTC (in 2 h)

○ ENQUEUED  b  shop.bake
  → No live node consumes the queue 'celery'; w@alpha has registered 'shop.bake', consumes 'mail'
      w@alpha: has registered 'shop.bake', consumes 'mail'
      w@beta: has registered 'shop.bake', consumes 'mail', 'rare'
"""
    )


def test_json_has_all_the_facts_and_unknown_ids_an_exit_code(shell: Shell):
    node(shell)
    put_chain(shell.store, "a", "b")
    put(shell.store, "c")
    succeed(shell.store, "c")
    start(shell.store, take_one(shell.store, "a", "w@alpha"))
    answer = shell("why", "a", "b", "c", "--json")
    assert answer.code == 0
    found = {each["work_id"]: each for each in answer.json["works"]}
    assert {key: each["reasons"][0]["kind"] for key, each in found.items()} == {
        "a": "running", "b": "blocked", "c": "finished",
    }  # fmt: skip
    assert (found["a"]["is_running"], found["b"]["reasons"][0]["work_ids"]) == (True, ["a"])
    answer = shell("why", "nobody")
    assert (answer.code, answer.text.strip()) == (
        1, "No work has the id nobody: it never existed, or it was pruned.",
    )  # fmt: skip
    assert shell("why").code == 2


def test_a_node_that_nobody_knows_is_drained_with_a_warning(on_file: Shell):
    answer = on_file("pause", "--node", "w@alhpa")
    assert (answer.code, "No node is called 'w@alhpa' now" in answer.text) == (0, True)


def test_a_drained_node_is_seen_everywhere(on_file: Shell):
    node(on_file)
    put(on_file.store, "a")
    assert on_file("pause", "--node", "w@alpha").text == "Node 'w@alpha' is paused.\n"
    on_file.store.clock.move(90 * SECOND)  # type: ignore[attr-defined]
    assert "→ Every node that serves it is drained: w@alpha since 2030-03-17 17:46:40 UTC" in on_file("why", "a").text
    for command in ("nodes", "status"):
        assert "Paused: node 'w@alpha' for 1 min" in on_file(command).text
    assert [each["drained"] for each in on_file("nodes", "--json").json["nodes"]] == [True]
    found = {each.code: each for check in examine(on_file.manager, patience=0.01) for each in check.findings}
    assert found["drained"].do.endswith("`celery -A proj work resume --node w@alpha`.")
    assert on_file("resume", "--node", "w@alpha").code == 0
    assert "→ Nothing holds it up: w@alpha will claim it now" in on_file("why", "a").text


@pytest.mark.parametrize("length", [3, 14])
def test_many_nodes_are_told_of_in_bounds(on_file: Shell, length: int):
    for at in range(length):
        node(on_file, f"w@{at:02}", "mail")
    put(on_file.store, "a")
    lines = on_file("why", "a").text.splitlines()
    assert len([line for line in lines if line.startswith("      w@")]) == min(length, 10)
    assert ("      … and 4 more" in lines) is (length == 14)


def test_the_reading_that_isnt_met_is_shown_with_its_age(on_file: Shell):
    node(on_file, readings=Readings.of(START - 2 * SECOND, charging=False).to_json())
    put(on_file.store, job("a", constraints=Constraints(requires_charging=True)))
    lines = on_file("why", "a").text.splitlines()
    assert lines[1].startswith("  → A constraint is unmet on w@alpha: the node is charging: expected a power supply")
    assert lines[2].startswith("      w@alpha: the node is charging: ")
    assert lines[2].endswith(" (2 s ago)")


def test_the_doctor_finds_what_no_node_can_meet(on_file: Shell):
    labelled = Readings.of(START, labels={"gpu": "h100"}, charging=False).to_json()
    node(on_file, readings=labelled)
    put(
        on_file.store,
        job("a", constraints=Constraints(node_labels=("gpu=a100",))),
        job("b", constraints=Constraints(requires_charging=True)),
        job("c", constraints=Constraints(custom=("licence",)), worker="shop.sell", queue="mail"),
        job("d", constraints=Constraints(content_uri_triggers=(ContentUriTrigger("/in"),)), queue="files"),
    )
    node(on_file, "w@mail", "mail", workers=("shop.sell",))
    node(on_file, "w@files", "files")
    checks = {check.name: check.findings for check in examine(on_file.manager, patience=0.01)}
    found = checks["constraints"]
    assert [each.code for each in found] == ["constraint-unmeetable", "files-unwatched", "constraint-unmeetable"]
    assert "'shop.bake' in queue 'celery'" in found[0].seen
    assert "w@alpha: the node has labels gpu=a100: expected gpu=a100, the node read gpu=h100" in found[0].seen
    assert "w@files can't watch any" in found[1].seen
    assert "custom constraint licence is met: not known to the node" in found[2].seen
    node(on_file, "w@both", "celery", "mail", "files", workers=(WORKER, "shop.sell"), watches_files=True,
         readings=Readings.of(START, labels={"gpu": "a100"}, custom={"licence": False}).to_json())  # fmt: skip
    checks = {check.name: check.findings for check in examine(on_file.manager, patience=0.01)}
    assert checks["constraints"] == ()
