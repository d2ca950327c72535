"""Periodic work beyond Android: occurrences, catch-up, ends, history; and the testing kit's driver."""

from __future__ import annotations

import pytest
from celery.schedules import crontab

from celery_workmanager import (
    CatchUp,
    Data,
    OneTimeWorkRequest,
    Result,
    WorkQuery,
)
from celery_workmanager.errors import InvalidRequest, WorkNotFound
from tests.conformance import workers
from tests.conformance.periods import HOUR, MINUTE, SECOND, Periods
from tests.conformance.workers import act, actions

# -- beyond Android ----------------------------------------------------------------------------------------------------


def test_a_fixed_rate_does_not_drift(periods):
    actions["work"] = periods.takes(7)
    work_id = periods.enqueue("work", fixed_rate=True)
    for hour in range(3):
        assert periods.next(work_id) == 60 * hour
        assert periods.run_at(60 * hour) == 1
    assert [run.scheduled_at for run in periods.wm.get_runs(work_id)] == [periods.at(each) for each in (120, 60, 0)]


def test_a_crontab_runs_on_the_clock(kit):
    kit.clock.step(-(kit.clock.now() % (24 * 3600 * 1_000_000)))  # midnight
    periods = Periods(kit)
    work_id = periods.enqueue(schedule=crontab(minute=30, hour="9,17"), timezone="UTC")
    assert periods.info(work_id).periodicity_info.schedule == "30 9,17 * * * UTC"
    times = [(at - periods.began) / HOUR for at in periods.wm.next_run_times(work_id, 3)]
    assert times == [9.5, 17.5, 33.5]
    assert periods.run_at(9.5 * 60) == 1
    assert periods.next(work_id) == 17.5 * 60


@pytest.mark.parametrize(("policy", "runs", "then"), [("SKIP", 0, 240), ("ONCE", 1, 240), ("ALL", 3, 240)])
def test_what_was_missed_while_nobody_worked_is_caught_up_as_the_policy_says(periods, policy, runs, then):
    work_id = periods.enqueue(fixed_rate=True, catch_up=CatchUp[policy])
    assert periods.run_at(0) == 1
    assert periods.run_at(210) == runs
    assert periods.next(work_id) == then
    assert periods.run_at(240) == 1


def test_a_late_occurrence_runs_even_if_missed_ones_are_skipped(periods):
    work_id = periods.enqueue(fixed_rate=True, catch_up=CatchUp.SKIP)
    periods.run_at(0)
    assert periods.run_at(119) == 1
    assert periods.next(work_id) == 120


def test_a_run_that_was_begun_is_not_skipped_however_late_it_goes_on(periods, kit):
    work_id = periods.enqueue(fixed_rate=True, catch_up=CatchUp.SKIP)
    kit.crash_after("start")
    kit.run_one()
    periods.kit.clock.advance(5 * HOUR)
    kit.lose_node()
    assert kit.run_until_idle() == 1
    assert periods.next(work_id) == 360


def test_skipping_may_end_the_work(periods):
    work_id = periods.enqueue(fixed_rate=True, catch_up=CatchUp.SKIP, end_at=periods.at(150))
    periods.run_at(0)
    assert periods.run_at(200) == 0
    assert periods.info(work_id).state.name == "SUCCEEDED"


def test_at_its_end_the_work_has_succeeded_with_the_output_of_its_last_run(periods):
    answers = [Result.success(n=1), Result.failure(n=2)]
    actions["work"] = lambda _: answers.pop(0)
    work_id = periods.enqueue("work", fixed_rate=True, end_at=periods.at(60))
    periods.run_at(0)
    periods.run_at(60)
    info = periods.info(work_id)
    assert (info.state.name, info.output_data, info.period_count) == ("SUCCEEDED", Data(n=2), 2)
    assert info.finished_at == periods.at(60)
    assert [run.outcome.name for run in periods.wm.get_runs(work_id)] == ["FAILED", "SUCCEEDED"]


def test_an_override_may_lie_beyond_the_end(periods):
    work_id = periods.enqueue(end_at=periods.at(30), next_schedule_time_override=periods.at(40))
    assert periods.run_at(40) == 1
    assert periods.info(work_id).state.name == "SUCCEEDED"


def test_run_now_counts_as_the_run_of_the_occurrence_that_it_waited_for(periods):
    rate, plain = periods.enqueue(fixed_rate=True), periods.enqueue()
    periods.run_at(0)
    periods.kit.clock.advance(20 * MINUTE)
    for work_id in (rate, plain):
        assert periods.wm.run_now(work_id).applied
    assert periods.kit.run_until_idle() == 2
    assert (periods.next(rate), periods.next(plain)) == (120, 80)
    assert periods.info(rate).period_count == 2


def test_a_run_knows_the_moment_that_it_is_for(periods):
    seen = []
    actions["work"] = lambda worker: seen.append(worker.scheduled_at)
    periods.enqueue("work", fixed_rate=True)
    periods.wm.enqueue(OneTimeWorkRequest(act, {"do": "work"}))
    periods.run_at(0)
    periods.run_at(75)
    assert set(seen) == {None, periods.at(0), periods.at(60)}


