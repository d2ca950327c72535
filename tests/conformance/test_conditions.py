"""Constraints, deadlines and limits of works: kept in the store, shown, updated, and said in Celery's words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain

from celery_workmanager import Constraints, Limit, NetworkType, OneTimeWorkRequest, PeriodicWorkRequest, Rate, Worker
from celery_workmanager.errors import InvalidRequest
from tests.conformance.workers import act, add, app

ASKED = Constraints(required_network_type=NetworkType.UNMETERED, node_labels=("gpu=a100",), reachable=["tcp://db:1"])
LIMIT, RATE = Limit("tenant:{n}", 2), Rate("api", 10, timedelta(milliseconds=1500))
AT = datetime(2031, 1, 1, tzinfo=UTC)


@app.task(base=Worker, shared=False, name="constrained", constraints=ASKED, rate=RATE)
def constrained():
    pass


def test_they_are_kept_and_shown(wm, works):
    request = OneTimeWorkRequest(act, {"n": 1}, constraints=ASKED, deadline=AT, concurrency=LIMIT, rate=RATE)
    wm.enqueue(request)
    info = works.info(request)
    assert (info.constraints, info.deadline, info.concurrency, info.rate) == (ASKED, AT, LIMIT, RATE)
    shown = json.loads(json.dumps(info.to_dict()))
    assert shown["constraints"] == {
        "required_network_type": "UNMETERED",
        "node_labels": ["gpu=a100"],
        "reachable": ["tcp://db:1"],
    }
    assert shown["deadline"] == AT.isoformat()
    assert shown["rate"] == {"key": "api", "n": 10, "per": 1.5}


def test_works_without_them_have_none(wm, works):
    request = works.request()
    wm.enqueue(request)
    info = works.info(request)
    assert info.constraints == Constraints.NONE
    assert (info.deadline, info.concurrency, info.rate) == (None, None, None)


def test_a_deadline_counts_from_the_first_enqueue_also_after_an_update(wm, works, kit):
    request = OneTimeWorkRequest(act, constraints=ASKED, deadline=60)
    wm.enqueue(request)
    began = works.info(request).enqueued_at
    assert works.info(request).deadline == began + timedelta(seconds=60)
    kit.clock.advance(timedelta(seconds=30))
    wm.update_work(OneTimeWorkRequest(act, id=request.id, constraints=ASKED, deadline=90))
    assert works.info(request).deadline == began + timedelta(seconds=90)


def test_an_update_takes_them_over_and_away(wm, works):
    request = OneTimeWorkRequest(act, {"n": 1}, constraints=ASKED, deadline=60, concurrency=LIMIT, rate=RATE)
    wm.enqueue(request)
    charging = Constraints(requires_charging=True)
    wm.update_work(OneTimeWorkRequest(act, id=request.id, constraints=charging))
    info = works.info(request)
    assert (info.constraints, info.deadline, info.concurrency, info.rate) == (charging, None, None, None)


def test_those_of_periodic_work(wm, works):
    request = PeriodicWorkRequest(
        act, {"n": 1}, repeat_interval=timedelta(hours=1), constraints=ASKED, deadline=60, concurrency=LIMIT, rate=RATE
    )
    wm.enqueue(request)
    info = works.info(request)
    assert (info.constraints, info.deadline) == (ASKED, timedelta(seconds=60))
    assert json.loads(json.dumps(info.to_dict()))["deadline"] == 60.0


def test_they_are_options_of_calls(works, kit):
    limit = Limit("sums of {y}", 2)
    result = add.apply_async((1,), {"y": 2}, constraints=ASKED, deadline=60, concurrency=limit, rate=RATE)
    info = works.info(result.id)
    assert (info.constraints, info.concurrency, info.rate) == (ASKED, limit, RATE)
    in_json = add.apply_async((1,), constraints=ASKED.to_json(), rate=RATE.to_json())
    assert works.info(in_json.id).constraints == ASKED
    with pytest.raises(InvalidRequest, match="expected constraints to be Constraints"):
        add.apply_async((1,), constraints="gpu")


def test_they_are_options_of_a_canvas(works, kit):
    result = chain(
        add.s(1).set(constraints=ASKED), add.s().set(deadline=AT, concurrency=LIMIT, rate=RATE)
    ).apply_async()
    last, first = works.info(result.id), works.info(result.parent.id)
    assert (first.constraints, first.deadline) == (ASKED, None)
    assert (last.constraints, last.deadline, last.rate) == (Constraints.NONE, AT, RATE)


def test_they_are_attributes_of_a_task_for_its_calls(works, kit):
    info = works.info(constrained.delay().id)
    assert (info.constraints, info.rate) == (ASKED, RATE)
    other = Constraints(requires_charging=True)
    assert works.info(constrained.apply_async(constraints=other).id).constraints == other


def test_running_a_finished_work_again_asks_for_the_same(wm, works):
    request = OneTimeWorkRequest(act, {"n": 1}, constraints=ASKED, concurrency=LIMIT, rate=RATE)
    wm.enqueue(request)
    wm.cancel_work_by_id(request.id)
    (again,) = wm.retry(request.id).ids
    assert works.info(again).constraints == ASKED


@pytest.mark.parametrize("given", [{}, {"n": None}, {"n": True}, {"n": 1.5}])
def test_the_input_has_what_the_key_of_a_limit_names(wm, given):
    with pytest.raises(InvalidRequest, match="expected input 'n' to be a str or an int, for the key 'tenant:{n}'"):
        wm.enqueue(OneTimeWorkRequest(act, given, concurrency=LIMIT))


def triggered() -> OneTimeWorkRequest:
    return OneTimeWorkRequest(act, constraints=Constraints(content_uri_triggers=["/data/in"]))


def test_the_profile_limits_unfinished_works_with_content_triggers(wm, works):
    wm.enqueue([triggered() for _ in range(7)])
    bait = OneTimeWorkRequest(act, tags={"content_uri_triggers"})  # names it, and has none
    last = triggered()
    wm.enqueue([bait, last])
    with pytest.raises(InvalidRequest, match=r"unfinished works with content triggers to be at most 8 .*got: 10"):
        wm.begin_with(triggered()).then(triggered()).enqueue()
    wm.cancel_work_by_id(last.id)
    wm.enqueue(triggered())


def test_servers_have_any_number_of_them(server_kit):
    assert len(server_kit.work_manager.enqueue([triggered() for _ in range(9)]).ids) == 9
