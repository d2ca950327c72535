"""Readings: declared in words, low by thresholds, and as JSON."""

from __future__ import annotations

import json

import pytest

from celery_workmanager.errors import InvalidRequest, InvalidSetting
from celery_workmanager.policies import NetworkType
from celery_workmanager.readings import Reading, Readings
from celery_workmanager.settings import Settings
from celery_workmanager.thresholds import Thresholds
from celery_workmanager.time_windows import TimeWindow


def test_words_declare_readings():
    readings = Readings.of(
        5,
        charging=False,
        battery_percent=12,
        storage_free_percent=3,
        memory_free_percent=50,
        network=NetworkType.METERED,
        load=0.2,
        labels={"gpu": "a100", "cpus": 8},
        reachable={"tcp://db:5432": True},
        custom={"maintenance": False},
    )
    facts = {name: reading.value for name, reading in readings.items()}
    assert facts == {
        "power": {"charging": False, "battery_percent": 12, "low": True, "expected": "more than 15 %"},
        "storage": {"free_percent": 3, "low": True, "expected": "at least 5 % free"},
        "memory": {"free_percent": 50, "low": False, "expected": "at least 10 % available"},
        "network": {"connected": True, "validated": True, "metered": True},
        "load": {"load": 0.2},
        "idle": {"load": 0.2, "idle": True, "expected": "others to use less than 30 % of the CPUs"},
        "labels": {"gpu": "a100", "cpus": "8"},
        "probe:tcp://db:5432": {"reachable": True},
        "custom:maintenance": {"met": False},
    }
    assert {reading.at for reading in readings.values()} == {5}


def test_later_words_go_over_earlier_ones():
    before = Readings.of(network="UNMETERED", battery_percent=80)
    after = Readings.of(base=before, metered=True, charging=False)
    assert after["network"].value == {"connected": True, "validated": True, "metered": True}
    assert (after["power"].value or {})["battery_percent"] == 80
    assert before["network"].value == {"connected": True, "validated": True, "metered": False}
    unknown = Readings.of(base=after, unknown=["network", "probe:tcp://db:1"])
    assert unknown["network"].value is unknown["probe:tcp://db:1"].value is None
    assert Readings.of(base=unknown, network="NOT_REQUIRED")["network"].value == {
        "connected": False,
        "validated": False,
    }


def test_the_last_word_about_idleness_counts():
    idle = Readings.of(base=Readings.of(load=0.9), idle=True)
    assert (idle["idle"].value or {})["idle"]
    assert not (Readings.of(base=idle, load=0.9)["idle"].value or {})["idle"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"chargin": True}, r"reading to be one of .*\(did you mean 'charging'\?\), got: 'chargin'"),
        ({"charging": 1}, "reading 'charging' to be true or false, got: 1"),
        ({"battery_percent": 101}, "reading 'battery_percent' to be a number from 0 to 100"),
        ({"battery_percent": True}, "reading 'battery_percent' to be a number from 0 to 100"),
        ({"storage_free_percent": None}, "reading 'storage_free_percent' to be a number from 0 to 100"),
        ({"storage_free_percent": float("nan")}, "reading 'storage_free_percent' to be a number from 0 to 100"),
        ({"storage_free_bytes": -1}, "reading 'storage_free_bytes' to be a number >= 0"),
        ({"network": "wifi"}, r"reading 'network' to be a NetworkType \(NOT_REQUIRED, CONNECTED"),
        ({"labels": ["gpu"]}, "reading 'labels' to be a mapping of labels"),
        ({"labels": {"g pu": "x"}}, "reading 'labels' to be with names of letters"),
        ({"reachable": {"db:1": True}}, "reading 'reachable' to be 'tcp://host:port'"),
        ({"reachable": {"tcp://db:1": 1}}, "reading 'reachable' to be true or false"),
        ({"custom": ["x"]}, "reading 'custom' to be a mapping to true or false"),
        ({"unknown": ["wifi"]}, "reading 'unknown' to be some of network, power"),
        ({"unknown": "power"}, "reading 'unknown' to be names of sensors"),
    ],
)
def test_unknown_words_and_impossible_values_are_refused(words, expected):
    with pytest.raises(InvalidRequest, match=f"expected {expected}"):
        Readings.of(**words)


def test_readings_survive_json_and_are_immutable():
    readings = Readings({**Readings.of(7, charging=True), "load": Reading(None, 8, "no answer")})
    told = json.loads(json.dumps(readings.to_json()))
    assert Readings.from_json(told) == readings
    assert Readings.from_json({name: each | {"later": 1} for name, each in told.items()}) == readings
    with pytest.raises(TypeError):
        readings["load"] = Reading({})  # type: ignore[index]