def test_periodic_works_can_be_looked_for(periods):
    periodic, one_time = periods.enqueue(), periods.wm.enqueue(OneTimeWorkRequest(act)).id
    assert [info.id for info in periods.wm.get_work_infos(WorkQuery(periodic=True))] == [periodic]
    assert [info.id for info in periods.wm.get_work_infos(WorkQuery(periodic=False))] == [one_time]
    assert len(periods.wm.get_work_infos(WorkQuery())) == 2


def test_past_runs_are_kept_up_to_the_number_asked_for(periods):
    numbers = iter(range(10))
    actions["work"] = lambda _: Result.success(n=next(numbers))
    work_id = periods.enqueue("work", keep_runs=2, fixed_rate=True)
    for hour in range(4):
        periods.run_at(60 * hour)
    runs = periods.wm.get_runs(work_id)
    assert [(run.number, run.period, run.output_data["n"]) for run in runs] == [(4, 3, 3), (3, 2, 2)]
    assert runs[0].started_at == runs[0].finished_at == periods.at(180)
    nothing = periods.enqueue(keep_runs=0)
    periods.kit.run_until_idle()
    assert periods.wm.get_runs(nothing) == []


def test_past_runs_go_with_their_work(periods):
    work_id = periods.enqueue()
    periods.run_at(0)
    periods.wm.cancel_work_by_id(work_id)
    periods.wm.prune_work()
    assert periods.wm.get_runs(work_id) == []


def test_the_next_run_times_of_any_work_can_be_asked_for(periods):
    with pytest.raises(WorkNotFound):
        periods.wm.next_run_times("nobody")
    with pytest.raises(InvalidRequest, match="expected count"):
        periods.wm.next_run_times("nobody", 0)
    one_time = periods.wm.enqueue(OneTimeWorkRequest(act, initial_delay=60)).id
    assert periods.wm.next_run_times(one_time) == [periods.at(1)]
    work_id = periods.enqueue(flex_interval=15 * MINUTE)
    assert periods.wm.next_run_times(work_id, 3) == [periods.at(each) for each in (45, 105, 165)]


def test_a_finished_periodic_work_can_begin_again(periods):
    work_id = periods.enqueue(flex_interval=15 * MINUTE)
    periods.run_at(45)
    periods.wm.cancel_work_by_id(work_id)
    again = periods.wm.retry(work_id).id
    assert (periods.next(again), periods.info(again).period_count) == (90, 0)
    assert periods.run_at(90) == 1


def test_a_run_cannot_put_other_works_in_the_place_of_a_periodic_one(periods):
    actions["work"] = lambda worker: worker.replace(workers.add.s(1, 2))
    work_id = periods.enqueue("work")
    periods.run_at(0)
    assert periods.info(work_id).state.name == "ENQUEUED"
    assert periods.info(work_id).error.exc_type == "UnsupportedOperation"


def test_under_the_default_profile_a_second_is_enough(server_kit):
    periods = Periods(server_kit)
    work_id = periods.enqueue(repeat_interval=SECOND)
    server_kit.run_until_idle()
    server_kit.clock.advance(SECOND)
    assert server_kit.run_until_idle() == 1
    with pytest.warns(UserWarning, match="at least 0:00:01"):
        periods.enqueue(repeat_interval=0.5)
    with pytest.raises(InvalidRequest, match="expected flex_interval to be at most the repeat_interval"):
        periods.enqueue(flex_interval=2 * HOUR)
    assert periods.info(work_id).period_count == 2


# -- the kit's driver --------------------------------------------------------------------------------------------------


def test_the_driver_lets_a_period_pass_once(periods, kit):
    work_id = periods.enqueue()
    kit.run_until_idle()
    kit.driver.set_period_delay_met(work_id)
    assert kit.run_until_idle() == 1
    assert kit.run_until_idle() == 0
    assert periods.info(work_id).period_count == 2


def test_the_driver_tells_the_initial_delay_from_the_period(periods, kit):
    work_id = periods.enqueue(initial_delay=HOUR)
    kit.driver.set_period_delay_met(work_id)
    assert kit.run_until_idle() == 0
    kit.driver.set_initial_delay_met(work_id)
    assert kit.run_until_idle() == 1


def test_for_the_driver_an_override_is_a_period(periods, kit):
    work_id = periods.enqueue(initial_delay=HOUR, next_schedule_time_override=periods.at(90))
    kit.driver.set_initial_delay_met(work_id)
    assert kit.run_until_idle() == 0
    kit.driver.set_period_delay_met(work_id)
    assert kit.run_until_idle() == 1


def test_the_driver_leaves_a_backoff_alone(periods, kit):
    actions["work"] = lambda _: Result.retry()
    work_id = periods.enqueue("work")
    kit.run_until_idle()
    kit.driver.set_period_delay_met(work_id)
    assert kit.run_until_idle() == 0


def test_the_driver_refuses_one_time_and_unknown_works(periods, kit):
    one_time = periods.wm.enqueue(OneTimeWorkRequest(act, initial_delay=60)).id
    with pytest.raises(InvalidRequest, match="expected work whose period has passed to be periodic"):
        kit.driver.set_period_delay_met(one_time)
    with pytest.raises(WorkNotFound):
        kit.driver.set_period_delay_met("nobody")
