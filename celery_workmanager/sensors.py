"""The sensors of a node: read in the background, so that whoever asks for the readings is answered at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from celery_workmanager import node_facts
from celery_workmanager.constraints import Constraints
from celery_workmanager.custom_constraints import custom_constraint
from celery_workmanager.declared import declared_facts
from celery_workmanager.errors import ConfigurationError
from celery_workmanager.green import off_loop
from celery_workmanager.probes import probe
from celery_workmanager.readings import Reading, Readings
from celery_workmanager.readings_file import ReadingsFile
from celery_workmanager.sensor import Read, Sensor
from celery_workmanager.settings import Settings
from celery_workmanager.timing import as_datetime

__all__ = ("MOST_WATCHED", "Sensors")

logger = logging.getLogger(__name__)

#: Probes and custom constraints that are read at most: each has a thread.
MOST_WATCHED = 64
#: Seconds between two looks at who uses the CPUs, at least: every process is looked at.
_LOAD_INTERVAL = 5.0
_FILE, _VALIDATION = "file", "validation"


class Sensors:
    """What one node reads of itself, with what its operator declares.

    `now` gives microseconds since 1970. `on_change` is called, in a thread of ours, when constraints may be met
    otherwise. Raises ConfigurationError.
    """

    def __init__(
        self, settings: Settings, now: Callable[[], int], on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._now, self._on_change = settings, now, on_change
        self._labels = Reading(node_facts.labels(settings.node_labels or {}), now())
        self._declared = settings.node_readings or {}
        self._words: Mapping[str, Any] = {}
        self._news, self._closed = threading.Event(), threading.Event()
        self._sensors = {name: self._sensor(name, make) for name, make in self._standard().items()}
        self._watched: dict[str, Sensor] = {}
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="workmanager-sensors", daemon=True)
        self._readings = Readings.NONE
        self._readings = self._composed()

    def start(self) -> None:
        """Begin to read; until the first readings, moments later, nothing is known."""
        for sensor in self._sensors.values():
            sensor.start()
        self._thread.start()

    def readings(self) -> Readings:
        """What was read last; never waits."""
        return self._readings

    def watch(self, sets: Iterable[Constraints]) -> None:
        """Read the probes and custom constraints that these ask for, and no others any more."""
        makes: dict[str, Callable[[], Read]] = {}
        for asked in sets:
            makes |= {f"probe:{target}": partial(self._allowed_probe, target) for target in asked.reachable}
            makes |= {f"custom:{name}": partial(self._custom, name) for name in asked.custom}
        with self._lock:
            for name in self._watched.keys() - makes.keys():
                self._watched.pop(name).stop()
            fresh = [name for name in makes if name not in self._watched]
            room = MOST_WATCHED - len(self._watched)
            self._refused = set(fresh[room:])
            for name in fresh[:room]:
                self._watched[name] = self._sensor(name, makes[name])
                self._watched[name].start()
        self._news.set()

    def close(self) -> None:
        """Stop reading. Doesn't wait for what hangs."""
        self._closed.set()
        self._news.set()
        with self._lock:
            for sensor in (*self._sensors.values(), *self._watched.values()):
                sensor.stop()

    # -- what there is to read ------------------------------------------------------------------------------------

    def _standard(self) -> dict[str, Callable[[], Read]]:
        own = self._settings
        network = partial(node_facts.network, own.network_interfaces, own.network_metered, own.network_roaming)
        makes: dict[str, Callable[[], Read]] = {
            "network": lambda: network,
            "power": lambda: node_facts.power,
            "storage": lambda: off_loop(partial(node_facts.storage, own.storage_paths)),
            "memory": lambda: node_facts.memory,
            "load": node_facts.LoadOfOthers,
        }
        if own.network_probe is not None:
            makes[_VALIDATION] = partial(self._probe, own.network_probe)
        if own.readings_file is not None:
            makes[_FILE] = lambda: off_loop(ReadingsFile(own.readings_file or ""))
        return makes

    def _allowed_probe(self, target: str) -> Read:
        hosts, host = self._settings.probe_hosts, urlsplit(target).hostname
        if hosts is not None and host not in hosts:
            raise ConfigurationError(f"expected a host of workmanager_probe_hosts, got: {host!r}")
        return self._probe(target)

    def _probe(self, target: str) -> Read:
        return partial(probe, target, self._settings.probe_timeout)

    def _custom(self, name: str) -> Read:
        return custom_constraint(name, self._settings.custom_constraints or {})

    def _sensor(self, name: str, make: Callable[[], Read]) -> Sensor:
        own = self._settings
        is_probe = name.startswith("probe:") or name == _VALIDATION
        interval = own.probe_interval if is_probe else own.sensor_interval
        return Sensor(
            name,
            make,
            interval=max(interval, _LOAD_INTERVAL) if name == "load" else interval,
            patience=own.sensor_timeout + (own.probe_timeout if is_probe else 0),
            now=self._now,
            changed=self._news.set,
        )

    # -- putting it together --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.clear()
            try:
                readings = self._composed()
                before, self._readings = self._readings, readings
                if not readings.judges_like(before):
                    self._on_change()
            except Exception:
                logger.exception("Readings of this node can't be put together")
            # Also without news: a sensor may have stopped answering, and hours pass.
            self._news.wait(self._settings.sensor_interval)

    def _composed(self) -> Readings:
        with self._lock:
            found = {name: sensor.reading for name, sensor in (self._sensors | self._watched).items()}
            found |= dict.fromkeys(self._refused, Reading(None, note=f"more than {MOST_WATCHED} are asked for"))
        found["labels"] = self._labels
        found["network"] = self._network(found["network"], found.pop(_VALIDATION, None))
        found["idle"] = self._idle(found["load"])
        self._declare(found, self._declared, "declared in the settings")
        if _FILE in found:
            facts = found[_FILE].value
            # A file that can't be read leaves things as they are.
            self._words = self._words if facts is None else facts["words"]
            self._declare(found, self._words, f"declared in {self._settings.readings_file}")
        return Readings({name: self._judged(name, reading) for name, reading in found.items()})

    def _network(self, reading: Reading, validation: Reading | None) -> Reading:
        if reading.value is None:
            return reading
        is_connected = reading.value["connected"]
        is_valid = validation is None or bool((validation.value or {}).get("reachable"))
        return Reading({**reading.value, "validated": is_connected and is_valid}, reading.at, reading.note)

    def _idle(self, load: Reading) -> Reading:
        hours, now = self._settings.idle_hours, self._now()
        if hours and not any(window.contains(as_datetime(now)) for window in hours):
            return Reading({"in_hours": False}, now)
        return load if load.value is None else Reading({"load": load.value["load"]}, load.at)

    def _declare(self, found: dict[str, Reading], words: Mapping[str, Any], note: str) -> None:
        for name, facts in declared_facts("reading", words).items():
            read = found[name].value if name in found else None
            value = None if facts is None else {**(read or {}), **facts}
            found[name] = Reading(value, self._now(), note)

    def _judged(self, name: str, reading: Reading) -> Reading:
        if reading.value is None:
            return reading
        before = self._readings.get(name, reading).value
        return Reading(self._settings.thresholds.judged(name, reading.value, before), reading.at, reading.note)
