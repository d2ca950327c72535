"""When battery, storage and memory are low and a node is idle, with hysteresis: facts in, facts with a verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ("VERDICTS", "Thresholds", "size_text")

#: What `Thresholds.judged` adds to the facts of a sensor.
VERDICTS = frozenset({"low", "idle", "expected"})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The marks of a node; in settings each has its name, `hysteresis` that of ``threshold_hysteresis``."""

    #: Percent; at it and below the battery is low (WorkManager: 15).
    battery_low_percent: float = 15.0
    #: Percent free; below it storage is low.
    storage_low_percent: float = 5.0
    #: Bytes free; below it storage is low. 0: they don't matter.
    storage_low_bytes: int = 0
    #: Percent available; below it memory is low.
    memory_low_percent: float = 10.0
    #: Part of the CPUs that others use; below it a node is idle.
    idle_load: float = 0.3
    #: By which part of itself a mark must be passed before what was low is so no more.
    hysteresis: float = 0.2

    def _mark(self, mark: float, *, was_low: Any, most: float = float("inf")) -> float:
        return min(mark * (1 + self.hysteresis), most) if was_low else mark

    def _battery(self, facts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        mark = self._mark(self.battery_low_percent, was_low=before.get("low"), most=99)
        percent = facts.get("battery_percent")
        # No battery, or none that can be read: not low (WorkManager, BatteryNotLowTracker).
        return {"low": percent is not None and percent <= mark, "expected": f"more than {mark:g} %"}

    def _storage(self, facts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        was_low = before.get("low")
        percent = self._mark(self.storage_low_percent, was_low=was_low, most=100)
        size = self._mark(self.storage_low_bytes, was_low=was_low)
        free = facts.get("free_percent"), facts.get("free_bytes")
        expected = f"at least {percent:g} % free" + (f" and {size_text(size)}" if size else "")
        low = (free[0] is not None and free[0] < percent) or (free[1] is not None and free[1] < size)
        return {"low": low, "expected": expected}

    def _memory(self, facts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        mark = self._mark(self.memory_low_percent, was_low=before.get("low"), most=100)
        percent = facts.get("free_percent")
        return {"low": percent is not None and percent < mark, "expected": f"at least {mark:g} % available"}

    def _idle(self, facts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        if "idle" in facts:  # declared
            return {}
        # Once idle, the load may rise a little.
        mark = self._mark(self.idle_load, was_low=before.get("idle"))
        load = facts.get("load")
        is_idle = load is not None and load < mark and facts.get("in_hours", True)
        return {"idle": is_idle, "expected": f"others to use less than {100 * mark:g} % of the CPUs"}

    def judged(self, sensor: str, facts: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the `facts` of a sensor with what they mean here, given what was read `before`."""
        judges = {"power": self._battery, "storage": self._storage, "memory": self._memory, "idle": self._idle}
        judge = judges.get(sensor)
        return dict(facts) if judge is None else {**facts, **judge(facts, before or {})}


def size_text(size: float) -> str:
    """A number of bytes in words: ``512 MiB``."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(int(max(size, 1)).bit_length() - 1, 10 * (len(units) - 1)) // 10
    return f"{size / 1024**power:.4g} {units[power]}"
