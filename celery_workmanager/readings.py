"""What a node reads of itself: values to be judged, published and declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from celery_workmanager.declared import declared_facts
from celery_workmanager.thresholds import VERDICTS, Thresholds

__all__ = ("Reading", "Readings")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sensor read."""

    #: Facts by name, in JSON types; None: unknown.
    value: Mapping[str, Any] | None
    #: When, in microseconds since 1970-01-01 UTC.
    at: int = 0
    #: Why it is unknown, or what else there is to say.
    note: str = ""


class Readings(Mapping[str, Reading]):
    """What all sensors of a node read, by their names; immutable.

    The names and facts are:

    ========================  ============================================================================
    ``network``               ``connected``, ``validated``, ``metered``, ``roaming``
    ``power``                 ``charging``, ``battery_percent`` (None: no battery), ``low``
    ``storage``, ``memory``   ``free_percent``, ``free_bytes``, ``low``
    ``load``                  ``load`` (of each CPU)
    ``idle``                  ``idle``
    ``labels``                the labels of the node, all text
    ``probe:URL``             ``reachable``
    ``custom:NAME``           ``met``, ``reading``
    ========================  ============================================================================
    """

    __slots__ = ("_readings",)

    #: Nothing is known.
    NONE: ClassVar[Readings]

    def __init__(self, readings: Mapping[str, Reading] | None = None) -> None:
        self._readings = dict(readings or {})

    def __getitem__(self, name: str) -> Reading:
        return self._readings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readings)

    def __len__(self) -> int:
        return len(self._readings)

    def __repr__(self) -> str:
        return f"Readings({self._readings!r})"

    @classmethod
    def of(
        cls, at: int = 0, base: Readings | None = None, thresholds: Thresholds | None = None, **words: Any
    ) -> Readings:
        """Return what `words` declare (``charging=False, storage_free_percent=3``: see `declared`), over `base`.

        Raises InvalidRequest for a word that doesn't exist, or a value that can't be.
        """
        found = dict(base or {})
        marks = thresholds or Thresholds()
        for sensor, facts in declared_facts("reading", words).items():
            before = found.get(sensor, _UNKNOWN).value or {}
            if facts is None:
                found[sensor] = Reading(None, at, "declared unknown")
            else:
                kept = {name: value for name, value in before.items() if name not in VERDICTS}
                found[sensor] = Reading(marks.judged(sensor, kept | facts, before), at, "declared")
        return cls(found)

    def judges_like(self, other: Readings) -> bool:
        """Whether every constraint is met by `other` as by this one: figures and moments may differ."""
        return self._decisive() == other._decisive()

    def _decisive(self) -> dict[str, Any]:
        return {
            sensor: None if (facts := each.value) is None else {k: v for k, v in facts.items() if k not in _FIGURES}
            for sensor, each in self._readings.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return them in JSON types: by name, value, moment and note."""
        return {name: {"value": each.value, "at": each.at, "note": each.note} for name, each in self.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Readings:
        """Return those that ``to_json`` wrote; what else a later version may say of one is left out."""
        return cls({name: Reading(each["value"], each["at"], each["note"]) for name, each in values.items()})


#: Facts that no constraint is judged by; what they mean stands beside them.
_FIGURES = {"battery_percent", "expected", "free_bytes", "free_percent", "load", "path", "reading", "why"}
_UNKNOWN = Reading(None)
Readings.NONE = Readings()
