"""Which constraints a node does not meet, given what it read. Pure.

Source of the order and of the rules: WorkManager, its ConstraintControllers: charging, battery, storage, network; then
what only the platform judges there, and ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from celery_workmanager.constraints import Constraints
from celery_workmanager.node_labels import LabelRule, parse_label_rule
from celery_workmanager.policies import NetworkType
from celery_workmanager.readings import Reading, Readings
from celery_workmanager.thresholds import size_text
from celery_workmanager.time_windows import DAYS, TimeWindow
from celery_workmanager.timing import as_datetime
from celery_workmanager.work import StopReason

__all__ = ("Unmet", "unmet")

_Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unmet:
    """A constraint that a node doesn't meet."""

    #: Its name: ``charging``, ``storage_not_low``, ``label gpu=a100``, ``reachable tcp://…`` …
    constraint: str
    #: With which a run is stopped that loses it.
    reason: StopReason
    #: A sentence: what was expected, and what was read.
    text: str
    #: The sensor that was asked (`Readings`); None: the clock.
    sensor: str | None


def unmet(constraints: Constraints, readings: Readings, now: int) -> tuple[Unmet, ...]:
    """What of `constraints` isn't met by `readings` at `now` (microseconds), the stop reason to report first.

    What isn't known is not met. Content triggers are no part of it.
    """
    at = as_datetime(now)
    return tuple(found for demand in _demands(constraints, at) if (found := demand.judged(readings)) is not None)


@dataclass(frozen=True, slots=True)
class _Demand:
    """One thing that is asked of one sensor; None: of the clock."""

    constraint: str
    reason: StopReason
    words: str
    sensor: str | None
    is_met: Callable[[_Facts], bool]
    expected: Callable[[_Facts], str]
    read: Callable[[_Facts], str]

    def judged(self, readings: Readings) -> Unmet | None:
        reading = _CLOCK if self.sensor is None else readings.get(self.sensor, _NO_SENSOR)
        facts = reading.value
        if facts is None:
            why = f" ({reading.note})" if reading.note else ""
            return Unmet(self.constraint, self.reason, f"{self.words}: not known to the node{why}", self.sensor)
        if self.is_met(facts):
            return None
        text = f"{self.words}: expected {self.expected(facts)}, the node read {self.read(facts)}"
        text += f" ({reading.note})" if reading.note else ""
        return Unmet(self.constraint, self.reason, text, self.sensor)


_NO_SENSOR = Reading(None, note="nothing reads it")
_CLOCK = Reading({})


def _demands(asked: Constraints, at: datetime) -> Iterator[_Demand]:
    """What is asked, in the order in which stop reasons are reported."""
    for field, demand in _ANDROIDS:
        if getattr(asked, field):
            yield _NETWORKS[asked.required_network_type] if demand is None else demand
    if asked.requires_memory_not_low:
        yield _MEMORY
    for text in asked.node_labels:
        yield _label(parse_label_rule(text))
    if asked.time_windows:
        yield _windows(asked.time_windows, at)
    for target in asked.reachable:
        yield _ours(f"reachable {target}", f"{target} is reachable", f"probe:{target}", "reachable", "an answer")
    for name in asked.custom:
        yield _ours(f"custom {name}", f"custom constraint {name} is met", f"custom:{name}", "met", "it to be met")


def _free(facts: _Facts) -> str:
    percent, size = facts.get("battery_percent", facts.get("free_percent")), facts.get("free_bytes")
    known = [] if percent is None else [f"{percent:g} %"]
    return ", ".join(known if size is None else [*known, size_text(size)])


def _not_low(constraint: str, reason: StopReason, words: str, sensor: str) -> _Demand:
    return _Demand(
        constraint,
        reason,
        words,
        sensor,
        lambda facts: facts.get("low") is False,
        lambda facts: str(facts.get("expected", "it not to be low")),
        _free,
    )


def _idle_read(facts: _Facts) -> str:
    load = facts.get("load")
    read = "that it is busy" if load is None else f"{100 * load:g} %"
    return "hours in which it is never idle" if facts.get("in_hours") is False else read


