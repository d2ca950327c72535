"""What the operating system tells, as it is here; and what is made of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from celery_workmanager import node_facts
from celery_workmanager.errors import InvalidSetting
from celery_workmanager.node_facts import LABELS_VARIABLE, CpuTimes, LoadOfOthers


def test_storage_is_that_of_the_tightest_path(tmp_path):
    (tmp_path / "folder").mkdir()
    found = node_facts.storage([str(tmp_path), str(tmp_path / "folder"), "/"])
    tightest = min((shutil.disk_usage(path) for path in (tmp_path, "/")), key=lambda usage: usage.free / usage.total)
    assert found["free_percent"] == pytest.approx(100 * tightest.free / tightest.total, abs=1)
    assert 0 < found["free_bytes"] <= tightest.total


def test_a_path_that_does_not_exist_has_no_storage(tmp_path):
    with pytest.raises(FileNotFoundError):
        node_facts.storage([str(tmp_path), str(tmp_path / "missing")])


def test_memory_is_that_of_the_machine(tmp_path):
    found = node_facts.memory(tmp_path)
    assert 0 < found["free_percent"] <= 100
    assert 0 < found["free_bytes"] <= psutil.virtual_memory().total


def test_memory_is_that_of_the_container_when_its_limit_is_nearer(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("950000\n")
    (tmp_path / "memory.stat").write_text("anon 800000\ninactive_file 50000\n")
    assert node_facts.memory(tmp_path) == {"free_percent": 10.0, "free_bytes": 100_000}
    (tmp_path / "memory.max").write_text("max\n")
    assert node_facts.memory(tmp_path)["free_bytes"] > 1_000_000


def test_power_is_that_of_this_machine():
    found = node_facts.power()
    battery = psutil.sensors_battery()
    if battery is None:
        assert found == {"charging": True, "battery_percent": None}
    else:
        assert found["charging"] is battery.power_plugged


def test_loopback_is_no_connection():
    loopback = [name for name, state in psutil.net_if_stats().items() if name.startswith("lo") and state.isup]
    assert node_facts.network(loopback) == {"connected": False}
    assert node_facts.network(["missing0"]) == {"connected": False}


def test_the_interface_of_the_default_route_counts():
    found = node_facts.network()
    if not found["connected"]:
        pytest.skip("without a network")
    names = found["interfaces"]
    assert set(names) <= set(psutil.net_if_stats())
    assert node_facts.network(names)["interfaces"] == names
    assert (found["metered"], found["roaming"]) == (False, False)
    declared = node_facts.network((), [*names, "wwan0"], True)
    assert (declared["metered"], declared["roaming"]) == (True, True)
    assert node_facts.network((), ["wwan0"])["metered"] is False


def test_the_load_is_that_of_others():
    before = CpuTimes(total=100, busy=50, own=10)
    assert CpuTimes(total=110, busy=56, own=12).load_of_others(before) == 0.4
    assert CpuTimes(total=110, busy=56, own=20).load_of_others(before) == 0  # clocks of processes are coarser
    assert before.load_of_others(before) is None


def test_what_a_child_uses_is_our_own():
    before = CpuTimes.read()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = CpuTimes.read()
    assert after.own - before.own >= 0.25
    assert after.busy - before.busy >= 0.2


@pytest.mark.parametrize("kernel_tells", [True, False])
def test_children_of_children_are_found(monkeypatch, kernel_tells):
    def refuse(_path):
        raise FileNotFoundError

    if not kernel_tells:
        monkeypatch.setattr(Path, "iterdir", refuse)
    grandchild = "import sys; print(1, flush=True); sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = {each.pid for each in node_facts._descendants(psutil.Process())}
        assert found >= {process.pid, *(each.pid for each in psutil.Process(process.pid).children())}
        assert len(psutil.Process(process.pid).children()) == 1
        process.communicate("")


def test_the_load_takes_two_readings():
    load = LoadOfOthers()
    assert load() is None
    found = None
    while found is None:  # until the system's clock of CPUs has ticked
        found = load()
    assert 0 <= found["load"] <= 1


def test_labels_come_from_the_machine_the_settings_and_the_environment(monkeypatch):
    monkeypatch.setenv(LABELS_VARIABLE, " region=eu , gpu=h100,")
    found = node_facts.labels({"gpu": "a100", "cpus": "64"})
    assert (found["gpu"], found["region"], found["cpus"]) == ("h100", "eu", "64")
    assert {"os", "arch", "hostname"} <= set(found)


@pytest.mark.parametrize("text", ["gpu", "gpu=", "g pu=x", "=x", "gpu=a100;b"])
def test_labels_that_cannot_be_read_are_refused(monkeypatch, text):
    monkeypatch.setenv(LABELS_VARIABLE, text)
    with pytest.raises(InvalidSetting, match=f"environment variable {LABELS_VARIABLE} to be 'gpu=a100,region=eu', got"):
        node_facts.labels({})
