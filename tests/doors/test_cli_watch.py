"""`work watch`, while things happen: each step waits for the line that tells the one before."""

from __future__ import annotations

import json
import signal
import subprocess

from celery_workmanager.outcome import Ending
from celery_workmanager.store import Store
from tests.doors.conftest import Shell
from tests.doors.processes import piped, terminal
from tests.stores import WORKER, end, job, put, put_chain, start, succeed, take_one


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line, without the moment it begins with."""
    assert process.stdout is not None
    return process.stdout.readline()[10:].rstrip("\n")


def test_each_change_is_a_line_until_all_are_finished(store: Store):
    put_chain(store, "a", "b")
    put(store, "stranger")
    with piped(store, "watch", "a", "b") as process:
        assert line_of(process) == "ENQUEUED   a  shop.bake"
        assert line_of(process) == "BLOCKED    b  shop.bake  after 1 work"
        claim = take_one(store, "a")
        start(store, claim)
        assert line_of(process) == "RUNNING    a  shop.bake"
        store.write_progress([(claim, '{"percent": 50}')])
        assert line_of(process) == "RUNNING    a  shop.bake  50 %"
        end(store, claim)
        assert line_of(process) == "SUCCEEDED  a  shop.bake"
        assert line_of(process) == "ENQUEUED   b  shop.bake"
        succeed(store, "b")
        assert line_of(process) == "SUCCEEDED  b  shop.bake"
        assert process.stdout.readline() == "2 SUCCEEDED\n"
    assert process.returncode == 0


def test_with_json_each_change_is_an_object_on_a_line(file: Store):
    put(file, "a")
    with piped(file, "watch", "--tag", WORKER, "--json") as process:
        assert json.loads(process.stdout.readline())["state"] == "ENQUEUED"
        start(file, claim := take_one(file, "a"))
        assert json.loads(process.stdout.readline())["state"] == "RUNNING"
        end(file, claim, ending=Ending.FAILED)
        assert json.loads(process.stdout.readline())["state"] == "FAILED"
        assert process.stdout.readline() == ""
    assert process.returncode == 1


def test_everything_includes_what_is_enqueued_later_and_what_is_deleted(file: Store):
    put(file, job("a", initial_delay=3600), "done")
    succeed(file, "done")
    with piped(file, "watch") as process:
        assert line_of(process) == "ENQUEUED   a  shop.bake"
        put(file, "b")
        assert line_of(process) == "ENQUEUED   b  shop.bake"
        succeed(file, "b")
        assert line_of(process) == "SUCCEEDED  b  shop.bake"
        file.empty()
        assert line_of(process) == "deleted    a"
        assert process.stdout.readline() == "1 SUCCEEDED\n"
    assert process.returncode == 0


def test_ctrl_c_ends_it_quietly(file: Store):
    put(file, "a")
    with piped(file, "watch") as process:
        assert line_of(process) == "ENQUEUED   a  shop.bake"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (130, "", "")


def test_on_a_terminal_it_is_a_picture_that_is_drawn_over(file: Store):
    put_chain(file, "a", "b")
    with terminal(file, "watch", "--tag", WORKER) as screen:
        screen.read_until("1 ENQUEUED, 1 BLOCKED\n")
        start(file, claim := take_one(file, "a"))
        screen.read_until("1 RUNNING, 1 BLOCKED\n")
        assert (
            screen.picture
            == """\
ID  WORKER     STATE      AT        NOTE
a   shop.bake  ● RUNNING  17:46:40
b   shop.bake  ◌ BLOCKED            after 1 work
1 RUNNING, 1 BLOCKED
"""
        )
        assert "\x1b[33m● RUNNING\x1b[0m" in screen.raw
        end(file, claim)
        screen.read_until("1 ENQUEUED, 1 SUCCEEDED\n")
        succeed(file, "b")
        assert screen.end() == 0
        assert screen.picture.endswith("✔ SUCCEEDED  17:46:40\n2 SUCCEEDED\n")


def test_a_picture_is_no_higher_than_the_terminal(file: Store):
    put(file, *(f"w{n:02}" for n in range(30)))
    start(file, take_one(file, "w29"))
    with terminal(file, "watch", lines=10) as screen:
        screen.read_until("29 ENQUEUED, 1 RUNNING\n")
        assert [line[:3] for line in screen.picture.splitlines()] == [
            "ID ", "w00", "w01", "w02", "w03", "w04", "w29", "… a", "29 ",
        ]  # fmt: skip
        screen.process.send_signal(signal.SIGINT)
        assert screen.end() == 130


def test_what_is_finished_already_is_shown_once(on_file: Shell):
    put(on_file.store, "a", "b", job("t", tags={"x"}))
    succeed(on_file.store, "a", "t")
    answer = on_file("watch", "a")
    assert (answer.code, answer.text) == (0, "17:46:40  SUCCEEDED  a  shop.bake\n1 SUCCEEDED\n")
    assert on_file("watch", "--tag", "x").code == 0
    on_file.store.cancel("b")
    assert on_file("watch", "a", "b").code == 1


def test_nothing_to_watch(on_file: Shell):
    assert (on_file("watch").code, on_file("watch").text) == (0, "Nothing to watch.\n")
    assert (on_file("watch", "--tag", "x").code, on_file("watch", "--tag", "x").text) == (1, "Nothing to watch.\n")
    answer = on_file("watch", "nobody")
    assert (answer.code, "No work has the id nobody" in answer.text) == (1, True)
    assert on_file("watch", "--tag", "").code == 2