def test_figures_and_moments_make_no_difference_to_constraints():
    before = Readings.of(1, battery_percent=80, storage_free_percent=50)
    assert Readings.of(2, battery_percent=70, storage_free_percent=40).judges_like(before)
    assert not Readings.of(2, battery_percent=10, storage_free_percent=40).judges_like(before)
    assert not Readings.of(2, battery_percent=70, unknown=["storage"]).judges_like(before)


# -- thresholds ----------------------------------------------------------------------------------------------------


def course(sensor: str, fact: str, values: list[float | None], verdict: str = "low", **marks: float) -> list[bool]:
    """What is said of `values`, one after the other."""
    thresholds, before, said = Thresholds(**marks), None, []  # type: ignore[arg-type]
    for value in values:
        before = thresholds.judged(sensor, {fact: value}, before)
        said.append(before[verdict])
    return said


def test_what_was_low_must_pass_the_mark_by_more():
    assert course("power", "battery_percent", [16, 15, 16, 18, 18.5, 16]) == [False, True, True, True, False, False]
    assert course("storage", "free_percent", [5, 4.9, 5.9, 6, 5]) == [False, True, True, False, False]
    assert course("memory", "free_percent", [9, 11, 12], hysteresis=0.1) == [True, False, False]
    assert course("storage", "free_bytes", [99, 110, 120], storage_low_bytes=100) == [True, True, False]


def test_what_is_idle_may_do_a_little_more():
    assert course("idle", "load", [0.3, 0.29, 0.35, 0.36, 0.3], "idle") == [False, True, True, False, False]


def test_without_hysteresis_the_mark_alone_decides():
    assert course("power", "battery_percent", [15, 15.1, 15], hysteresis=0) == [True, False, True]


def test_a_mark_stays_within_reach():
    assert course("power", "battery_percent", [90, 100], battery_low_percent=95) == [True, False]
    assert course("memory", "free_percent", [90, 100], memory_low_percent=95) == [True, False]


def test_no_battery_is_not_low():
    assert course("power", "battery_percent", [None]) == [False]


# -- settings ------------------------------------------------------------------------------------------------------


def test_settings_make_the_thresholds():
    assert Settings().thresholds == Thresholds()
    settings = Settings(storage_low_percent=2, threshold_hysteresis=0, storage_low_bytes=5)
    assert settings.thresholds == Thresholds(storage_low_percent=2, storage_low_bytes=5, hysteresis=0)


def test_settings_take_what_an_operator_declares():
    hours = {"start": "22:00", "end": "06:00", "timezone": "Europe/Madrid"}
    settings = Settings.from_mapping(
        {
            "workmanager_idle_hours": [hours],
            "workmanager_network_metered": ["wwan0"],
            "workmanager_node_labels": {"gpu": "a100", "cpus": 8},
            "workmanager_node_readings": {"charging": False},
            "workmanager_custom_constraints": {"maintenance": "shop.constraints:Maintenance"},
        }
    )
    assert settings.idle_hours == (TimeWindow("22:00", "06:00", "Europe/Madrid"),)
    assert settings.network_metered == ("wwan0",)
    assert settings.node_labels == {"gpu": "a100", "cpus": "8"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("node_readings", {"charging": "no"}, "true or false"),
        ("node_readings", {"chargin": False}, "one of .*did you mean 'charging'"),
        ("node_readings", [1], r"a mapping such as \{'charging': False\}"),
        ("node_labels", {"g pu": "x"}, "with names of letters"),
        ("network_metered", "eth0", "a bool, or names of network interfaces"),
        ("network_probe", "example.org", "'tcp://host:port'"),
        ("storage_paths", "/data", "a collection of names"),
        ("storage_low_percent", 101, "a number from 0 to 100"),
        ("threshold_hysteresis", float("nan"), "a number from 0 to 10"),
        ("idle_hours", ["22:00"], "a TimeWindow"),
        ("custom_constraints", {"x": "shop.constraints.X"}, "a class or its path, 'module:Class'"),
        ("custom_constraints", {"5": "a:B"}, "a name of letters"),
        ("custom_constraints", ["a:B"], "a mapping of names to classes"),
        ("sensor_interval", 0, "0.01 to 3600 seconds"),
    ],
)
def test_bad_settings_are_refused(name, value, expected):
    with pytest.raises(InvalidSetting, match=f"expected setting workmanager_{name} to be {expected}"):
        Settings(**{name: value})
