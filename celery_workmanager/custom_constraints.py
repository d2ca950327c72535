"""Constraints of one's own: classes with ``read()`` and ``is_met(reading)``, found by their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

from celery_workmanager.errors import ConfigurationError, UnknownConstraint

__all__ = ("GROUP", "CustomConstraint", "custom_constraint")

#: The group of entry points of packages that bring constraints along.
GROUP = "celery_workmanager.constraints"
_LONGEST_SHOWN = 200


class CustomConstraint(Protocol):
    """What a class must offer. It is made once a node: with the argument, if the constraint has one."""

    def read(self) -> Any:
        """Read the node; may fail, and may take a while: it has a thread of its own."""

    def is_met(self, reading: Any) -> bool:
        """Judge what ``read`` returned."""


def custom_constraint(name: str, given: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """Return what reads the constraint `name` (or ``name:argument``): whether it is ``met``, and the ``reading``.

    `given`: classes or their paths by name, before the entry points. Raises ConfigurationError.
    """
    short, _, argument = name.partition(":")
    kind = _found(short, given)
    for method in ("read", "is_met"):
        if not callable(getattr(kind, method, None)):
            raise ConfigurationError(f"expected custom constraint {short!r} to have {method}(), got: {kind!r}")
    constraint: CustomConstraint = kind(argument) if argument else kind()

    def read() -> dict[str, Any]:
        reading = constraint.read()
        return {"met": bool(constraint.is_met(reading)), "reading": _shown(reading)}

    return read


def _found(name: str, given: Mapping[str, Any]) -> Any:
    kind = given.get(name)
    if isinstance(kind, str):
        module, _, attribute = kind.partition(":")
        return getattr(import_module(module), attribute)
    if kind is not None:
        return kind
    brought = {each.name: each for each in entry_points(group=GROUP)}
    if name not in brought:
        raise UnknownConstraint(name, {*given, *brought})
    return brought[name].load()


def _shown(reading: Any) -> Any:
    try:
        text = json.dumps(reading, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(reading)[:_LONGEST_SHOWN]
    return reading if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN]