_CHARGING = _Demand(
    "charging",
    StopReason.CONSTRAINT_CHARGING,
    "the node is charging",
    "power",
    lambda facts: facts.get("charging") is True,
    lambda _: "a power supply",
    lambda facts: "none" if facts.get("charging") is False else "nothing of it",
)
_BATTERY = _not_low(
    "battery_not_low",
    StopReason.CONSTRAINT_BATTERY_NOT_LOW,
    "the battery is not low",
    "power",
)
_STORAGE = _not_low("storage_not_low", StopReason.CONSTRAINT_STORAGE_NOT_LOW, "storage is not low", "storage")
_MEMORY = _not_low("memory_not_low", StopReason.DEVICE_STATE, "memory is not low", "memory")
_IDLE = _Demand(
    "device_idle",
    StopReason.CONSTRAINT_DEVICE_IDLE,
    "the node is idle",
    "idle",
    lambda facts: facts.get("idle") is True,
    lambda facts: str(facts.get("expected", "it to be idle")),
    _idle_read,
)


def _network(kind: NetworkType, expected: str, **facts: bool) -> _Demand:
    name = kind.name.lower()
    return _Demand(
        f"network_{name}",
        StopReason.CONSTRAINT_CONNECTIVITY,
        f"the network is {name.replace('_', ' ')}",
        "network",
        lambda read: all(read.get(fact) is value for fact, value in {"connected": True, **facts}.items()),
        lambda _: expected,
        _network_read,
    )


def _network_read(facts: _Facts) -> str:
    if not facts.get("connected"):
        return "no connection"
    words = [
        name if facts.get(name) else f"not {name}" for name in ("validated", "metered", "roaming") if name in facts
    ]
    return ", ".join(["a connection", *words])


_NOT_METERED = "a connection that is not metered"
_NETWORKS = {
    NetworkType.CONNECTED: _network(NetworkType.CONNECTED, "a validated connection", validated=True),
    NetworkType.UNMETERED: _network(NetworkType.UNMETERED, _NOT_METERED, metered=False),
    NetworkType.TEMPORARILY_UNMETERED: _network(NetworkType.TEMPORARILY_UNMETERED, _NOT_METERED, metered=False),
    NetworkType.NOT_ROAMING: _network(NetworkType.NOT_ROAMING, "a connection that is not roaming", roaming=False),
    NetworkType.METERED: _network(NetworkType.METERED, "a metered connection", metered=True),
}
#: None: which network it is says the field.
_ANDROIDS = (
    ("requires_charging", _CHARGING),
    ("requires_battery_not_low", _BATTERY),
    ("requires_storage_not_low", _STORAGE),
    ("required_network_type", None),
    ("requires_device_idle", _IDLE),
)


def _label(rule: LabelRule) -> _Demand:
    return _Demand(
        f"label {rule}",
        StopReason.DEVICE_STATE,
        f"the node has labels {rule}",
        "labels",
        rule.is_met,
        lambda _: str(rule),
        lambda labels: f"{rule.key}={labels[rule.key]}" if rule.key in labels else f"no {rule.key}",
    )


def _windows(windows: tuple[TimeWindow, ...], at: datetime) -> _Demand:
    return _Demand(
        "time_window",
        StopReason.DEVICE_STATE,
        "it is within the hours",
        None,
        lambda _: any(window.contains(at) for window in windows),
        lambda _: " or ".join(map(str, windows)),
        lambda _: _wall_clock(at, windows[0].timezone),
    )


def _wall_clock(at: datetime, timezone: str) -> str:
    local = at.astimezone(ZoneInfo(timezone))
    return f"{DAYS[local.weekday()]} {local:%H:%M} {timezone}"


def _ours(constraint: str, words: str, sensor: str, fact: str, expected: str) -> _Demand:
    return _Demand(
        constraint,
        StopReason.DEVICE_STATE,
        words,
        sensor,
        lambda facts: facts.get(fact) is True,
        lambda _: expected,
        lambda facts: str(facts.get("why", "none") if fact == "reachable" else facts.get("reading", "that it isn't")),
    )
