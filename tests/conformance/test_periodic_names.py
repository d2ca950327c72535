"""Periodic work under unique names, its updates, and what is refused."""

from __future__ import annotations

import pytest

from celery_workmanager import (
    ExistingPeriodicWorkPolicy,
    ExistingWorkPolicy,
    OneTimeWorkRequest,
    Result,
    UpdateResult,
)
from celery_workmanager.errors import InvalidRequest, UnsupportedOperation, WorkNotFound
from tests.conformance.periods import HOUR, IMMEDIATELY, KEEP, MINUTE, REENQUEUE, UPDATE
from tests.conformance.workers import act, actions, ran

# -- unique names: section 2.6, row by row -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ExistingPeriodicWorkPolicy)
def test_a_free_name_is_taken(periods, policy):
    operation = periods.put("name", policy)
    assert operation.applied
    assert periods.info(operation.id).unique_names == ("name",)


def test_keep_keeps_what_is_under_way(periods):
    first = periods.put("name", KEEP, n="old")
    second = periods.put("name", KEEP, n="new")
    assert (second.applied, second.ids, len(second.skipped_ids)) == (False, (), 1)
    assert [info.id for info in periods.wm.get_work_infos_for_unique_work("name")] == [first.id]


def test_keep_replaces_what_was_cancelled(periods):
    first = periods.put("name", KEEP)
    periods.wm.cancel_unique_work("name")
    second = periods.put("name", KEEP)
    assert [info.id for info in periods.wm.get_work_infos_for_unique_work("name")] == [second.id]
    assert first.id != second.id


def test_cancel_and_reenqueue_begins_afresh(periods):
    first = periods.put("name", REENQUEUE)
    periods.run_at(0)
    second = periods.put("name", REENQUEUE)
    assert [info.id for info in periods.wm.get_work_infos_for_unique_work("name")] == [second.id]
    assert periods.wm.get_work_info_by_id(first.id) is None
    assert periods.wm.get_runs(first.id) == []
    assert periods.run_at(1) == 1


def test_update_changes_the_work_in_place_and_keeps_its_id_and_counters(periods):
    first = periods.put("name", UPDATE, n="old")
    periods.run_at(0)
    second = periods.put("name", UPDATE, n="new", repeat_interval=2 * HOUR, tags={"new"})
    assert (second.applied, second.ids, second.skipped_ids) == (True, (first.id,), ())
    info = periods.info(first.id)
    assert (info.period_count, info.generation, info.unique_names) == (1, 1, ("name",))
    assert info.tags == {"act", "new"}
    assert periods.next(first.id) == 120
    periods.run_at(120)
    assert ran == ["old", "new"]


def test_update_of_a_running_work_is_for_its_next_run(periods):
    def update(worker):
        if worker.input_data.get("n") == "old":
            assert periods.put("name", UPDATE, "work", n="new", repeat_interval=3 * HOUR).ids == (worker.work_id,)

    actions["work"] = update
    work_id = periods.put("name", UPDATE, "work", n="old").id
    periods.run_at(0)
    assert periods.next(work_id) == 180
    periods.run_at(180)
    assert ran == ["old", "new"]


def test_update_replaces_what_was_cancelled(periods):
    first = periods.put("name", UPDATE)
    periods.wm.cancel_unique_work("name")
    second = periods.put("name", UPDATE)
    assert second.ids != first.ids
    assert [info.id for info in periods.wm.get_work_infos_for_unique_work("name")] == [second.id]


def test_update_of_what_has_succeeded_is_not_applied(periods):
    first = periods.put("name", UPDATE, end_at=periods.at(30))
    periods.run_at(0)
    assert periods.info(first.id).state.name == "SUCCEEDED"
    second = periods.put("name", UPDATE)
    assert (second.applied, second.ids) == (False, ())
    assert periods.info(first.id).generation == 0


def test_update_of_one_time_work_is_refused(periods):
    one_time = OneTimeWorkRequest(act)
    periods.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one_time)
    with pytest.raises(UnsupportedOperation, match="one-time work .* can't be updated to periodic work"):
        periods.put("name", UPDATE)
    assert [info.id for info in periods.wm.get_work_infos_for_unique_work("name")] == [one_time.id]


def test_update_of_several_works_is_refused(periods):
    requests = [OneTimeWorkRequest(act), OneTimeWorkRequest(act)]
    periods.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, requests)
    with pytest.raises(UnsupportedOperation, match="UPDATE needs one work of the unique name, but there are 2"):
        periods.put("name", UPDATE)


def test_keep_and_cancel_and_reenqueue_meet_one_time_work_as_any_other(periods):
    one_time = OneTimeWorkRequest(act, initial_delay=3600)
    periods.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, one_time)
    assert not periods.put("name", KEEP).applied
    assert periods.put("name", REENQUEUE).applied
    assert periods.wm.get_work_info_by_id(one_time.id) is None


@pytest.mark.parametrize("policy", [KEEP, UPDATE])
def test_an_override_is_allowed_with_keep_and_update(periods, policy):
    work_id = periods.put("name", policy, next_schedule_time_override=periods.at(90)).id
    assert periods.next(work_id) == 90


