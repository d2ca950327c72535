"""`work status`, `list`, `show` and `nodes`: what they print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery_workmanager.cli import status
from celery_workmanager.constraints import Constraints
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Ending
from celery_workmanager.overview import census
from celery_workmanager.readings import Readings
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND
from celery_workmanager.work import StopReason, WorkError
from tests.doors.conftest import Shell
from tests.stores import (
    HOUR,
    KEEP,
    START,
    end,
    enqueue,
    fail,
    job,
    move,
    put,
    put_chain,
    put_named,
    start,
    step,
    succeed,
    take_one,
)

FACTS = {"queues": ["celery", "photos"], "workers": ["shop.bake"], "pool": "prefork", "concurrency": 4}


def add_node(store: Store, id: str, name: str, lease: int) -> None:
    host = f"{name.split('@')[1]}/boot/pid:[1]"
    store.register(NodeRow(id, name, host, 4711, 1, START - HOUR, START + lease, json.dumps(FACTS)))


@pytest.fixture
def busy(shell: Shell) -> Shell:
    """A store with something in every state, a live node and a lost one."""
    store = shell.store
    add_node(store, "n1", "celery@alpha", HOUR)
    add_node(store, "n2", "celery@beta", 15 * SECOND)
    put_named(store, "import", KEEP, job("a", tags={"x", "y"}))
    enqueue(store, step("a"), step("b", after=("a",)), step("c", after=("b",)))
    put(store, job("d", initial_delay=300), job("e", queue="photos"), job("f", queue="photos"), "g", "h", "i")
    succeed(store, "a")
    start(store, take_one(store, "e", "n1"))
    take_one(store, "g", "n2")
    fail(store, "h")
    store.cancel("i")
    move(store, 90 * SECOND)
    return shell


STATUS = """\
STATE        WORKS
○ ENQUEUED       4  2 ready, the oldest for 1 min; 1 delayed, the next due in 3 min; 1 about to run
● RUNNING        1
◌ BLOCKED        1
✔ SUCCEEDED      1
✘ FAILED         1
⊘ CANCELLED      1

QUEUE   READY  DELAYED  BLOCKED  RUNNING  OLDEST READY
celery      1        1        1        1         1 min
photos      1        0        0        1         1 min

NODE          LEASE           POOL         HOLDS   UP  QUEUES          HOST    PID
celery@alpha  alive           prefork × 4      1  1 h  celery, photos  alpha  4711
celery@beta   lost 1 min ago  prefork × 4      1  1 h  celery, photos  beta   4711
"""


def test_status_tells_states_queues_and_nodes(busy: Shell):
    answer = busy("status")
    assert answer.code == 0
    assert answer.text == f"{busy.store.database.shown_url}\n\n{STATUS}"


def test_status_of_an_empty_store_says_so(on_file: Shell):
    answer = on_file("status")
    assert answer.code == 0
    assert answer.text.endswith(
        "⊘ CANCELLED      0\n\nNothing waits and nothing runs.\n\nNo nodes: `celery -A proj worker` starts one.\n"
    )


def test_status_as_json(busy: Shell):
    found = busy("status", "--json").json
    assert found["states"] == {
        "ENQUEUED": 4, "RUNNING": 1, "BLOCKED": 1, "SUCCEEDED": 1, "FAILED": 1, "CANCELLED": 1,
    }  # fmt: skip
    assert found["at_least"] == []
    assert found["oldest_ready"] == "2030-03-17T17:46:40+00:00"
    assert found["next_due"] == "2030-03-17T17:51:40+00:00"
    assert found["queues"]["photos"] == {
        "ready": 1, "delayed": 0, "blocked": 0, "running": 1, "oldest": "2030-03-17T17:46:40+00:00", "paused": 0,
    }  # fmt: skip
    alpha, beta = found["nodes"]
    assert alpha == {
        "id": "n1", "name": "celery@alpha", "alive": True, "host": "alpha", "pid": 4711, "holds": 1, **FACTS,
        "lease_until": "2030-03-17T18:46:40+00:00", "started_at": "2030-03-17T16:46:40+00:00",
    }  # fmt: skip
    assert (beta["alive"], beta["holds"]) == (False, 1)


def test_status_says_where_it_stopped_counting(on_file: Shell, monkeypatch: pytest.MonkeyPatch):
    put(on_file.store, *(f"w{n}" for n in range(5)))
    monkeypatch.setattr(status, "census", lambda connection: census(connection, most=3))
    assert "○ ENQUEUED     > 3  > 3 ready, the oldest for 0 s\n" in on_file("status").text
    assert "celery    > 3        0" in on_file("status").text
    found = on_file("status", "--json").json
    assert (found["states"]["ENQUEUED"], found["at_least"]) == (3, ["ENQUEUED"])


def test_nodes_are_listed_and_their_absence_is_an_exit_code(busy: Shell):
    answer = busy("nodes")
    assert (answer.code, answer.text) == (0, STATUS[STATUS.index("NODE") :])
    assert [node["id"] for node in busy("nodes", "--json").json["nodes"]] == ["n1", "n2"]
    busy.store.empty()
    answer = busy("nodes")
    assert (answer.code, answer.text) == (1, "No nodes: `celery -A proj worker` starts one.\n")
    assert busy("nodes", "-j").json == {"nodes": []}


def test_nodes_tell_what_they_read(busy: Shell):
    readings = Readings.of(START, storage_free_percent=3, unknown=["power"]).to_json()
    host = "gamma/boot/pid:[1]"
    facts = json.dumps({**FACTS, "readings": readings})
    busy.store.register(NodeRow("n3", "celery@gamma", host, 4711, 1, START, START + HOUR, facts))
    text = busy("nodes", "--readings").text
    reads = [line.split(maxsplit=2) for line in text.splitlines() if line.startswith("celery@gamma")][1:]
    assert [line[:2] for line in reads] == [["celery@gamma", "power"], ["celery@gamma", "storage"]]
    assert "unknown: declared unknown" in reads[0][2]
    assert 'free_percent 3, low true, expected "at least 5 % free" (declared)' in reads[1][2]
    nodes = {node["id"]: node for node in busy("nodes", "--json").json["nodes"]}
    assert nodes["n3"]["readings"] == readings


# -- list --------------------------------------------------------------------------------------------------------


def test_list_shows_the_newest_first(busy: Shell):
    answer = busy("list")
    assert answer.code == 0
    assert (
        answer.text
        == """\
