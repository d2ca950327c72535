"""The faults: what a storm does to processes, networks, clocks, databases, disks and brokers, one method a kind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.chaos.journal import Journal
from tests.chaos.place import Place, held
from tests.story.workers import ROOT, StoryWorker

Fault = Callable[[], None]


class Faults:
    """Kinds of faults and how often each is drawn; a method does one, and undoes it."""

    #: Seconds between two of them, at least and at most.
    pause: tuple[float, float]

    def __init__(self, place: Place, journal: Journal, dice: random.Random) -> None:
        self._place, self._journal, self._dice = place, journal, dice
        #: Some of these are within what a lease forgives, others are not.
        self._short, self._long = (0.2, 0.4 * place.lease), (1.4 * place.lease, 2.2 * place.lease)

    def kinds(self) -> dict[Fault, int]:
        """What can be done here, and its weight."""
        raise NotImplementedError

    @contextmanager
    def _noted(self, kind: str, pid: int = 0) -> Iterator[None]:
        at = time.monotonic()
        try:
            yield
        finally:
            self._journal.fault(kind, pid, at)

    def _rest(self, between: tuple[float, float]) -> None:
        time.sleep(self._dice.uniform(*between))


class ProcessFaults(Faults):
    """What befalls workers, their children, beats, producers and nodes."""

    pause = (0.3, 2.5)

    def kinds(self) -> dict[Fault, int]:
        kinds: dict[Fault, int] = {
            self.kill_child: 6, self.kill_worker: 3, self.freeze_briefly: 3, self.freeze_for_long: 1, self.kill_beat: 2,
            self.freeze_beat: 2, self.kill_producer: 2,
        }  # fmt: skip
        if self._place.links:
            kinds[self.cut_off] = 2
        if self._place.clocks:
            kinds[self.step_clock] = 2
        return kinds

    def kill_child(self) -> None:
        worker = self._dice.choice([each for each in self._place.workers if each.pool == "prefork"])
        children = worker.children()
        if not children:
            return
        pid = self._dice.choice(children)
        with suppress(ProcessLookupError), self._noted("child killed", pid):
            os.kill(pid, self._dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))

    def kill_worker(self) -> None:
        self._kill("worker killed", self._dice.choice(self._place.workers))

    def kill_beat(self) -> None:
        self._kill("beat killed", self._dice.choice(self._place.beats))

    def _kill(self, kind: str, worker: StoryWorker) -> None:
        with self._noted(kind, worker.pid):
            worker.kill()
        self._rest((0, 1.5))
        worker.start()

    def freeze_briefly(self) -> None:
        self._freeze("worker frozen, shorter than a lease", self._dice.choice(self._place.workers), self._short)

    def freeze_for_long(self) -> None:
        self._freeze("worker frozen, longer than a lease", self._dice.choice(self._place.workers), self._long)

    def freeze_beat(self) -> None:
        self._freeze("beat frozen", self._dice.choice(self._place.beats), self._dice.choice([self._short, self._long]))

    def _freeze(self, kind: str, worker: StoryWorker, between: tuple[float, float]) -> None:
        with self._noted(kind, worker.pid):
            worker.freeze()
            self._rest(between)
            worker.thaw()

    def cut_off(self) -> None:
        name, link = self._dice.choice(list(self._place.links.items()))
        worker = next(each for each in self._place.workers if each.name == name)
        with self._noted(link.kind, worker.pid):
            link.cut()
            self._rest(self._dice.choice([self._short, self._long, self._long]))
            link.mend()

    def step_clock(self) -> None:
        name, clock = self._dice.choice(list(self._place.clocks.items()))
        worker = next(each for each in self._place.workers if each.name == name)
        step = self._dice.choice([-86400, -3600, -30, -3, 3, 30, 3600, 86400])
        with self._noted("clock stepped", worker.pid):
            clock.step(step)

    def kill_producer(self) -> None:
        """Start a producer, and kill it in the middle of whatever it does."""
        environment = StoryWorker(self._place.folder, self._place.url, broker=self._place.broker_url).environment
        with (self._place.folder / "producer.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.producer", str(self._dice.randrange(10**6))], cwd=ROOT,
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it says when it begins
            self._rest((0.05, 1.5))
        finally:
            with self._noted("producer killed", process.pid):
                process.kill()
                process.wait()
            process.stdout.close()


class ServerFaults(Faults):
    """What befalls the store and the broker."""

    pause = (1.0, 6.0)

    def kinds(self) -> dict[Fault, int]:
        kinds: dict[Fault, int] = {}
        if self._place.server is not None:
            kinds |= {
                self.crash: 2, self.restart: 1, self.cut_connections: 3, self.slow_down: 2, self.refuse: 2,
                self.go_dark: 1,
            }  # fmt: skip
        else:
            kinds[self.hold_lock] = 3
        if self._place.disk is not None:
            kinds[self.fill_disk] = 2
        if self._place.broker is not None:
            kinds |= {self.kill_broker: 2, self.flush_broker: 2, self.lose_broker: 2}
        return kinds

    def crash(self) -> None:
        assert self._place.server is not None
        self._down("database crashed", self._place.server.crash)

    def restart(self) -> None:
        assert self._place.server is not None
        self._down("database restarted", self._place.server.halt)

    def _down(self, kind: str, stop: Fault) -> None:
        assert self._place.server is not None
        with self._noted(kind):
            stop()
            self._rest(self._dice.choice([(0, 0.1), self._short, self._long]))
            self._place.server.start()

    def cut_connections(self) -> None:
        assert self._place.server is not None
        with self._noted("database connections cut"):
            self._place.server.cut()

    def slow_down(self) -> None:
        assert self._place.server is not None
        with self._noted("database slow"):
            self._place.server.proxy.slow(self._dice.choice([0.01, 0.05, 0.2]))
            self._rest((1, 5))
            self._place.server.proxy.heal()

    def refuse(self) -> None:
        assert self._place.server is not None
        with self._noted("database refuses"):
            self._place.server.proxy.refuse()
            self._rest(self._dice.choice([self._short, self._short, self._long]))
            self._place.server.proxy.heal()

    def go_dark(self) -> None:
        assert self._place.server is not None
        with self._noted("database unreachable"):
            self._place.server.proxy.swallow()
            self._rest(self._dice.choice([self._short, self._long]))
            self._place.server.proxy.heal()

    def hold_lock(self) -> None:
        with self._noted("store locked by somebody"), held(self._place.direct):
            self._rest(self._dice.choice([self._short, self._short, self._long]))

    def fill_disk(self) -> None:
        assert self._place.disk is not None
        with self._noted("disk full"):
            self._place.disk.fill()
            self._rest(self._dice.choice([self._short, self._long]))
            self._place.disk.free()

    def kill_broker(self) -> None:
        assert self._place.broker is not None
        with self._noted("broker killed"):
            self._place.broker.stop()
            self._rest((0.2, 3.0))
            self._place.broker.start()

    def flush_broker(self) -> None:
        assert self._place.broker is not None
        with self._noted("broker flushed"):
            self._place.broker.flush()

    def lose_broker(self) -> None:
        assert self._place.broker is not None
        with self._noted("broker unreachable"):
            self._place.broker.proxy.swallow()
            self._rest((0.5, 6.0))
            self._place.broker.proxy.heal()


class Rage:
    """Threads of faults, one a family: at any moment a process and a server may be in trouble together."""

    def __init__(self, place: Place, journal: Journal, dice: random.Random) -> None:
        self._journal, self._over = journal, threading.Event()
        families = (ProcessFaults, ServerFaults)
        self._threads = [
            threading.Thread(
                target=self._go_on, args=(family(place, journal, own := random.Random(dice.random())), own), daemon=True
            )
            for family in families
        ]

    def last(self, seconds: float) -> None:
        """Do damage for so long; in the end everything has been put right."""
        for thread in self._threads:
            thread.start()
        try:
            self._over.wait(seconds)
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(180)
                if thread.is_alive():
                    self._journal.write("broken", text="a fault could not be undone")

    def _go_on(self, faults: Faults, dice: random.Random) -> None:
        kinds = faults.kinds()
        first = list(kinds)  # each kind once, before any comes again
        dice.shuffle(first)
        while not self._over.wait(dice.uniform(*faults.pause)):
            fault = first.pop() if first else dice.choices(list(kinds), list(kinds.values()))[0]
            try:
                fault()
            except Exception as error:  # noqa: BLE001 - the auditor reports it
                self._journal.write("broken", text=f"the storm itself failed: {fault.__name__}: {error!r}")
