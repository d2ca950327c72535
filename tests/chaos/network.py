"""A node on a network of its own: a namespace and a cable that can be pulled; or proxies, where we aren't root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

from tests.proxy import Proxy

#: Private addresses inside this machine, one small network a storm.
_NETWORK = "10.213"
#: A node that is said to be on another machine: its death is seen by its lease alone.
_ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


def why_no_namespace() -> str | None:
    """Why there can be no network namespace here; None when there can."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no ip (Debian: apt-get install iproute2)"
    if _ip("netns", "add", probe := f"wmprobe{os.getpid()}"):
        return "the kernel gives no network namespaces"
    _ip("netns", "del", probe)
    return None


def elsewhere(name: str) -> tuple[str, ...]:
    """A prefix of a command under which this machine has another name; empty where that needs more rights."""
    able = os.geteuid() == 0 and subprocess.run([*_ELSEWHERE, name, "true"], check=False, capture_output=True)
    return (*_ELSEWHERE, name) if able and able.returncode == 0 else ()


def _ip(*arguments: str) -> int:
    return subprocess.run(["ip", *arguments], check=False, capture_output=True, timeout=20).returncode


class Cable:
    """A namespace whose one connection is a pair of virtual cards; `host` is this machine as seen from there."""

    kind = "node cut off (network namespace)"

    def __init__(self, number: int) -> None:
        # By our process id, so that two storms at a time don't meet.
        net = f"{_NETWORK}.{os.getpid() % 250}.{number * 4}"
        base, last = net.rsplit(".", 1)
        self.host, there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
        self._name, self._end, far = (f"wm{kind}{os.getpid() % 100000}n{number}" for kind in "nab")
        commands = (
            ("netns", "add", self._name),
            ("link", "add", self._end, "type", "veth", "peer", "name", far),
            ("link", "set", far, "netns", self._name),
            ("addr", "add", f"{self.host}/30", "dev", self._end),
            ("link", "set", self._end, "up"),
            ("-n", self._name, "addr", "add", f"{there}/30", "dev", far),
            ("-n", self._name, "link", "set", far, "up"),
            ("-n", self._name, "link", "set", "lo", "up"),
        )
        for command in commands:
            if _ip(*command):
                self.close()
                raise RuntimeError(f"expected a network of our own, got: ip {' '.join(command)} fails")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command so that it runs there."""
        return ("ip", "netns", "exec", self._name)

    def ports(self, store: Proxy, broker: Proxy) -> tuple[int, int]:
        """The ports of `host` that lead to store and broker."""
        return store.port, broker.port

    def cut(self) -> None:
        _ip("link", "set", self._end, "down")

    def mend(self) -> None:
        _ip("link", "set", self._end, "up")

    def close(self) -> None:
        _ip("link", "del", self._end)
        _ip("netns", "del", self._name)


class Detour:
    """The same with proxies of the node's own, which go dark."""

    kind = "node cut off (proxy)"
    host = "127.0.0.1"
    prefix: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._proxies: list[Proxy] = []

    def ports(self, store: Proxy, broker: Proxy) -> tuple[int, int]:
        """The ports of `host` that lead to store and broker."""
        self._proxies = [Proxy(store.port), Proxy(broker.port)]
        return self._proxies[0].port, self._proxies[1].port

    def cut(self) -> None:
        for each in self._proxies:
            each.swallow()

    def mend(self) -> None:
        for each in self._proxies:
            each.heal()

    def close(self) -> None:
        for each in self._proxies:
            with suppress(Exception):
                each.close()
