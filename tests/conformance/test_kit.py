"""The testing kit itself: the clock, single runs, the driver, crashes, and the fixtures of the plugin."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_workmanager import ExistingWorkPolicy, Result, State, StopReason, WorkManager
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance.workers import actions, app, ran

pytest_plugins = ["pytester"]
SECONDS = timedelta(seconds=1)


def test_the_kit_stands_in_for_the_apps_manager_until_it_is_closed():
    before = getattr(app, "workmanager", None)
    with WorkManagerTestKit(app) as kit:
        assert app.workmanager is kit.work_manager
        assert WorkManager.get_instance(app) is kit.work_manager
    assert getattr(app, "workmanager", None) is before


def test_a_kit_without_an_app_has_the_shared_tasks():
    with WorkManagerTestKit() as kit:
        assert "shared" in kit.app.tasks


def test_the_clock_stands_still_until_it_is_advanced(kit, works):
    now = works.now
    assert works.now == now
    kit.clock.advance(timedelta(hours=1))
    assert works.now == now + timedelta(hours=1)
    with pytest.raises(ValueError, match="expected duration"):
        kit.clock.advance(-SECONDS)
    with pytest.raises(ValueError, match="expected duration"):
        kit.clock.advance(5)


def test_one_run_at_a_time_or_one_work_in_particular(wm, works, kit):
    first, second, third = (works.request(n=n) for n in (1, 2, 3))
    wm.enqueue([first, second, third])
    assert kit.run_one()
    assert ran == [1]
    assert kit.run_one(third.id)
    assert ran == [1, 3]
    assert not kit.run_one(third.id)
    assert not kit.run_one("nobody")
    assert kit.run_until_idle() == 1
    assert not kit.run_one()


def test_a_work_that_is_not_due_is_not_run_even_by_its_id(works, kit):
    work_id = works.enqueue(initial_delay=60)
    assert not kit.run_one(work_id)
    assert works.state(work_id) == "ENQUEUED"


def test_a_run_inside_a_run_is_refused(works, kit):
    actions["nested"] = lambda _: kit.run_until_idle()
    work_id = works.enqueue("nested")
    kit.run_until_idle()
    assert "a run inside a run" in works.info(work_id).error.message


# -- the driver ---------------------------------------------------------------------------------------------------


def test_the_driver_lets_an_initial_delay_have_passed(works, kit):
    work_id = works.enqueue(initial_delay=timedelta(days=9))
    kit.driver.set_initial_delay_met(work_id)
    assert kit.run_until_idle() == 1
    assert works.state(work_id) == "SUCCEEDED"


def test_the_driver_remembers_it_for_a_work_that_is_blocked(wm, works, kit):
    a, b = works.request(initial_delay=60), works.request(initial_delay=60)
    wm.begin_with(a).then(b).enqueue()
    kit.driver.set_initial_delay_met(b.id)
    kit.driver.set_initial_delay_met(a.id)
    assert kit.run_until_idle() == 2


def test_the_driver_does_not_shorten_a_backoff(works, kit):
    actions["retry"] = lambda _: Result.retry()
    work_id = works.enqueue("retry")
    kit.run_until_idle()
    kit.driver.set_initial_delay_met(work_id)
    assert kit.run_until_idle() == 0


def test_the_driver_refuses_what_makes_no_sense(works, kit):
    work_id = works.enqueue()
    with pytest.raises(LookupError, match="id of a stored work, got: 'nobody'"):
        kit.driver.set_initial_delay_met("nobody")
    with pytest.raises(LookupError):
        kit.driver.stop_running_work_with_reason("nobody", StopReason.QUOTA)
    with pytest.raises(ValueError, match="running"):
        kit.driver.stop_running_work_with_reason(work_id, StopReason.QUOTA)
    for reason in (StopReason.NOT_STOPPED, None, 5):
        with pytest.raises(ValueError, match="expected reason"):
            kit.driver.stop_running_work_with_reason(work_id, reason)


# -- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "runs", "before", "after", "interruptions", "attempts"),
    [
        ("claim", 0, "ENQUEUED", "ENQUEUED", 0, 0),
        ("start", 0, "RUNNING", "ENQUEUED", 1, 1),
        ("run", 1, "RUNNING", "ENQUEUED", 1, 1),
        ("finish", 1, "SUCCEEDED", "SUCCEEDED", 0, 1),
    ],
)
def test_a_crash_at_any_point_loses_nothing(wm, works, kit, point, runs, before, after, interruptions, attempts):
    a, b = works.request(n="a"), works.request(n="b")
    wm.begin_with(a).then(b).enqueue()
    kit.crash_after(point)
    kit.run_until_idle()
    assert (ran.count("a"), works.state(a)) == (runs, before)
    assert not kit.run_one(a.id)  # a new node may not take what the dead one holds
    kit.lose_node()
    info = works.info(a)
    assert (info.state.name, info.interruptions, info.run_attempt_count) == (after, interruptions, attempts)
    assert info.stop_reason is (StopReason.UNKNOWN if interruptions else StopReason.NOT_STOPPED)
    kit.clock.advance(30 * SECONDS)
    kit.run_until_idle()
    assert works.states(a, b) == ["SUCCEEDED", "SUCCEEDED"]
    assert ran.count("b") == 1


def test_a_work_that_kills_its_process_ten_times_is_given_up(works, kit):
    work_id = works.enqueue()
    for _ in range(10):
        assert works.state(work_id) == "ENQUEUED"
        kit.crash_after("start")
        kit.run_until_idle()
        kit.lose_node()
        kit.clock.advance(timedelta(hours=5))
    info = works.info(work_id)
    assert (info.state.name, info.error.exc_type, info.interruptions) == ("FAILED", "WorkerLost", 10)


def test_a_lost_node_takes_nothing_of_what_has_ended_with_it(works, kit):
    done = works.enqueue()
    kit.run_until_idle()
    kit.lose_node()
    assert works.info(done).state is State.SUCCEEDED
    waiting = works.enqueue()
    kit.run_until_idle()
    assert works.info(waiting).state is State.SUCCEEDED


def test_a_crash_point_has_a_name(kit):
    with pytest.raises(ValueError, match="one of claim, start, run, finish, got: 'lunch'"):
        kit.crash_after("lunch")


def test_a_unique_name_survives_a_crash_of_its_work(wm, works, kit):
    old, new = works.request(), works.request()
    wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, old)
    kit.crash_after("run")
    kit.run_until_idle()
    assert not wm.enqueue_unique_work("name", ExistingWorkPolicy.KEEP, new).applied


# -- the fixtures --------------------------------------------------------------------------------------------------

PROJECT = """
from celery import Celery
import pytest
from celery_workmanager import OneTimeWorkRequest, Worker, WorkManager

