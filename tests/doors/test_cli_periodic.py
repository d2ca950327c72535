"""`work periodic`: schedule, next run times, catch-up and the last outcome of each periodic work."""

from __future__ import annotations

from datetime import timedelta

import pytest
from celery.schedules import crontab

from celery_workmanager import CatchUp, ExistingPeriodicWorkPolicy, PeriodicWorkRequest
from celery_workmanager.outcome import Ending
from celery_workmanager.timing import SECOND, moment
from tests.doors.conftest import Shell
from tests.stores import WORKER, end, job, move, put, take_one


@pytest.fixture
def shell(store) -> Shell:
    return Shell(store)


def put_periodic(shell, name, **options):
    request = PeriodicWorkRequest(WORKER, **options)
    shell.manager.enqueue_unique_periodic_work(name, ExistingPeriodicWorkPolicy.KEEP, request)
    return request.id


def test_without_any_it_says_so(shell, store):
    put(store, job("once"))
    answer = shell("periodic")
    assert (answer.code, answer.text) == (1, "No periodic works.\n")
    assert shell("periodic", "--json").json == {"works": [], "next": None}


def test_each_is_shown_with_its_schedule_and_what_comes(shell, store):
    put_periodic(shell, "hourly", repeat_interval=3600, fixed_rate=True, catch_up=CatchUp.ALL)
    put_periodic(shell, "nightly", schedule=crontab(hour=3, minute=30), timezone="Europe/Madrid")
    put(store, job("once", initial_delay=60))
    text = shell("periodic").text
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines] == ["NAME", "hourly", "nightly"]
    assert "every 1:00:00" in text
    assert "30 3 * * * Europe/Madrid" in text
    assert ("ALL" in lines[1], "ONCE" in lines[2]) == (True, True)


def test_the_last_outcome_and_the_next_moments_are_told_to_programs(shell, store):
    work_id = put_periodic(shell, "hourly", repeat_interval=3600, fixed_rate=True)
    began = store.clock.now()
    end(store, take_one(store, work_id), ending=Ending.FAILED)
    (told,) = shell("periodic", "--json", "-n", "2").json["works"]
    assert told["id"] == work_id
    assert told["last_run"]["outcome"] == "FAILED"
    times = [timedelta(hours=hours) for hours in (1, 2)]
    infos = shell.manager.next_run_times(work_id, 2)
    assert told["next_run_times"] == [at.isoformat() for at in infos]
    assert [at - began for at in map(moment, infos)] == [each // timedelta(microseconds=1) for each in times]
    move(store, 60 * SECOND)
    assert "FAILED 1 min ago" in shell("periodic").text


def test_finished_ones_are_left_out_and_pages_follow_each_other(shell):
    ids = [put_periodic(shell, f"work-{number}", repeat_interval=60) for number in range(3)]
    shell.manager.cancel_work_by_id(ids[1])
    page = shell("periodic", "--json", "--limit", "1").json
    assert ([each["id"] for each in page["works"]], page["next"]) == ([ids[0]], ids[0])
    rest = shell("periodic", "--json", "--after", ids[0]).json
    assert ([each["id"] for each in rest["works"]], rest["next"]) == ([ids[2]], None)
    assert f"--after {ids[0]}" in shell("periodic", "--limit", "1").text


def test_a_beat_is_listed_among_the_nodes(shell, store):
    from celery_workmanager.store.leasing import NodeRow

    now = store.clock.now()
    store.register(NodeRow("b", "celerybeat@alpha", "alpha/1/1", 7, 1, now, now + SECOND, '{"kind": "beat"}'))
    assert "beat" in shell("nodes").text.splitlines()[1].split()
