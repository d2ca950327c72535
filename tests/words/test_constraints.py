"""Constraints: defaults, keys, checks, and the requests that carry them."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from kombu.utils.json import dumps as kombu_dumps

from celery_workmanager.builders import OneTimeWorkRequestBuilder, PeriodicWorkRequestBuilder
from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.errors import ConstraintsWarning, InvalidRequest
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.policies import BackoffPolicy, NetworkType, OutOfQuotaPolicy
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.time_windows import TimeWindow
from celery_workmanager.wire import request_from_json, request_to_json

ALL = Constraints(
    required_network_type=NetworkType.UNMETERED,
    requires_charging=True,
    requires_battery_not_low=True,
    requires_device_idle=True,
    requires_storage_not_low=True,
    content_uri_triggers=(ContentUriTrigger("/data/in", trigger_for_descendants=True), ContentUriTrigger("/a/*.csv")),
    trigger_content_update_delay=timedelta(seconds=5),
    trigger_content_max_delay=timedelta(minutes=1),
    requires_memory_not_low=True,
    node_labels=("gpu=a100", "cpus>=8"),
    time_windows=(TimeWindow("22:00", "06:00", "Europe/Madrid", ["fri"]),),
    reachable=("tcp://db:5432", "https://example.org/health?x=1"),
    custom=("maintenance", "queue_short:5"),
)

PLUGGED_IN = Constraints(requires_charging=True)


def test_none_asks_for_nothing():
    assert not Constraints.NONE
    assert Constraints() == Constraints.NONE
    assert Constraints.NONE.key == ""
    assert Constraints.NONE.to_json() == {}
    assert Constraints.NONE.required_network_type is NetworkType.NOT_REQUIRED


def test_networks_have_androids_numbers():
    assert [(kind.name, kind.value) for kind in NetworkType] == [
        ("NOT_REQUIRED", 0),
        ("CONNECTED", 1),
        ("UNMETERED", 2),
        ("NOT_ROAMING", 3),
        ("METERED", 4),
        ("TEMPORARILY_UNMETERED", 5),
    ]


def test_everything_survives_json_pickle_and_kombu():
    assert ALL
    assert Constraints.from_json(json.loads(json.dumps(ALL.to_json()))) == ALL
    assert Constraints.from_json(json.loads(kombu_dumps(ALL))) == ALL
    assert pickle.loads(pickle.dumps(ALL)) == ALL
    assert hash(pickle.loads(pickle.dumps(ALL))) == hash(ALL)


def test_they_tell_themselves():
    assert str(Constraints.NONE) == ""
    assert str(ALL) == (
        "network unmetered, charging, battery not low, device idle, storage not low, changes of /a/*.csv, "
        "changes of /data/in, memory not low, cpus>=8, gpu=a100, fri 22:00-06:00 Europe/Madrid, "
        "an answer from https://example.org/health?x=1, an answer from tcp://db:5432, custom maintenance, "
        "custom queue_short:5"
    )


def test_order_and_spelling_are_of_no_account():
    one = Constraints(node_labels=("cpus >= 8", "gpu = a100", "region in us, eu"), reachable=["tcp://b:1", "tcp://a:1"])
    other = Constraints(
        node_labels=["region in eu,us", "gpu=a100", "cpus>=8", "gpu=a100"], reachable={"tcp://a:1", "tcp://b:1"}
    )
    assert one == other
    assert one.key == other.key


def test_the_key_holds_what_nodes_judge_and_no_triggers():
    triggered = Constraints(content_uri_triggers=[ContentUriTrigger("/data")], trigger_content_max_delay=60)
    assert triggered
    assert triggered.key == ""
    judged = replace(ALL, content_uri_triggers=(), trigger_content_update_delay=None, trigger_content_max_delay=None)
    assert ALL.key == judged.key
    assert Constraints.from_json(json.loads(ALL.key)) == judged


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("requires_charging", 1, "requires_charging to be a bool"),
        ("required_network_type", "wifi", "required_network_type to be a NetworkType"),
        ("required_network_type", 1, "required_network_type to be a NetworkType"),
        ("node_labels", "gpu", "node_labels to be a collection"),
        ("node_labels", ["gpu=>a"], "node label to be such as 'gpu=a100'"),
        ("node_labels", [5], "node label to be a non-empty str"),
        ("time_windows", ["22:00"], "time window to be a TimeWindow"),
        ("reachable", ["db:5432"], "reachable to be 'tcp://host:port', 'http://…'"),
        ("reachable", ["tcp://db"], "reachable to be 'tcp://host:port'"),
        ("reachable", ["tcp://db:99999"], "reachable to be 'tcp://host:port'"),
        ("reachable", ["ftp://db:21"], "reachable to be 'tcp://host:port'"),
        ("reachable", ["http://"], "reachable to be 'tcp://host:port'"),
        ("reachable", ["https://me:secret@host/"], "reachable to be .*without a password"),
        ("reachable", ["tcp://db:5432/x"], "reachable to be 'tcp://host:port'"),
        ("custom", ["5th"], "custom to be a name of letters"),
        ("content_uri_triggers", ["data/in"], "content trigger's uri to be an absolute path"),
        ("content_uri_triggers", [{"path": "/x"}], "content trigger to be a ContentUriTrigger"),
        ("trigger_content_update_delay", -1, "trigger_content_update_delay to be zero or more"),
    ],
)
def test_what_cannot_be_is_refused(field, value, expected):
    with pytest.raises(InvalidRequest, match=f"expected {expected}.*got: "):
        Constraints(**{field: value})


def test_unknown_names_in_json_are_refused():
    with pytest.raises(InvalidRequest, match=r"expected constraints to be some of .*got: \['charging'\]"):
        Constraints.from_json({"charging": True})
    with pytest.raises(InvalidRequest, match="expected constraints to be Constraints, got: 'charging'"):
        OneTimeWorkRequest("x", constraints="charging")  # type: ignore[arg-type]


# -- requests ------------------------------------------------------------------------------------------------------


def test_requests_and_builders_carry_conditions():
    at = datetime(2030, 1, 1, tzinfo=UTC)
    direct = OneTimeWorkRequest(
        "x",
        id="1",
        constraints=PLUGGED_IN,
        deadline=at,
        concurrency=Limit("tenant:{tenant}", 2),
        rate=Rate("api", 10, timedelta(minutes=1)),
    )
    built = (
        OneTimeWorkRequestBuilder("x")
        .set_id("1")
        .set_constraints(PLUGGED_IN)
        .set_deadline(at)
        .set_concurrency("tenant:{tenant}", 2)
        .set_rate("api", 10, 60)
        .build()
    )
    assert built == direct
    assert request_from_json("x", json.loads(json.dumps(request_to_json(direct)))) == direct
    assert (direct.constraints, direct.deadline) == (PLUGGED_IN, at)
    bare = OneTimeWorkRequest("x")
    assert bare.constraints is Constraints.NONE
    assert (bare.deadline, bare.concurrency, bare.rate) == (None, None, None)


def test_a_deadline_of_periodic_work_is_a_duration():
    built = PeriodicWorkRequestBuilder("x", 60).set_constraints(PLUGGED_IN).set_deadline(30).build()
    assert built.constraints == PLUGGED_IN
    assert built.deadline == timedelta(seconds=30)
    with pytest.raises(InvalidRequest, match="expected deadline to be a duration"):
        PeriodicWorkRequest("x", repeat_interval=60, deadline=datetime(2030, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]


def test_idle_with_a_backoff_of_ones_own_is_refused():
    idle = Constraints(requires_device_idle=True)
    assert OneTimeWorkRequest("x", constraints=idle).constraints == idle
    with pytest.raises(InvalidRequest, match="expected backoff to be left out with requires_device_idle"):
        OneTimeWorkRequest("x", constraints=idle, backoff_delay=60)
    with pytest.raises(InvalidRequest, match="left out with requires_device_idle"):
        PeriodicWorkRequest("x", repeat_interval=60, constraints=idle, backoff_policy=BackoffPolicy.LINEAR)


@pytest.mark.parametrize(
    "asked",
    [
        {"requires_charging": True},
        {"requires_battery_not_low": True},
        {"requires_device_idle": True},
        {"content_uri_triggers": ["/data"]},
        {"time_windows": [TimeWindow("08:00", "09:00")]},
    ],
)
def test_expedited_work_waits_for_no_moment(asked):
    policy = OutOfQuotaPolicy.DROP_WORK_REQUEST
    fine = Constraints(required_network_type=NetworkType.CONNECTED, requires_storage_not_low=True, node_labels=("gpu",))
    assert OneTimeWorkRequest("x", constraints=fine, expedited=policy).expedited is policy
    with pytest.raises(InvalidRequest, match=rf"expected expedited work to be without .*got: '{next(iter(asked))}'"):
        OneTimeWorkRequest("x", constraints=Constraints(**asked), expedited=policy)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"node_labels": ["gpu=a100", "gpu=h100"]}, "no node can meet 'gpu=a100' and 'gpu=h100'"),
        ({"node_labels": ["gpu", "!gpu"]}, "no node can meet '!gpu' and 'gpu'"),
        ({"node_labels": ["cpus>=8", "cpus<4"]}, "no node can meet 'cpus<4' and 'cpus>=8'"),
        ({"node_labels": ["zone in a,b", "zone not in a,b,c"]}, "no node can meet"),
        ({"requires_device_idle": True, "requires_charging": True}, "is rarely met"),
        ({"trigger_content_max_delay": 5}, "mean nothing without content_uri_triggers"),
        (
            {"content_uri_triggers": ["/d"], "trigger_content_max_delay": 5, "trigger_content_update_delay": 6},
            r"trigger_content_update_delay \(0:00:06\) is longer",
        ),
    ],
)
def test_what_can_hardly_be_meant_is_warned_of_at_the_callers_line(asked, sentence):
    with pytest.warns(ConstraintsWarning, match=sentence) as caught:
        OneTimeWorkRequest("x", constraints=Constraints(**asked))
    assert caught[0].filename == __file__


def test_a_deadline_before_the_delay_is_warned_of():
    with pytest.warns(ConstraintsWarning, match=r"deadline \(0:00:05\) comes before the initial delay \(0:01:00\)"):
        OneTimeWorkRequest("x", constraints=PLUGGED_IN, deadline=5, initial_delay=60)
    OneTimeWorkRequest("x", constraints=PLUGGED_IN, deadline=61, initial_delay=60)
    # That of periodic work counts from the moment of each run.
    PeriodicWorkRequest("x", repeat_interval=60, constraints=PLUGGED_IN, deadline=5, initial_delay=60)


def test_what_can_be_met_is_not_warned_of():
    rules = ("cpus>=8", "cpus<9", "gpu", "gpu!=a100", "zone not in a,b", "zone!=c", "!old", "arch in arm64,x86_64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OneTimeWorkRequest("x", constraints=Constraints(node_labels=rules))


# -- time windows --------------------------------------------------------------------------------------------------


def test_a_window_may_go_past_midnight_and_begins_on_its_days():
    window = TimeWindow(time(22), "06:00", "Europe/Madrid", ["fri"])
    friday_night = datetime(2026, 1, 2, 22, 30, tzinfo=UTC)  # 23:30 in Madrid
    assert window.contains(friday_night)
    assert window.contains(friday_night + timedelta(hours=6))
    assert not window.contains(friday_night + timedelta(hours=7))
    assert not window.contains(friday_night - timedelta(hours=2))
    assert not window.contains(friday_night + timedelta(days=1))
    assert str(window) == "fri 22:00-06:00 Europe/Madrid"


def test_a_window_within_a_day_ends_before_its_end():
    window = TimeWindow("08:00", "09:30:15")
    day = datetime(2026, 1, 2, tzinfo=UTC)
    inside = [timedelta(hours=8), timedelta(hours=9, minutes=30, seconds=14)]
    outside = [timedelta(hours=7, minutes=59), timedelta(hours=9, minutes=30, seconds=15)]
    assert [window.contains(day + each) for each in (*inside, *outside)] == [True, True, False, False]
    assert TimeWindow.of(window.to_json()) == window


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("25:00", "06:00"), "time window's start to be a time of day such as '22:00'"),
        (("22:00", 6), "time window's end to be a time of day"),
        (("22:00", time(6, tzinfo=UTC)), "time window's end to be a time of day without a time zone"),
        (("22:00", "22:00"), "time window to be of some length"),
        (("22:00", "06:00", "Mars/Olympus"), "timezone to be the IANA name"),
        (("22:00", "06:00", "UTC", ["friday"]), "time window's days to be several of mon, tue"),
        (("22:00", "06:00", "UTC", "fri"), "time window's days to be several of mon, tue"),
    ],
)
def test_a_window_that_cannot_be_is_refused(parts, expected):
    with pytest.raises(InvalidRequest, match=f"expected {expected}"):
        TimeWindow(*parts)
