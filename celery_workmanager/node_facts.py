"""What the operating system tells of this node, by psutil. Each function reads one sensor's facts and may fail."""

from __future__ import annotations

import ipaddress
import os
import platform
import shutil
import socket
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager.errors import InvalidRequest, InvalidSetting
from celery_workmanager.node_labels import check_labels

__all__ = ("LABELS_VARIABLE", "CpuTimes", "LoadOfOthers", "labels", "memory", "network", "power", "storage")

#: The environment variable with labels, ``gpu=a100,region=eu``.
LABELS_VARIABLE = "WORKMANAGER_NODE_LABELS"

#: Addresses of no host (RFC 5737, RFC 3849): the way to them is the default route. Nothing is sent there.
_FAR_AWAY = ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8::1"))
_CGROUP = Path("/sys/fs/cgroup")

Names = bool | Collection[str]


def network(interfaces: Collection[str] = (), metered: Names = False, roaming: Names = False) -> dict[str, Any]:
    """Whether one of `interfaces` (none: that of the default route) is ``connected``, and what its traffic costs."""
    addresses, states = psutil.net_if_addrs(), psutil.net_if_stats()
    wanted = interfaces or _default_interfaces(addresses)
    connected = [name for name in wanted if _is_connected(states.get(name), addresses.get(name, ()))]
    if not connected:
        return {"connected": False}
    # Traffic takes the one that costs nothing, if there is one.
    return {
        "connected": True,
        "metered": metered if isinstance(metered, bool) else set(connected) <= set(metered),
        "roaming": roaming if isinstance(roaming, bool) else set(connected) <= set(roaming),
        "interfaces": connected,
    }


def _default_interfaces(addresses: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    own = {_own_address(family, address) for family, address in _FAR_AWAY} - {None}
    for name, its in addresses.items():
        if any(each.address.partition("%")[0] in own for each in its):
            yield name


def _own_address(family: socket.AddressFamily, far: str) -> str | None:
    """From which address of ours the way to `far` begins; None: there is none."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect((far, 9))
            return str(way.getsockname()[0])
    except OSError:
        return None


def _is_connected(state: Any, addresses: Sequence[Any]) -> bool:
    return state is not None and state.isup and any(map(_is_usable, addresses))


def _is_usable(address: Any) -> bool:
    if address.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    found = ipaddress.ip_address(address.address.partition("%")[0])
    return not (found.is_link_local or found.is_loopback)


def power() -> dict[str, Any]:
    """Whether the node is ``charging``, and its ``battery_percent``. Without a battery it is, as a full one is."""
    read = getattr(psutil, "sensors_battery", None)  # not on every platform
    battery = None if read is None else read()
    if battery is None:
        return {"charging": True, "battery_percent": None}
    # psutil doesn't always know whether it is plugged in (None): what can't be read is not met.
    return {"charging": battery.power_plugged, "battery_percent": round(battery.percent, 1)}


def storage(paths: Sequence[str]) -> dict[str, Any]:
    """How much is free where it is tightest, in percent and bytes."""
    usages = ((path, shutil.disk_usage(path)) for path in paths)
    free = [(_percent(usage.free, usage.total), usage.free, path) for path, usage in usages]
    percent, size, path = min(free)
    return {"free_percent": percent, "free_bytes": min(size, *(each[1] for each in free)), "path": path}


def memory(cgroup: Path = _CGROUP) -> dict[str, Any]:
    """How much memory is available: of this machine, or of the container's limit if that is nearer."""
    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    limit = _cgroup_memory(cgroup)
    if limit is not None and limit[0] < free:
        free, total = limit
    return {"free_percent": _percent(free, total), "free_bytes": free}


def _cgroup_memory(folder: Path) -> tuple[int, int] | None:
    """What is left of the limit of a control group (version 2), and the limit; None: there is none."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no limit
        return None
    # Pages of files that nobody uses are given back when memory is wanted.
    return max(0, min(limit, limit - used + int(stat.get("inactive_file", 0)))), limit


def _percent(free: float, total: float) -> float:
    return round(100 * free / total, 1) if total else 0.0


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds that all CPUs have spent so far: in all, at work, and at the work of this worker and its children."""

    total: float
    busy: float
    own: float

    @classmethod
    def read(cls) -> CpuTimes:
        """Those of this moment."""
        times = psutil.cpu_times()
        # Guests are counted in user time already.
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        return cls(total, total - times.idle - getattr(times, "iowait", 0), _own_time())

    def load_of_others(self, before: CpuTimes) -> float | None:
        """The part of the CPUs that others have used since `before`; None: no time has passed."""
        elapsed = self.total - before.total
        if elapsed <= 0:
            return None
        others = (self.busy - before.busy) - (self.own - before.own)
        return round(min(1.0, max(0.0, others / elapsed)), 2)


def _own_time() -> float:
    used, own = 0.0, psutil.Process()
    for process in (own, *_descendants(own)):
        with suppress(psutil.Error):  # it ends just now
            used += sum(process.cpu_times()[:4])  # with the children that have ended
    return used


def _descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    # psutil looks at every process of the machine for that; most Linux kernels know.
    try:
        found = [(task / "children").read_text() for task in Path(f"/proc/{process.pid}/task").iterdir()]
    except OSError:  # another system or kernel, or a thread that ends just now
        yield from process.children(recursive=True)
        return
    for pid in " ".join(found).split():
        with suppress(psutil.Error):
            child = psutil.Process(int(pid))
            yield child
            yield from _descendants(child)


class LoadOfOthers:
    """The ``load`` that others than this worker and its children put on the CPUs, from 0 to 1, over some readings.

    What a work does itself doesn't make the node busy: it would stop itself.
    """

    #: Readings that are looked back on.
    WINDOW = 6

    def __init__(self) -> None:
        self._samples: deque[CpuTimes] = deque(maxlen=self.WINDOW)

    def __call__(self) -> dict[str, Any] | None:
        """Read it; None: it takes two readings."""
        self._samples.append(CpuTimes.read())
        load = self._samples[-1].load_of_others(self._samples[0])
        return None if load is None else {"load": load}


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """The labels of this node: the automatic ones, those `given` by settings, and those of the environment.

    Raises InvalidSetting for an environment variable that can't be read.
    """
    automatic = {
        "os": platform.system().lower(),
        "arch": platform.machine(),
        "cpus": str(psutil.cpu_count() or 1),
        "hostname": socket.gethostname(),
    }
    return automatic | dict(given) | _from_environment(os.environ.get(LABELS_VARIABLE, ""))


def _from_environment(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise InvalidSetting(f"environment variable {LABELS_VARIABLE}", "'gpu=a100,region=eu'", text)
    try:
        return check_labels("labels", {key.strip(): value.strip() for key, _, value in pairs})
    except InvalidRequest as error:
        raise InvalidSetting(f"environment variable {LABELS_VARIABLE}", "'gpu=a100,region=eu'", text) from error