def test_an_override_is_refused_with_cancel_and_reenqueue(periods):
    with pytest.raises(InvalidRequest, match="expected next_schedule_time_override to be left out"):
        periods.put("name", REENQUEUE, next_schedule_time_override=periods.at(90))


# -- update_work: section 2.7 ------------------------------------------------------------------------------------------


def test_an_update_before_the_first_run_counts_from_the_enqueue(periods):
    work_id = periods.enqueue(initial_delay=2 * HOUR)
    periods.kit.clock.advance(5 * MINUTE)
    assert periods.update(work_id, initial_delay=3 * HOUR) is IMMEDIATELY
    assert (periods.next(work_id), periods.info(work_id).generation) == (180, 1)
    assert periods.update(work_id, flex_interval=15 * MINUTE) is IMMEDIATELY
    assert periods.next(work_id) == 45


def test_an_update_keeps_the_attempts_and_its_backoff_counts(periods):
    actions["work"] = lambda _: Result.retry()
    work_id = periods.enqueue("work")
    periods.run_at(0)
    periods.update(work_id, backoff_delay=120)
    assert (periods.next(work_id), periods.info(work_id).run_attempt_count) == (2, 1)


def test_one_time_and_periodic_work_do_not_become_each_other(periods):
    one_time = periods.wm.enqueue(OneTimeWorkRequest(act, initial_delay=60)).id
    periodic = periods.enqueue()
    with pytest.raises(UnsupportedOperation, match="one-time work .* can't be updated to periodic work"):
        periods.update(one_time)
    with pytest.raises(UnsupportedOperation, match="periodic work .* can't be updated to one-time work"):
        periods.wm.update_work(OneTimeWorkRequest(act, id=periodic))


def test_an_unknown_work_is_not_updated_and_a_finished_one_neither(periods):
    with pytest.raises(WorkNotFound):
        periods.update("nobody")
    work_id = periods.enqueue()
    periods.wm.cancel_work_by_id(work_id)
    assert periods.update(work_id) is UpdateResult.NOT_APPLIED


def test_an_update_that_leaves_no_run_is_refused(periods):
    work_id = periods.enqueue()
    periods.run_at(0)
    with pytest.raises(InvalidRequest, match="expected end_at to be late enough for one more run"):
        periods.update(work_id, end_at=periods.at(30))
    assert periods.info(work_id).generation == 0


# -- what is refused or changed ----------------------------------------------------------------------------------------


def test_periodic_work_has_no_place_in_a_chain(periods):
    request = periods.request()
    with pytest.raises(InvalidRequest, match="expected a OneTimeWorkRequest"):
        periods.wm.begin_with(request)
    with pytest.raises(InvalidRequest, match="expected a OneTimeWorkRequest"):
        periods.wm.begin_with(OneTimeWorkRequest(act)).then(request)
    with pytest.raises(InvalidRequest, match="expected a OneTimeWorkRequest"):
        periods.wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, request)
    with pytest.raises(InvalidRequest, match="expected request to be a PeriodicWorkRequest"):
        periods.wm.enqueue_unique_periodic_work("name", KEEP, OneTimeWorkRequest(act))
    with pytest.raises(InvalidRequest, match="expected policy to be an ExistingPeriodicWorkPolicy"):
        periods.wm.enqueue_unique_periodic_work("name", ExistingWorkPolicy.KEEP, request)


def test_both_kinds_can_be_enqueued_in_one_call(periods):
    operation = periods.wm.enqueue([OneTimeWorkRequest(act), periods.request()])
    assert len(operation.ids) == 2
    assert periods.run_at(0) == 2
    assert [periods.info(each).state.name for each in operation.ids] == ["SUCCEEDED", "ENQUEUED"]


def test_an_interval_below_a_quarter_of_an_hour_is_raised_with_a_warning(periods):
    with pytest.warns(UserWarning, match="expected repeat_interval to be at least 0:15:00, got: 0:01:00") as said:
        work_id = periods.wm.enqueue(periods.request(repeat_interval=MINUTE)).id
    assert said[0].filename == __file__
    assert periods.info(work_id).periodicity_info.repeat_interval == 15 * MINUTE
    with pytest.warns(UserWarning, match="at least 0:05:00"):
        periods.update(work_id, flex_interval=MINUTE)


def test_a_flex_longer_than_the_interval_is_cut_with_a_warning(periods):
    with pytest.warns(UserWarning, match="expected flex_interval to be at most the interval"):
        work_id = periods.put("name", KEEP, flex_interval=2 * HOUR).id
    assert periods.info(work_id).periodicity_info.flex_interval == HOUR
    assert periods.next(work_id) == 0


def test_work_that_would_end_without_a_run_is_refused(periods):
    with pytest.raises(InvalidRequest, match="expected end_at to be late enough for one run"):
        periods.enqueue(initial_delay=HOUR, end_at=periods.at(30))
    assert periods.wm.get_work_infos_by_tag("act") == []
