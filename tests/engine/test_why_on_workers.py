"""Why a work doesn't run, and files that start works, with two real workers on one machine: each of one thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_workmanager import (
    Constraints,
    ContentUriTrigger,
    Explanation,
    OneTimeWorkRequest,
    ReasonKind,
    Worker,
    WorkManager,
)
from celery_workmanager.timing import moment
from tests.engine import why_app
from tests.stores import wait_until

pytest.importorskip("watchfiles", reason="celery-workmanager[files] is not installed")

ROOT = Path(__file__).parents[2]
READINGS = {
    "a": {"labels": {"zone": "a"}, "storage_free_percent": 3},
    "b": {"labels": {"zone": "b"}, "charging": False},
}


class Site:
    """Two workers, and who enqueues for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = Celery("client", broker="memory://", set_as_current=False)
        for name in ("tell", "wait"):
            self.app.task(base=Worker, name=f"why.{name}", shared=False)(_elsewhere)
        self.manager = WorkManager(self.app, store_url=f"sqlite:///{folder / 'store.sqlite3'}")
        self.processes = [self._start(name) for name in READINGS]

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        environment |= {why_app.FOLDER: str(self.folder), "WHY_READINGS": json.dumps(READINGS[name])}
        command = [sys.executable, "-m", "celery", "-A", "tests.engine.why_app", "worker", "-n", f"{name}@here"]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "-P", "threads", "-c", "1", "-l", "INFO"],
                env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> bool:
        """Whether both have told what they read."""
        nodes = self.manager.store.nodes()
        return len(nodes) == len(READINGS) and all("labels" in json.loads(node.facts)["readings"] for node in nodes)

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.manager.store.close()
        self.app.close()

    def put(self, worker: str = "why.tell", **options: Any) -> str:
        data = options.pop("input_data", {})
        return self.manager.enqueue(OneTimeWorkRequest(worker, data, **options)).ids[0]

    def why(self, work: str) -> Explanation:
        return self.manager.explain(work)

    def until(self, work: str, kind: ReasonKind) -> Explanation:
        """Wait until this is the first reason."""
        wait_until(lambda: self.why(work).first.kind is kind)
        return self.why(work)

    def output(self, work: str) -> dict[str, Any]:
        """Wait until it has succeeded; what it returned."""
        self.until(work, ReasonKind.FINISHED)
        info = self.manager.get_work_info_by_id(work)
        assert info is not None
        assert info.state.name == "SUCCEEDED", info
        return dict(info.output_data)


def _elsewhere(**_: Any) -> None:
    """Runs in the workers."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("why"))
    try:
        wait_until(made.ready, seconds=60)
        yield made
    finally:
        made.close()


def triggered(path: Path | str, *, deep: bool = False, seconds: float = 0.1) -> Constraints:
    return Constraints(
        content_uri_triggers=(ContentUriTrigger(str(path), deep),),
        trigger_content_update_delay=timedelta(seconds=seconds),
    )


def test_an_unmet_constraint_names_what_both_nodes_read(site: Site):
    work = site.put(constraints=Constraints(requires_storage_not_low=True, requires_charging=True))
    reasons = site.why(work).reasons
    assert [(each.kind.value, [node.name for node in each.nodes]) for each in reasons] == [
        ("constraint", ["b@here"]),
        ("constraint", ["a@here"]),
    ]
    assert "the node is charging" in reasons[0].text  # the first of the stop reasons, whoever is asked first
    assert "storage is not low" in reasons[1].text
    at = reasons[0].nodes[0].read_at
    assert at is not None
    assert site.manager.clock.now() - moment(at) < 120_000_000
    site.manager.cancel_work_by_id(work)


def test_a_label_leads_to_its_node_and_a_queue_to_nobody(site: Site):
    assert site.output(site.put(constraints=Constraints(node_labels=("zone=b",))))["node"] == "b@here"
    first = site.why(site.put(queue="rare")).first
    assert first.kind is ReasonKind.NO_NODE
    assert first.text.startswith("no live node consumes the queue 'rare'; ")


def test_running_busy_and_next_in_line(site: Site):
    gate = {"gate": "gate"}
    running = [site.put("why.wait", input_data=gate) for _ in READINGS]
    for each in running:
        assert site.until(each, ReasonKind.RUNNING).is_running
    assert {site.why(each).first.text.split()[3] for each in running} == {"a@here", "b@here"}
    waiting = [site.put("why.wait", input_data=gate) for _ in range(2)]
    reasons = site.why(waiting[1]).reasons
    assert [each.kind.value for each in reasons] == ["busy", "position"]
    assert [each.text for each in reasons[0].nodes] == ["has 1 in hand and runs 1 at once"] * 2
    (site.folder / "gate").touch()
    for each in (*running, *waiting):
        site.output(each)


def test_a_drained_node_takes_nothing_more(site: Site):
    for name in ("a@here", "b@here"):
        site.manager.pause(node=name)
    work = site.put()
    first = site.why(work).first
    assert first.text.startswith("every node that serves it is drained: a@here and b@here since ")
    site.manager.resume(node="b@here")
    assert site.output(work)["node"] == "b@here"
    site.manager.resume(node="a@here")


def test_a_change_starts_one_run_on_one_of_two_nodes(site: Site, tmp_path: Path):
    work = site.put(constraints=triggered(tmp_path / "*.csv"))
    text = site.why(work).first.text
    assert text == f"it waits until {tmp_path}/*.csv has changed and rests: watched by a@here and b@here"
    (tmp_path / "other.txt").touch()
    file = tmp_path / "new.csv"
    file.write_text("1")
    assert site.output(work)["uris"] == [str(file)]
    info = site.manager.get_work_info_by_id(work)
    assert info is not None
    assert info.run_attempt_count == 1


def test_what_comes_only_later_is_watched_for(site: Site, tmp_path: Path):
    file = tmp_path / "not" / "yet" / "there"
    work = site.put(constraints=triggered(file.as_uri()))
    file.parent.mkdir(parents=True)
    file.write_text("1")
    assert site.output(work)["uris"] == [file.as_uri()]


@pytest.mark.parametrize(
    "paused", [({"node": "a@here"}, {"node": "b@here"}), ({"queue": "celery"},)], ids=["drained", "queue paused"]
)
def test_a_change_while_no_node_may_claim_is_not_lost(site: Site, tmp_path: Path, paused: tuple[dict[str, str], ...]):
    """Drained nodes watch on; for a work of a paused queue nobody does."""
    for each in paused:
        site.manager.pause(**each)
    work = site.put(constraints=triggered(tmp_path, deep=True))
    file = tmp_path / "in" / "a"
    file.parent.mkdir()
    file.write_text("1")
    for each in paused:
        site.manager.resume(**each)
    assert str(file) in site.output(work)["uris"]


def test_a_worker_that_shuts_down_takes_nothing_more(site: Site):
    """The last test: it ends the workers."""
    for _ in READINGS:
        site.until(site.put("why.wait", input_data={"gate": "last"}), ReasonKind.RUNNING)
    for process in site.processes:
        process.terminate()
    work = site.put()
    assert site.until(work, ReasonKind.NO_NODE).first.text == "a@here and b@here will shut down; no other is alive"
    (site.folder / "last").touch()
    for process in site.processes:
        process.wait(30)
    assert site.why(work).first.text == "no node is alive"
