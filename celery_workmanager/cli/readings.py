"""What nodes read, one a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery_workmanager.cli.screen import Cell, Cells, Column, Screen, clean
from celery_workmanager.readings import Readings
from celery_workmanager.store.leasing import NodeRow

_Facts = Mapping[str, Any]
#: Labels that every node has.
_USUAL = {"os", "arch", "cpus", "hostname"}


def show_readings(screen: Screen, nodes: Sequence[NodeRow], now: int) -> None:
    """What the live nodes that run works read; nothing when none has told."""
    told = {node.name: json.loads(node.facts).get("readings") for node in nodes if node.is_alive(now)}
    rows = [_row(name, Readings.from_json(told[name])) for name in sorted(told) if told[name]]
    if rows:
        screen.say()
        columns = [Column("NODE"), *(Column(each.upper(), may_go=True) for each in _WORDS)]
        screen.table([*columns, Column("LABELS", least=12, may_go=True), Column("OTHERS", least=12, may_go=True)], rows)


def _row(name: str, readings: Readings) -> Cells:
    cells = [_cell(readings, sensor, words) for sensor, words in _WORDS.items()]
    labels = readings["labels"].value if "labels" in readings else None
    own = ", ".join(f"{key}={value}" for key, value in sorted((labels or {}).items()) if key not in _USUAL)
    return [clean(name), *cells, clean(own), clean(_others(readings))]


def _cell(readings: Readings, sensor: str, words: Callable[[_Facts], str]) -> Cell | str:
    if sensor not in readings:
        return ""
    facts = readings[sensor].value
    if facts is None:
        return Cell("unknown", {"fg": "yellow"})
    return Cell(words(facts), {"fg": "red"}) if facts.get("low") else words(facts)


def _network(facts: _Facts) -> str:
    if not facts.get("connected"):
        return "none"
    words = ["metered" if facts.get("metered") else "unmetered"]
    words += ["roaming"] * bool(facts.get("roaming")) + ["not validated"] * (facts.get("validated") is False)
    return ", ".join(words)


def _power(facts: _Facts) -> str:
    percent = facts.get("battery_percent")
    charge = "" if percent is None else f" {percent:g} %"
    return ("charging" if facts.get("charging") else "battery") + charge


def _free(facts: _Facts) -> str:
    percent, size = facts.get("free_percent"), facts.get("free_bytes", 0)
    return f"{size >> 20} MiB free" if percent is None else f"{percent:g} % free"


_WORDS: dict[str, Callable[[_Facts], str]] = {
    "network": _network,
    "power": _power,
    "storage": _free,
    "memory": _free,
    "load": lambda facts: f"{facts.get('load', 0):.0%}",
    "idle": lambda facts: "yes" if facts.get("idle") else "no",
}


def _others(readings: Readings) -> str:
    """Probes and custom constraints: what answers, what is met."""
    found = []
    for sensor, reading in sorted(readings.items()):
        kind, _, name = sensor.partition(":")
        if name:
            is_fine = reading.value is not None and bool(reading.value.get("reachable" if kind == "probe" else "met"))
            found.append(f"{name} {'is unknown' if reading.value is None else 'yes' if is_fine else 'no'}")
    return ", ".join(found)