ID  STATE        WORKER     WHEN         NOTE          NAME    TAGS  QUEUE
i   ⊘ CANCELLED  shop.bake  1 min ago
h   ✘ FAILED     shop.bake  1 min ago
g   ○ ENQUEUED   shop.bake  starting
f   ○ ENQUEUED   shop.bake  waits 1 min                              photos
e   ● RUNNING    shop.bake  for 1 min                                photos
d   ○ ENQUEUED   shop.bake  in 3 min
c   ◌ BLOCKED    shop.bake               after 1 work
b   ○ ENQUEUED   shop.bake  waits 1 min
a   ✔ SUCCEEDED  shop.bake  1 min ago                  import  x, y
"""
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("--state enqueued", "gfdb"),
        ("--state FAILED --state Running", "he"),
        ("--state finished", "iha"),
        ("--state unfinished --queue photos", "fe"),
        ("--tag x", "a"),
        ("--tag shop.bake --limit 2", "ih"),
        ("--name import", "a"),
        ("--worker shop.bake --oldest --limit 3", "abc"),
        ("--worker shop.sell", ""),
        ("--node n1", "e"),
        ("--node celery@beta --node n1", "ge"),
        ("--after f --limit 2", "ed"),
        ("--after f --oldest", "ghi"),
    ],
)
def test_list_takes_filters(busy: Shell, filters: str, expected: str):
    answer = busy("list", "--json", *filters.split())
    assert [each["id"] for each in answer.json["works"]] == list(expected)
    assert answer.code == (0 if expected else 1)


def test_list_goes_on_where_the_page_before_ended(busy: Shell):
    def pages() -> Iterator[list[str]]:
        after: list[str] = []
        while True:
            found = busy("list", "--json", "--limit", "4", *after).json
            yield [each["id"] for each in found["works"]]
            if found["next"] is None:
                return
            after = ["--after", found["next"]]

    assert list(pages()) == [list("ihgf"), list("edcb"), ["a"]]
    assert busy("list", "--limit", "8").text.endswith("\n… more: --after b\n")
    assert "more" not in busy("list", "--limit", "9").text


def test_a_list_without_works_says_so_and_a_wrong_filter_is_a_wrong_call(on_file: Shell):
    assert (on_file("list").code, on_file("list").text) == (1, "No works.\n")
    assert on_file("list", "--json").json == {"works": [], "next": None}
    for wrong in (["--state", "done"], ["--limit", "0"], ["--tag", ""], ["--after", "\n"]):
        assert on_file("list", *wrong).code == 2


def test_notes_tell_progress_attempts_and_errors_on_one_line(on_file: Shell):
    store = on_file.store
    put(store, "a", "b", "c", "d")
    error = WorkError("ValueError", "the boiler\nis \x1b[31mcold").to_json()
    end(store, take_one(store, "a"), ending=Ending.FAILED, error=error)
    claim = take_one(store, "b")
    start(store, claim)
    store.write_progress([(claim, '{"percent": 40, "step": "décode"}')])
    end(store, take_one(store, "c"), ending=Ending.RETRY)
    end(store, take_one(store, "d"), ending=Ending.LOST)
    assert on_file("list", "--oldest").text.splitlines()[1:] == [
        r"a   ✘ FAILED    shop.bake  0 s ago    ValueError: the boiler\nis \x1b[31mcold",
        'b   ● RUNNING   shop.bake  for 0 s    40 % {"step": "décode"}',
        "c   ○ ENQUEUED  shop.bake  in 30 s    attempt 2",
        "d   ○ ENQUEUED  shop.bake  waits 0 s  interrupted 1 ×, stopped: UNKNOWN",
    ]


# -- show --------------------------------------------------------------------------------------------------------


def test_show_tells_all_that_is_known(on_file: Shell):
    store = on_file.store
    options: dict[str, Any] = {
        "tags": {"x", "y"},
        "priority": 5,
        "initial_delay": 90,
        "input": {"image": "Kätzchen.png"},
    }
    put_chain(store, "a", "b")
    enqueue(store, step("a"), step(job("c", **options), after=("a",)), step("d", after=("c",)))
    succeed(store, "a")
    move(store, 90 * SECOND)
    claim = take_one(store, "c")
    start(store, claim)
    store.clock.move(2_500_000)  # type: ignore[attr-defined]
    error = WorkError("ValueError", "cold", traceback="Traceback …\nValueError: cold\n").to_json()
    end(store, claim, ending=Ending.FAILED, error=error, output='{"degrees": 3}')
    answer = on_file("show", "c")
    assert answer.code == 0
    assert (
        answer.text
        == """\