app = Celery("shop", broker="memory://")
WorkManager(app)

@app.task(base=Worker)
def double(n):
    return {"n": n * 2}

@pytest.fixture
def work_app():
    return app

@pytest.fixture
def work_kit_options():
    return {"profile": "android"}

def test_it_runs(work_kit, work_manager, work_driver, work_clock):
    assert app.workmanager is work_manager is work_kit.work_manager
    assert work_manager.settings.profile == "android"
    operation = work_manager.enqueue(OneTimeWorkRequest(double, {"n": 4}, initial_delay=60))
    work_driver.set_initial_delay_met(operation.id)
    assert work_clock is work_kit.clock
    assert work_kit.run_until_idle() == 1
    assert work_manager.get_work_info_by_id(operation.id).output_data["n"] == 8

def test_each_test_has_an_empty_store(work_kit, work_manager):
    assert work_manager.get_work_infos_by_tag(double.name) == []
"""


def test_a_users_project_has_the_fixtures(pytester: pytest.Pytester):
    pytester.makepyfile(PROJECT)
    plugins = ["-p", "celery_workmanager.pytest_plugin"] if not _is_installed() else []
    pytester.runpytest_subprocess("-q", *plugins).assert_outcomes(passed=2)


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(each.name == "workmanager" for each in entry_points(group="pytest11"))
