"""The sensors of a real node: known soon, never waited for, declared over, and unknown when they fail or hang."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from celery_workmanager.constraints import Constraints
from celery_workmanager.errors import InvalidSetting
from celery_workmanager.judgement import unmet
from celery_workmanager.policies import NetworkType
from celery_workmanager.readings import Reading
from celery_workmanager.sensors import MOST_WATCHED, Sensors
from celery_workmanager.settings import Settings
from celery_workmanager.time_windows import TimeWindow
from celery_workmanager.timing import moment

NOON = moment(datetime(2026, 1, 2, 12, 0, tzinfo=UTC))
PATIENCE = 20.0
BETWEEN = threading.Event()


def eventually(holds: Callable[[], Any]) -> None:
    """Wait until it holds."""
    until = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < until, "it never held"
        BETWEEN.wait(0.005)


@contextmanager
def sensing(*watched: Constraints, on_change: Callable[[], None] = lambda: None, **settings: Any) -> Iterator[Sensors]:
    sensors = Sensors(Settings(**{"sensor_interval": 0.02, **settings}), lambda: NOON, on_change)
    sensors.start()
    sensors.watch(watched)
    try:
        yield sensors
    finally:
        sensors.close()


def reading(sensors: Sensors, name: str) -> Reading:
    return sensors.readings().get(name, Reading(None))


def value(sensors: Sensors, name: str, fact: str) -> Any:
    return (reading(sensors, name).value or {}).get(fact)


class Gate:
    """A custom constraint that hangs until it is opened."""

    opened = threading.Event()

    def read(self):
        self.opened.wait()
        return 1

    def is_met(self, reading):
        return reading == 1


class Below:
    """Meets with what is smaller than its argument."""

    value: Any = 5

    def __init__(self, argument="10"):
        self.mark = int(argument)

    def read(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def is_met(self, reading):
        return reading < self.mark


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    Gate.opened = threading.Event()
    Below.value = 5
    yield
    Gate.opened.set()


CUSTOM = {"gate": Gate, "below": f"{__name__}:Below"}


def test_before_the_first_readings_nothing_is_known_but_labels_and_what_is_declared():
    sensors = Sensors(Settings(node_readings={"charging": False}), lambda: NOON)
    known = {name for name, each in sensors.readings().items() if each.value is not None}
    assert known == {"labels", "power"}
    assert reading(sensors, "storage").note == "not read yet"


def test_a_real_node_is_read_soon():
    told = threading.Event()
    with sensing(on_change=told.set) as sensors:
        eventually(lambda: {"network", "power", "storage", "memory"} <= _known(sensors))
        assert told.wait(PATIENCE)
        readings = sensors.readings()
        json.dumps(readings.to_json())
        asked = Constraints(node_labels=("os", "cpus>=1"), requires_charging=value(sensors, "power", "charging"))
        assert unmet(asked, readings, NOON) == ()
        assert value(sensors, "network", "validated") is value(sensors, "network", "connected")


def write(file: Path, text: str) -> None:
    """Write it at once, as a reader sees it."""
    fresh = file.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(file)


def _known(sensors: Sensors) -> set[str]:
    return {name for name, each in sensors.readings().items() if each.value is not None}


def test_a_sensor_that_hangs_is_unknown_and_nobody_waits_for_it():
    asked = Constraints(custom=["gate"])
    with sensing(asked, custom_constraints=CUSTOM, sensor_timeout=0.1) as sensors:
        eventually(lambda: "no answer for more than 0.1 s" in reading(sensors, "custom:gate").note)
        (one,) = unmet(asked, sensors.readings(), NOON)
        assert one.text == "custom constraint gate is met: not known to the node (no answer for more than 0.1 s)"
        eventually(lambda: "power" in _known(sensors))
        Gate.opened.set()
        eventually(lambda: value(sensors, "custom:gate", "met"))
    sensors.close()


def test_a_custom_constraint_is_judged_by_its_class_with_its_argument():
    told = threading.Event()
    asked = Constraints(custom=["below", "below:3"])
    with sensing(asked, on_change=told.set, custom_constraints=CUSTOM) as sensors:
        eventually(lambda: {"custom:below", "custom:below:3"} <= _known(sensors))
        (one,) = unmet(asked, sensors.readings(), NOON)
        assert one.text == "custom constraint below:3 is met: expected it to be met, the node read 5"
        Below.value = 2
        eventually(lambda: unmet(asked, sensors.readings(), NOON) == ())
        Below.value = OSError("disk gone")
        eventually(lambda: reading(sensors, "custom:below").note == "OSError: disk gone")
        eventually(lambda: len(unmet(asked, sensors.readings(), NOON)) == 2)


@pytest.mark.parametrize(
    ("name", "kind", "note"),
    [
        ("belwo", Below, "UnknownConstraint: expected a known custom constraint, got: 'belwo'; did you mean 'below'?"),
        ("below", dict, "ConfigurationError: expected custom constraint 'below' to have read()"),
        ("below", "nowhere.at_all:Below", "ModuleNotFoundError: No module named 'nowhere'"),
        ("below:x", Below, "ValueError: invalid literal for int()"),
    ],
)
def test_a_custom_constraint_that_cannot_be_made_is_unknown_and_says_why(name, kind, note):
    with sensing(Constraints(custom=[name]), custom_constraints={"below": kind}) as sensors:
        eventually(lambda: reading(sensors, f"custom:{name}").note.startswith(note))


def test_a_package_brings_constraints_along(tmp_path, monkeypatch):
    info = tmp_path / "shop_constraints-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-constraints\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[celery_workmanager.constraints]\nopen_shop = shop_constraints:OpenShop\n")
    (tmp_path / "shop_constraints.py").write_text(
        "class OpenShop:\n"
        "    def read(self): return {'open': True}\n"
        "    def is_met(self, reading): return reading['open']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with sensing(Constraints(custom=["open_shop"])) as sensors:
        eventually(lambda: value(sensors, "custom:open_shop", "met"))
        assert value(sensors, "custom:open_shop", "reading") == {"open": True}


def test_only_what_is_asked_for_is_watched():
    with sensing(Constraints(custom=["below"]), custom_constraints=CUSTOM) as sensors:
        eventually(lambda: "custom:below" in _known(sensors))
        sensors.watch([Constraints(custom=["below:7"])])
        eventually(lambda: "custom:below:7" in _known(sensors) and "custom:below" not in sensors.readings())


def test_there_is_a_most_of_what_is_watched():
    many = Constraints(custom=[f"below:{number}" for number in range(MOST_WATCHED + 2)])
    with sensing(many, custom_constraints=CUSTOM) as sensors:
        eventually(lambda: len([name for name in _known(sensors) if name.startswith("custom:")]) == MOST_WATCHED)
        notes = [each.note for each in sensors.readings().values() if each.value is None]
        assert notes.count(f"more than {MOST_WATCHED} are asked for") == 2


def test_storage_of_a_missing_path_is_unknown(tmp_path):
    with sensing(storage_paths=[str(tmp_path / "missing")]) as sensors:
        eventually(lambda: "FileNotFoundError" in reading(sensors, "storage").note)
        (one,) = unmet(Constraints(requires_storage_not_low=True), sensors.readings(), NOON)
        assert one.text.startswith("storage is not low: not known to the node (FileNotFoundError: ")


def test_a_connection_is_validated_by_a_probe():
    told = {"network": "CONNECTED"}
    with sensing(network_probe="tcp://127.0.0.1:1", node_readings=told, probe_interval=0.02) as sensors:
        eventually(lambda: value(sensors, "network", "validated") is True)  # declared
    with sensing(network_probe="tcp://127.0.0.1:1", node_readings={"connected": True}) as sensors:
        eventually(lambda: value(sensors, "network", "validated") is False)
        asked = Constraints(required_network_type=NetworkType.CONNECTED)
        assert "not validated" in unmet(asked, sensors.readings(), NOON)[0].text


def test_hours_in_which_a_node_is_never_idle():
    night, day = (TimeWindow("22:00", "06:00"),), (TimeWindow("11:00", "13:00"),)
    asked = Constraints(requires_device_idle=True)
    sensors = Sensors(Settings(idle_hours=night), lambda: NOON)
    assert unmet(asked, sensors.readings(), NOON)[0].text.endswith("the node read hours in which it is never idle")
    assert reading(Sensors(Settings(idle_hours=day), lambda: NOON), "idle").value is None
    assert unmet(asked, Sensors(Settings(node_readings={"load": 0}), lambda: NOON).readings(), NOON) == ()


def test_a_file_goes_over_the_settings_and_is_read_again_when_it_changes(tmp_path):
    file = tmp_path / "readings.json"

    with sensing(node_readings={"battery_percent": 50, "idle": True}, readings_file=str(file)) as sensors:
        eventually(lambda: "file" in _known(sensors))
        assert value(sensors, "power", "battery_percent") == 50
        write(file, '{"battery_percent": 12, "charging": false}')
        eventually(lambda: value(sensors, "power", "charging") is False)
        assert value(sensors, "power", "low") is True
        assert value(sensors, "idle", "idle") is True
        assert reading(sensors, "power").note == f"declared in {file}"
        write(file, '{"battery_percent": 12, "chargin": false}')
        eventually(lambda: "did you mean 'charging'" in reading(sensors, "file").note)
        assert value(sensors, "power", "charging") is False  # the last that could be read
        write(file, "{")
        eventually(lambda: "to be JSON such as" in reading(sensors, "file").note)
        file.unlink()
        eventually(lambda: value(sensors, "power", "battery_percent") == 50)


def test_hysteresis_reaches_over_readings(tmp_path):
    file = tmp_path / "readings.json"
    write(file, '{"storage_free_percent": 4}')
    with sensing(readings_file=str(file)) as sensors:
        eventually(lambda: value(sensors, "storage", "low") is True)
        write(file, '{"storage_free_percent": 5.5}')
        eventually(lambda: value(sensors, "storage", "free_percent") == 5.5)
        assert value(sensors, "storage", "low") is True
        write(file, '{"storage_free_percent": 6.0}')
        eventually(lambda: value(sensors, "storage", "low") is False)


def test_labels_of_the_environment_must_be_readable(monkeypatch):
    monkeypatch.setenv("WORKMANAGER_NODE_LABELS", "gpu")
    with pytest.raises(InvalidSetting, match="WORKMANAGER_NODE_LABELS"):
        Sensors(Settings(), lambda: NOON)


def test_closing_ends_the_threads_but_those_that_hang():
    with sensing(Constraints(custom=["gate", "below"]), custom_constraints=CUSTOM) as sensors:
        eventually(lambda: "custom:below" in _known(sensors))

    def left() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("workmanager-sensor")}

    eventually(lambda: left() <= {"workmanager-sensor-custom:gate"})


GREEN = """
from gevent import monkey
monkey.patch_all()
import gevent, time
from celery_workmanager.constraints import Constraints
from celery_workmanager.green import is_green
from celery_workmanager.sensors import Sensors
from celery_workmanager.settings import Settings
assert is_green()
settings = Settings(sensor_interval=0.02, storage_paths=(".", "/missing"), readings_file="missing.json")
sensors = Sensors(settings, lambda: 0)
sensors.start()
sensors.watch([Constraints(reachable=["tcp://127.0.0.1:1"])])
with gevent.Timeout(20):
    while True:
        found = sensors.readings()
        is_known = all(found[name].value is not None for name in ("power", "memory", "network", "file"))
        if is_known and "FileNotFoundError" in found["storage"].note and found.get("probe:tcp://127.0.0.1:1"):
            break
        time.sleep(0.01)
sensors.close()
print("read")
"""


def test_greenlets_read_too():
    pytest.importorskip("gevent")
    done = subprocess.run([sys.executable, "-c", GREEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "read\n", done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_probes_no_host_that_its_operator_does_not_allow():
    allowed, other = "tcp://127.0.0.1:1", "tcp://localhost:1"
    asked = Constraints(reachable=[allowed, other])
    with sensing(asked, probe_hosts=["127.0.0.1"], network_probe=other) as sensors:
        eventually(lambda: value(sensors, f"probe:{allowed}", "reachable") is False)
        eventually(lambda: "workmanager_probe_hosts" in reading(sensors, f"probe:{other}").note)
        assert reading(sensors, f"probe:{other}").value is None
        # What the operator has probed for himself is his own affair.
        assert value(sensors, "network", "validated") is False
