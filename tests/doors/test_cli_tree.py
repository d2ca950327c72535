"""`work tree`: chains, drawn."""

from __future__ import annotations

from celery_workmanager.cli import tree
from celery_workmanager.overview import family
from tests.doors.conftest import Shell
from tests.stores import KEEP, enqueue, fail, job, put, put_chain, put_named, start, step, succeed, take_one


def test_a_diamond_is_drawn_from_whichever_work_or_name(shell: Shell):
    store = shell.store
    put_named(store, "import", KEEP, job("a", worker="shop.clean"))
    enqueue(
        store,
        step(job("a", worker="shop.clean")),
        step("b1", "b2", "b3", after=("a",)),
        step("c", after=("b1", "b2", "b3")),
    )
    succeed(store, "a", "b1")
    claim = take_one(store, "b2")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 40}')])
    put(store, "stranger")
    for target in ("import", "a", "b3", "c"):
        answer = shell("tree", target)
        assert answer.code == 0
        assert (
            answer.text
            == """\
       WORKER      STATE      NOTE           ID
✔      shop.clean  SUCCEEDED                 a
├─┬─╮
✔ │ │  shop.bake   SUCCEEDED                 b1
│ ● │  shop.bake   RUNNING    40 %           b2
│ │ ○  shop.bake   ENQUEUED                  b3
├─┴─╯
◌      shop.bake   BLOCKED    after 3 works  c
1 ENQUEUED, 1 RUNNING, 2 SUCCEEDED, 1 BLOCKED
"""
        )


def test_works_that_are_alike_share_a_row_unless_all_are_asked_for(on_file: Shell):
    store = on_file.store
    put_chain(store, "a", [f"b{n}" for n in range(8)], "c")
    succeed(store, "a", "b0")
    fail(store, "b1")
    assert (
        on_file("tree", "a").text
        == """\
       WORKER         STATE      NOTE                                           ID
✔      shop.bake      SUCCEEDED                                                 a
├─┬─╮
✔ │ │  shop.bake      SUCCEEDED                                                 b0
│ ✘ │  shop.bake      FAILED                                                    b1
│ │ ○  6 × shop.bake  ENQUEUED
├─┴─╯
✘      shop.bake      FAILED     PrerequisiteFailed: a prerequisite failed: b1  c
6 ENQUEUED, 2 SUCCEEDED, 2 FAILED
"""
    )
    expanded = on_file("tree", "a", "--expand").text
    assert [line.split()[-1] for line in expanded.splitlines() if "ENQUEUED " in line] == [f"b{n}" for n in range(2, 8)]


def test_a_name_whose_works_are_not_connected_is_drawn_in_parts(on_file: Shell):
    put_named(on_file.store, "pair", KEEP, "a", "b")
    assert on_file("tree", "pair").text.splitlines()[1:4] == [
        "○  shop.bake  ENQUEUED  a",
        "",
        "○  shop.bake  ENQUEUED  b",
    ]


def test_very_many_lanes_are_cut(on_file: Shell):
    put_chain(on_file.store, "a", [f"b{n:02}" for n in range(40)], "c")
    lines = on_file("tree", "a", "--expand").text.splitlines()
    assert len(lines) == 46
    assert max(len(line) for line in lines) < 100
    assert all("○" in line or "◌" in line for line in lines if "shop.bake" in line)


def test_of_a_large_family_the_nearest_are_drawn_and_the_rest_is_mentioned(on_file: Shell, monkeypatch):
    put_chain(on_file.store, *"abcdefg")
    monkeypatch.setattr(tree, "family", lambda connection, roots: family(connection, roots, most=3))
    assert on_file("tree", "d").text.splitlines()[1:] == [
        "◌  shop.bake  BLOCKED  after 1 work  c",
        "◌  shop.bake  BLOCKED  after 1 work  d",
        "◌  shop.bake  BLOCKED  after 1 work  e",
        "3 BLOCKED",
        "… and more: these are the nearest 3",
    ]


def test_a_tree_as_json_has_its_edges(shell: Shell):
    put_chain(shell.store, "a", ["b", "c"])
    found = shell("tree", "c", "--json").json
    assert {each["id"]: each["dependents"] for each in found["works"]} == {"a": ["b", "c"], "b": [], "c": []}
    assert {each["id"]: each["prerequisites"] for each in found["works"]} == {"a": [], "b": ["a"], "c": ["a"]}
    assert found["more"] is False


def test_a_tree_of_nothing_is_an_exit_code(on_file: Shell):
    answer = on_file("tree", "nothing")
    assert (answer.code, answer.text) == (1, "No work has the id or the unique name nothing.\n")
    assert on_file("tree", "nothing", "--json").json == {"works": [], "more": False}
