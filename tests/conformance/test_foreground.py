"""Long-running works: what they show of themselves, and how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_workmanager import Data, ForegroundInfo, State, StopReason
from celery_workmanager.errors import InvalidRequest, UnsupportedOperation
from celery_workmanager.testing import run_worker
from tests.conformance.workers import act, actions

INFO = ForegroundInfo(1, "Sending 3 of 10", 2)


def test_a_run_in_the_foreground_shows_it_beside_its_progress(works, kit):
    seen = []

    def look(self):
        self.set_progress(percent=10)
        self.set_foreground(INFO)
        seen.append(works.info(self.work_id))
        self.set_progress(percent=20)
        self.set_foreground(ForegroundInfo(1, "Sending 4 of 10"))
        seen.append(works.info(self.work_id))

    actions["front"] = look
    work_id = works.enqueue("front")
    kit.run_until_idle()
    assert [(info.foreground.notification, info.progress) for info in seen] == [
        ("Sending 3 of 10", Data(percent=10)),
        ("Sending 4 of 10", Data(percent=20)),
    ]
    assert seen[0].foreground == INFO
    assert seen[0].to_dict()["foreground"]["notification"] == "Sending 3 of 10"
    info = works.info(work_id)
    assert (info.state, info.foreground, info.progress) == (State.SUCCEEDED, None, Data.EMPTY)


def test_a_stop_keeps_the_progress_and_the_next_run_is_not_in_the_foreground(works, kit):
    seen: list[Any] = []

    def stopped(self):
        if not seen:
            self.set_progress(percent=10)
            self.set_foreground(INFO)
            kit.driver.stop_running_work_with_reason(self.work_id, StopReason.DEVICE_STATE)
        seen.append(works.info(self.work_id))

    actions["front"] = stopped
    work_id = works.enqueue("front")
    kit.run_one()
    info = works.info(work_id)
    assert (info.state, info.foreground, info.progress) == (State.ENQUEUED, None, Data(percent=10))
    kit.clock.advance(timedelta(hours=1))
    kit.run_until_idle()
    assert (seen[1].state, seen[1].foreground, seen[1].progress) == (State.RUNNING, None, Data(percent=10))


def test_what_is_no_info_is_refused(works, kit):
    refused = []

    def wrong(self):
        with pytest.raises(InvalidRequest, match="ForegroundInfo"):
            self.set_foreground("Sending")
        refused.append(True)

    actions["front"] = wrong
    works.enqueue("front")
    kit.run_until_idle()
    assert refused
    with pytest.raises(UnsupportedOperation, match="no run"):
        act.set_foreground(INFO)


def test_the_longest_info_fits_beside_the_largest_progress(works, kit):
    seen = []

    def large(self):
        self.set_progress(text="x" * (kit.work_manager.settings.limits.data_max_bytes - 20))
        self.set_foreground(ForegroundInfo(2**31, "ß" * 1000))
        seen.append(works.info(self.work_id).foreground.notification)

    actions["front"] = large
    works.enqueue("front")
    kit.run_until_idle()
    assert seen == ["ß" * 1000]


def test_a_worker_alone_may_be_in_the_foreground():
    actions["front"] = lambda self: self.set_foreground(INFO)
    assert run_worker(act, {"do": "front"}).output_data == Data.EMPTY
