"""A storm over real workers: producers and cancels on one side, faults on the other, and notes of everything done."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State, WorkManager
from celery_workmanager.errors import StoreError, UniqueNameBusy
from celery_workmanager.query import WorkQuery
from tests import services
from tests.story.cluster import Cluster
from tests.story.workers import StoryWorker

NAMES = ("north", "south", "east")
_POLICIES = tuple(ExistingWorkPolicy)


@dataclass(frozen=True)
class Fault:
    """Something that was done to a process, from `at` to `until` (monotonic); `pid` 0: the store, for everybody."""

    kind: str
    pid: int
    at: float
    until: float


@dataclass
class Notes:
    """What the storm knows of its own doing. Lists only grow, so threads may share them."""

    #: Accepted works and the ids each depends on.
    accepted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Of enqueues whose answer was lost: they may be stored or not.
    unsure: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: The unique name of a work, when it has one: later calls may have deleted it.
    named: dict[str, str] = field(default_factory=dict)
    #: How often each work was asked to retry by its own code.
    delayed: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Producers:
    """Threads that enqueue, cancel and watch."""

    def __init__(self, manager: WorkManager, notes: Notes, seed: int) -> None:
        self._manager, self._notes = manager, notes
        self._work = manager.app.tasks["story.step"]
        self._over = threading.Event()
        jobs = (self._produce, self._produce, self._contend, self._contend, self._cancel)
        self._threads = [
            threading.Thread(target=self._guarded, args=(job, random.Random(seed + number)), daemon=True)
            for number, job in enumerate(jobs)
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a producer is stuck"

    def _guarded(self, job: Callable[[random.Random], None], dice: random.Random) -> None:
        while not self._over.wait(dice.uniform(0.01, 0.12)):
            try:
                job(dice)
            except (StoreError, UniqueNameBusy) as error:
                self._notes.refused[type(error).__name__] += 1
            except Exception as error:  # noqa: BLE001 - the auditor reports it
                self._notes.broken.append(f"{job.__name__}: {error!r}")

    def _request(self, dice: random.Random, *tags: str) -> OneTimeWorkRequest:
        nap = dice.choice([0, 0, 0, 0.01, 0.05, 0.3, 1.0])
        ending = dice.choice(["success"] * 14 + ["failure", "retry"])
        return OneTimeWorkRequest(self._work, {"nap": nap, "ending": ending}, tags=tags)

    def _store(self, chain: Any, edges: dict[str, tuple[str, ...]], name: str | None = None) -> None:
        if name is not None:
            self._notes.named.update(dict.fromkeys(edges, name))
        self._notes.unsure |= edges
        operation = chain.enqueue()
        for each, parents in edges.items():
            del self._notes.unsure[each]
            if each in operation.ids:
                self._notes.accepted[each] = parents

    def _produce(self, dice: random.Random) -> None:
        shape = dice.randrange(4)
        if shape == 0:
            several = [self._request(dice, "many") for _ in range(dice.randint(1, 30))]
            self._store(self._manager.begin_with(several), {each.id: () for each in several})
        elif shape == 1:
            steps = [[self._request(dice)] for _ in range(dice.randint(2, 6))]
            self._store(*self._chain(steps))
        elif shape == 2:
            wide = [self._request(dice) for _ in range(dice.randint(2, 12))]
            self._store(*self._chain([[self._request(dice)], wide, [self._request(dice)]]))
        else:
            late = OneTimeWorkRequest(self._work, initial_delay=3600)
            self._notes.delayed.add(late.id)
            self._store(self._manager.begin_with(late), {late.id: ()})
            self._over.wait(2)

    def _chain(self, steps: list[list[OneTimeWorkRequest]], name: str | None = None, policy: Any = None) -> Any:
        start = self._manager
        begin = start.begin_with(steps[0]) if name is None else start.begin_unique_work(name, policy, steps[0])
        edges: dict[str, tuple[str, ...]] = {each.id: () for each in steps[0]}
        before = tuple(each.id for each in steps[0])
        for step in steps[1:]:
            begin = begin.then(step)
            edges |= {each.id: before for each in step}
            before = tuple(each.id for each in step)
        return begin, edges, name

    def _contend(self, dice: random.Random) -> None:
        steps = [[self._request(dice, "named")] for _ in range(dice.randint(1, 3))]
        self._store(*self._chain(steps, dice.choice(NAMES), dice.choice(_POLICIES)))

    def _cancel(self, dice: random.Random) -> None:
        self._over.wait(dice.uniform(0.2, 1.0))
        known = list(self._notes.accepted)
        if not known or dice.random() < 0.1:
            self._manager.cancel_unique_work(dice.choice(NAMES))
        else:
            self._manager.cancel_work_by_id(dice.choice(known[-50:]))

    def _watch(self) -> None:
        """Finished is final: in what state, with what output and when."""
        seen: dict[str, Any] = {}
        finished = WorkQuery.from_states(State.SUCCEEDED, State.FAILED, State.CANCELLED)
        while not self._over.wait(1.0):
            try:
                infos = self._manager.get_work_infos(finished)
            except StoreError:
                continue
            for info in infos:
                final = (info.state, info.output_data, info.finished_at, info.version, info.runs)
                if seen.setdefault(info.id, final) != final:
                    self._notes.broken.append(f"{info.id} was {seen[info.id]} and became {final}")


class Chaos:
    """One fault after the other, drawn from those that this storm has."""

    def __init__(
        self,
        workers: list[StoryWorker],
        notes: Notes,
        broker: services.RedisServer | None,
        cluster: Cluster | None,
        dice: random.Random,
    ) -> None:
        self._workers, self._notes, self._broker, self._cluster, self._dice = workers, notes, broker, cluster, dice
        self._faults: list[Callable[[], None]] = (
            [self._kill_child] * 4 + [self._kill_worker] * 2 + [self._freeze_worker] * 2
        )
        self._faults += [] if broker is None else [self._kill_broker]
        self._faults += [] if cluster is None else [self._restart_store]
        #: Each kind at least once, however short the storm.
        self._first = list(dict.fromkeys(self._faults))
        dice.shuffle(self._first)

    def rage(self, seconds: float) -> None:
        """Do damage for so long; in the end everything runs again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self._first:
            time.sleep(self._dice.uniform(0.2, 1.2))
            (self._first.pop() if self._first else self._dice.choice(self._faults))()

    def _note(self, kind: str, pid: int, at: float) -> None:
        self._notes.faults.append(Fault(kind, pid, at, time.monotonic()))

    def _kill_child(self) -> None:
        worker = self._dice.choice([each for each in self._workers if each.pool == "prefork"])
        children = worker.children()
        if not children:
            return
        pid, at = self._dice.choice(children), time.monotonic()
        try:
            os.kill(pid, self._dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        except ProcessLookupError:
            return
        self._note("child killed", pid, at)

    def _kill_worker(self) -> None:
        worker = self._dice.choice(self._workers)
        pid, at = worker.pid, time.monotonic()
        worker.kill()
        self._note("worker killed", pid, at)
        time.sleep(self._dice.uniform(0, 1.5))
        worker.start()

    def _freeze_worker(self) -> None:
        worker = self._dice.choice(self._workers)
        pid, at = worker.pid, time.monotonic()
        worker.freeze()
        time.sleep(self._dice.choice([0.2, 1.0, 6.0]))
        worker.thaw()
        self._note("worker frozen", pid, at)

    def _kill_broker(self) -> None:
        assert self._broker is not None
        at = time.monotonic()
        self._broker.stop()
        time.sleep(self._dice.uniform(0.5, 3.0))
        self._broker.start()
        self._note("broker killed", -1, at)

    def _restart_store(self) -> None:
        assert self._cluster is not None
        at = time.monotonic()
        self._cluster.stop(self._dice.choice(["immediate", "fast"]))
        time.sleep(self._dice.choice([0.1, 1.0, 4.0]))
        self._cluster.start()
        self._note("store restarted", 0, at)