✘ FAILED  c
  worker        shop.bake
  queue         celery, priority 5
  tags          x, y
  delay         0:01:30
  enqueued      2030-03-17 17:46:40
  started       2030-03-17 17:48:10
  finished      2030-03-17 17:48:12, 0 s ago
  took          2.500 s
  attempts      1
  after         ✔ SUCCEEDED  a  shop.bake
  before        ✘ FAILED  d  shop.bake
  input
    {
      "image": "Kätzchen.png"
    }
  output
    {
      "degrees": 3
    }
  error
    ValueError: cold
    Traceback …
    ValueError: cold
"""
    )
    (document,) = on_file("show", "c", "--json").json["works"]
    assert (document["dependents"], document["prerequisites"]) == (["d"], ["a"])


def test_show_tells_what_a_work_asks_for(on_file: Shell):
    asked = Constraints(requires_charging=True, node_labels=["gpu=a100"])
    put(on_file.store, job("a", constraints=asked, deadline=90, concurrency=Limit("gpu", 2), rate=Rate("api", 10, 60)))
    text = on_file("show", "a").text
    assert "  asks for      charging, gpu=a100\n" in text
    assert "  deadline      2030-03-17 17:48:10\n" in text
    assert "  limits        2 at once of gpu, 10 in 0:01:00 of api\n" in text


def test_show_tells_of_stops_the_newest_first(on_file: Shell):
    store = on_file.store
    put(store, "a")
    for reason in (StopReason.CONSTRAINT_CHARGING, StopReason.SYSTEM_PROCESSING):
        claim = take_one(store, "a")
        start(store, claim)
        move(store, SECOND)
        end(store, claim, ending=Ending.STOPPED, reason=reason)
    text = on_file("show", "a").text
    first, second = (line for line in text.splitlines() if "attempt 1" in line)
    assert first.startswith("  stops         2030-03-17 17:46:42 after 1.000 s, SYSTEM_PROCESSING, attempt 1, on node")
    assert second.startswith("                2030-03-17 17:46:41 after 1.000 s, CONSTRAINT_CHARGING, attempt 1")
    (shown,) = json.loads(on_file("show", "a", "--json").text)["works"]
    assert [stop["reason"] for stop in shown["stops"]] == ["SYSTEM_PROCESSING", "CONSTRAINT_CHARGING"]


def test_show_of_several_and_of_unknown_works(on_file: Shell):
    put(on_file.store, job("a", initial_delay=60), "b")
    answer = on_file("show", "b", "nobody", "a")
    assert answer.code == 1
    assert "  next run      2030-03-17 17:47:40, in 1 min\n" in answer.text
    assert answer.text.count("shop.bake") == 2
    assert "No work has the id nobody: it never existed, or it was pruned.\n" in answer.text
    assert on_file("show").code == 2
