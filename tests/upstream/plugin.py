"""A pytest plugin for the process that plays Celery's own integration suite: its outcomes, and the side it plays.

The suite's files stay as they are. Its apps are made by Celery's pytest fixtures, and there every task becomes a Worker
and every app gets a WorkManager.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.app.control import Control
from celery.contrib.testing import app as testing
from celery.utils.collections import LimitedSet
from celery.worker import state as worker_state

from celery_workmanager import State, Worker, WorkManager, WorkQuery
from tests.upstream.sides import BACKEND, DURABLE, ENVIRONMENT, LIMIT, Assignment

ASSIGNMENT = Assignment(**json.loads(os.environ[ENVIRONMENT]))


class DurableControl(Control):
    """What the suite purges between tests are calls that wait; those of Workers wait in the store."""

    def purge(self, connection: Any = None) -> int:
        """Cancel all works that wait, and discard all messages."""
        manager = self.app.workmanager
        waiting = manager.get_work_infos(WorkQuery(states=[State.ENQUEUED, State.BLOCKED]))
        for info in waiting:
            manager.cancel_work_by_id(info.id)
        return len(waiting) + int(super().purge(connection=connection))


class Succeeded(LimitedSet):
    """What the suite looks for in the memory of its worker: ids of what has succeeded there, and is over and done."""

    def __contains__(self, task_id: object) -> bool:
        manager = celery.current_app.workmanager
        info = manager.get_work_info_by_id(str(task_id))
        under_way = WorkQuery(states=[State.ENQUEUED, State.BLOCKED, State.RUNNING])
        return info is not None and info.state is State.SUCCEEDED and not manager.get_work_infos(under_way)


class DurableCelery(celery.Celery):
    """An app all of whose tasks are Workers."""

    task_cls = Worker
    control_cls = DurableControl

    def on_init(self) -> None:
        """Give it its WorkManager."""
        self.loader.override_backends = {DURABLE: BACKEND}
        WorkManager(self, store_url=ASSIGNMENT.store)


if ASSIGNMENT.store is not None:
    # The suite's own task classes say `from celery import Task`.
    celery.Task = Worker
    # What Celery's fixtures make apps of.
    testing.Celery = DurableCelery
    worker_state.successful_requests = Succeeded()


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Time for what a failed test has left running."""
    return {"shutdown_timeout": 60.0}


class Recorder:
    """Writes a line for each start, phase and end of a test, so that a dying process leaves what it knew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **line: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def begun(self) -> set[str]:
        """The tests of an earlier process: what it died of is not played again."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {json.loads(line)["test"] for line in lines if "started" in line}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        begun = self.begun()
        items[:] = [item for item in items if item.nodeid not in begun]
        for item in items:
            self.write(test=item.nodeid, collected=True)
            # In front of the suite's own five minutes.
            item.add_marker(pytest.mark.timeout(LIMIT), append=False)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(test=nodeid, started=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        text = str(report.longrepr or "")
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (text if crash is None else crash.message).splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "")[:200]
        self.write(test=report.nodeid, outcome=_outcome(report, text), said=said, seconds=round(report.duration, 1))


def _outcome(report: pytest.TestReport, text: str) -> str:
    if text.startswith("[XPASS(strict)]"):
        return "passed"  # although the suite knows that it fails
    return "failed" if hasattr(report, "wasxfail") and report.skipped else str(report.outcome)


def pytest_configure(config: pytest.Config) -> None:
    """Know the suite's marks without the plugins they belong to: a test that differs is played again by us."""
    config.addinivalue_line("markers", "flaky(reruns, reruns_delay, cause): played again by the harness")
    config.pluginmanager.register(Recorder(Path(ASSIGNMENT.record)), "upstream-recorder")


@pytest.fixture(autouse=True)
def _surroundings(request: pytest.FixtureRequest, celery_session_worker: Any) -> Iterator[None]:
    """A worker for tests that rely on the one of an earlier test; no connection of a test's app is left open."""
    yield
    app = request.node.funcargs.get("celery_app")
    if ASSIGNMENT.store is not None and app is not None:
        app.workmanager.store.close()
