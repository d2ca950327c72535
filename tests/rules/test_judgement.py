"""Which constraints a node doesn't meet, in which order, and what is said of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from celery_workmanager.constraints import Constraints
from celery_workmanager.judgement import unmet
from celery_workmanager.policies import NetworkType
from celery_workmanager.readings import Readings
from celery_workmanager.thresholds import Thresholds, size_text
from celery_workmanager.time_windows import TimeWindow
from celery_workmanager.timing import moment
from celery_workmanager.work import StopReason

NOON = moment(datetime(2026, 1, 2, 12, 0, tzinfo=UTC))  # a Friday
DB = "tcp://db:5432"
EVERYTHING = Constraints(
    required_network_type=NetworkType.UNMETERED,
    requires_charging=True,
    requires_battery_not_low=True,
    requires_device_idle=True,
    requires_storage_not_low=True,
    requires_memory_not_low=True,
    node_labels=("gpu=a100",),
    time_windows=(TimeWindow("11:00", "13:00"),),
    reachable=(DB,),
    custom=("maintenance:night",),
)
FINE = Readings.of(
    charging=True,
    battery_percent=80,
    storage_free_percent=50,
    memory_free_percent=50,
    idle=True,
    network=NetworkType.UNMETERED,
    labels={"gpu": "a100"},
    reachable={DB: True},
    custom={"maintenance:night": True},
)


def test_a_node_that_meets_everything():
    assert unmet(EVERYTHING, FINE, NOON) == ()


def test_nothing_is_asked():
    assert unmet(Constraints.NONE, Readings.NONE, NOON) == ()
    assert unmet(Constraints(content_uri_triggers=["/data"]), Readings.NONE, NOON) == ()


def test_androids_order_decides_which_reason_comes_first():
    bad = Readings.of(
        base=FINE,
        charging=False,
        battery_percent=12,
        storage_free_percent=3,
        memory_free_percent=1.5,
        idle=False,
        network=NetworkType.METERED,
        validated=False,
        labels={"gpu": "h100"},
        reachable={DB: False},
        custom={"maintenance:night": False},
    )
    found = unmet(EVERYTHING, bad, moment(datetime(2026, 1, 2, 13, 0, tzinfo=UTC)))
    assert [(each.constraint, each.reason) for each in found] == [
        ("charging", StopReason.CONSTRAINT_CHARGING),
        ("battery_not_low", StopReason.CONSTRAINT_BATTERY_NOT_LOW),
        ("storage_not_low", StopReason.CONSTRAINT_STORAGE_NOT_LOW),
        ("network_unmetered", StopReason.CONSTRAINT_CONNECTIVITY),
        ("device_idle", StopReason.CONSTRAINT_DEVICE_IDLE),
        ("memory_not_low", StopReason.DEVICE_STATE),
        ("label gpu=a100", StopReason.DEVICE_STATE),
        ("time_window", StopReason.DEVICE_STATE),
        (f"reachable {DB}", StopReason.DEVICE_STATE),
        ("custom maintenance:night", StopReason.DEVICE_STATE),
    ]
    unmetered = "a connection that is not metered"
    assert [each.text.removesuffix(" (declared)") for each in found] == [
        "the node is charging: expected a power supply, the node read none",
        "the battery is not low: expected more than 15 %, the node read 12 %",
        "storage is not low: expected at least 5 % free, the node read 3 %",
        f"the network is unmetered: expected {unmetered}, the node read a connection, not validated, metered",
        "the node is idle: expected it to be idle, the node read that it is busy",
        "memory is not low: expected at least 10 % available, the node read 1.5 %",
        "the node has labels gpu=a100: expected gpu=a100, the node read gpu=h100",
        "it is within the hours: expected 11:00-13:00 UTC, the node read fri 13:00 UTC",
        f"{DB} is reachable: expected an answer, the node read none",
        "custom constraint maintenance:night is met: expected it to be met, the node read that it isn't",
    ]
    assert [each.sensor for each in found[-3:]] == [None, f"probe:{DB}", "custom:maintenance:night"]


def test_what_is_not_known_is_not_met():
    found = unmet(EVERYTHING, Readings.NONE, NOON)
    assert len(found) == 9  # hours are known
    assert found[0].text == "the node is charging: not known to the node (nothing reads it)"
    hanging = Readings.of(base=FINE, unknown=["storage"])
    (one,) = unmet(EVERYTHING, hanging, NOON)
    assert one.text == "storage is not low: not known to the node (declared unknown)"


CONNECTED = {"connected": True, "validated": True, "metered": False, "roaming": False}


@pytest.mark.parametrize(
    ("kind", "words", "is_met"),
    [
        (NetworkType.CONNECTED, {}, True),
        (NetworkType.CONNECTED, {"validated": False}, False),
        (NetworkType.CONNECTED, {"connected": False}, False),
        (NetworkType.UNMETERED, {"validated": False}, True),  # as on Android
        (NetworkType.UNMETERED, {"metered": True}, False),
        (NetworkType.UNMETERED, {"connected": False}, False),
        (NetworkType.TEMPORARILY_UNMETERED, {}, True),
        (NetworkType.TEMPORARILY_UNMETERED, {"metered": True}, False),
        (NetworkType.NOT_ROAMING, {}, True),
        (NetworkType.NOT_ROAMING, {"roaming": True}, False),
        (NetworkType.NOT_ROAMING, {"connected": False}, False),
        (NetworkType.METERED, {}, False),
        (NetworkType.METERED, {"metered": True}, True),
        (NetworkType.METERED, {"metered": True, "connected": False}, False),
    ],
)
def test_networks_are_judged_as_on_android(kind, words, is_met):
    readings = Readings.of(**{**CONNECTED, **words})
    assert (unmet(Constraints(required_network_type=kind), readings, NOON) == ()) is is_met


def test_whether_it_is_metered_must_be_known():
    readings = Readings.of(connected=True, validated=True)
    for kind in (NetworkType.UNMETERED, NetworkType.METERED, NetworkType.NOT_ROAMING):
        assert len(unmet(Constraints(required_network_type=kind), readings, NOON)) == 1


def test_without_a_battery_it_is_not_low_and_without_a_supply_it_does_not_charge():
    asked = Constraints(requires_charging=True, requires_battery_not_low=True)
    assert unmet(asked, Readings.of(charging=True, battery_percent=None), NOON) == ()
    (one,) = unmet(asked, Readings.of(battery_percent=80), NOON)  # whether it charges isn't known
    assert one.constraint == "charging"


def test_one_of_several_windows_is_enough():
    asked = Constraints(time_windows=[TimeWindow("08:00", "09:00"), TimeWindow("12:00", "12:30")])
    assert unmet(asked, Readings.NONE, NOON) == ()
    (one,) = unmet(asked, Readings.NONE, NOON + 30 * 60 * 1_000_000)
    assert "expected 08:00-09:00 UTC or 12:00-12:30 UTC" in one.text


def test_a_node_without_labels_lacks_those_that_are_asked_for():
    asked = Constraints(node_labels=("gpu", "!old"))
    (one,) = unmet(asked, Readings.of(labels={}), NOON)
    assert one.text.startswith("the node has labels gpu: expected gpu, the node read no gpu")


def test_bytes_are_told_in_words():
    low = Readings.of(
        thresholds=Thresholds(storage_low_bytes=500 * 1024**2), storage_free_percent=40, storage_free_bytes=1_000_000
    )
    (one,) = unmet(Constraints(requires_storage_not_low=True), low, NOON)
    assert "expected at least 5 % free and 500 MiB, the node read 40 %, 976.6 KiB" in one.text
    sizes = [0, 1, 1023, 1024, 1024**3, 5 * 1024**5]
    assert [size_text(size) for size in sizes] == ["0 bytes", "1 bytes", "1023 bytes", "1 KiB", "1 GiB", "5120 TiB"]


def test_a_busy_node_says_how_busy():
    asked = Constraints(requires_device_idle=True)
    (one,) = unmet(asked, Readings.of(load=0.5), NOON)
    assert one.text.startswith(
        "the node is idle: expected others to use less than 30 % of the CPUs, the node read 50 %"
    )
    assert unmet(asked, Readings.of(load=0.1), NOON) == ()
