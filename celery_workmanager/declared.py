"""The words in which readings are declared: in settings, in an override file, and in the testing kit.

``charging``, ``battery_percent`` (None: no battery), ``network`` (a NetworkType or its name; ``NOT_REQUIRED``: none),
``connected``, ``validated``, ``metered``, ``roaming``, ``storage_free_percent``, ``storage_free_bytes``,
``memory_free_percent``, ``load``, ``idle``, ``labels`` (a mapping), ``reachable`` and ``custom`` (mappings to
booleans), and ``unknown`` (names of sensors).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery_workmanager.constraints import check_custom, check_target
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.node_labels import check_labels
from celery_workmanager.policies import NetworkType

__all__ = ("SENSORS", "declared_facts")

#: The sensors of every node, beside ``probe:URL`` and ``custom:NAME``.
SENSORS = ("network", "power", "storage", "memory", "load", "idle", "labels")

Facts = dict[str, Any]

_NETWORKS: dict[NetworkType, Facts] = {
    NetworkType.NOT_REQUIRED: {"connected": False, "validated": False},
    NetworkType.CONNECTED: {"connected": True, "validated": True},
    NetworkType.UNMETERED: {"connected": True, "validated": True, "metered": False},
    NetworkType.NOT_ROAMING: {"connected": True, "validated": True, "roaming": False},
    NetworkType.METERED: {"connected": True, "validated": True, "metered": True},
    NetworkType.TEMPORARILY_UNMETERED: {"connected": True, "validated": True, "metered": False},
}


def declared_facts(what: str, words: Any) -> dict[str, Facts | None]:
    """Return the facts that `words` declare, by sensor; None: declared unknown. Raises InvalidRequest."""
    if not isinstance(words, Mapping):
        raise InvalidRequest(what, "a mapping such as {'charging': False}", words)
    found: dict[str, Facts | None] = {}
    for word, value in words.items():
        read = _WORDS.get(word)
        if read is None:
            close = difflib.get_close_matches(str(word), _WORDS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InvalidRequest(what, f"one of {', '.join(sorted(_WORDS))}{hint}", word)
        for sensor, facts in read(f"{what} {word!r}", value).items():
            found[sensor] = None if facts is None else (found.get(sensor) or {}) | facts
    return found


_Read = Callable[[str, Any], Mapping[str, Facts | None]]


def _bool(sensor: str, name: str) -> _Read:
    return lambda what, value: {sensor: {name: _checked_bool(what, value)}}


def _checked_bool(what: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidRequest(what, "true or false", value)


def _number(sensor: str, name: str, high: float = float("inf"), *, optional: bool = False) -> _Read:
    def read(what: str, value: Any) -> Mapping[str, Facts]:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (value is None and optional) and not (is_number and 0 <= value <= high):
            raise InvalidRequest(
                what, "a number >= 0" if high == float("inf") else f"a number from 0 to {high:g}", value
            )
        return {sensor: {name: value}}

    return read


def _network(what: str, value: Any) -> Mapping[str, Facts]:
    if isinstance(value, str) and value in NetworkType.__members__:
        value = NetworkType[value]
    if not isinstance(value, NetworkType):
        raise InvalidRequest(what, f"a NetworkType ({', '.join(NetworkType.__members__)})", value)
    return {"network": _NETWORKS[value]}


def _labels(what: str, value: Any) -> Mapping[str, Facts]:
    return {"labels": dict(check_labels(what, value))}


def _each(prefix: str, check: Callable[[str, Any], str], fact: str) -> _Read:
    def read(what: str, value: Any) -> Mapping[str, Facts]:
        if not isinstance(value, Mapping):
            raise InvalidRequest(what, "a mapping to true or false", value)
        return {f"{prefix}:{check(what, name)}": {fact: _checked_bool(what, met)} for name, met in value.items()}

    return read


def _unknown(what: str, value: Any) -> Mapping[str, None]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidRequest(what, "names of sensors", value)
    names = list(value)
    for name in names:
        if not isinstance(name, str) or not (name in SENSORS or name.startswith(("probe:", "custom:"))):
            raise InvalidRequest(what, f"some of {', '.join(SENSORS)}, probe:URL and custom:NAME", name)
    return dict.fromkeys(names)


_LOAD = _number("load", "load")
_WORDS: dict[str, _Read] = {
    "charging": _bool("power", "charging"),
    "battery_percent": _number("power", "battery_percent", 100, optional=True),
    "network": _network,
    "connected": _bool("network", "connected"),
    "validated": _bool("network", "validated"),
    "metered": _bool("network", "metered"),
    "roaming": _bool("network", "roaming"),
    "storage_free_percent": _number("storage", "free_percent", 100),
    "storage_free_bytes": _number("storage", "free_bytes"),
    "memory_free_percent": _number("memory", "free_percent", 100),
    "load": lambda what, value: {name: facts for name in ("load", "idle") for facts in _LOAD(what, value).values()},
    "idle": _bool("idle", "idle"),
    "labels": _labels,
    "reachable": _each("probe", check_target, "reachable"),
    "custom": _each("custom", check_custom, "met"),
    "unknown": _unknown,
}
