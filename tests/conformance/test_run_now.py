"""Running a work before its time (ours; WorkManager has it in its test driver only)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_workmanager import Operation, Result
from celery_workmanager.errors import InvalidRequest, WorkNotFound
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance import workers
from tests.conformance.conftest import Works


def test_a_delayed_work_runs_now(kit: WorkManagerTestKit, works: Works):
    work_id = works.enqueue(initial_delay=3600)
    assert kit.run_until_idle() == 0
    assert works.wm.run_now(work_id) == Operation(applied=True, ids=(work_id,))
    assert kit.run_until_idle() == 1
    assert works.state(work_id) == "SUCCEEDED"


def test_a_retry_runs_before_its_backoff_is_over(kit: WorkManagerTestKit, works: Works):
    answers = [Result.retry(), Result.success()]
    workers.actions["answer"] = lambda _: answers.pop(0)
    work_id = works.enqueue("answer", backoff_delay=3600)
    assert kit.run_until_idle() == 1
    assert works.wm.run_now(work_id).applied
    assert kit.run_until_idle() == 1
    assert works.info(work_id).run_attempt_count == 2


def test_a_blocked_work_waits_for_its_prerequisites_and_not_for_its_delay(kit: WorkManagerTestKit, works: Works):
    first, second = works.request(initial_delay=60), works.request(initial_delay=3600)
    works.wm.begin_with(first).then(second).enqueue()
    assert works.wm.run_now(second.id).applied
    assert works.states(first, second) == ["ENQUEUED", "BLOCKED"]
    assert works.info(second).initial_delay == timedelta(0)
    kit.clock.advance(timedelta(seconds=60))
    assert kit.run_until_idle() == 2
    assert works.states(first, second) == ["SUCCEEDED", "SUCCEEDED"]


def test_a_work_that_waits_for_no_moment_is_skipped(works: Works):
    work_id = works.enqueue()
    assert works.wm.run_now(work_id) == Operation(applied=False, skipped_ids=(work_id,))


def test_finished_and_unknown_works_are_refused(kit: WorkManagerTestKit, works: Works):
    work_id = works.enqueue()
    kit.run_until_idle()
    with pytest.raises(InvalidRequest, match="expected work to run now to be unfinished"):
        works.wm.run_now(work_id)
    with pytest.raises(WorkNotFound):
        works.wm.run_now("nobody")
    with pytest.raises(InvalidRequest, match="expected id to be"):
        works.wm.run_now("")
