"""The load: threads that enqueue works of all shapes, contend for names, update and cancel, and note what they do."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celery_workmanager import (
    BackoffPolicy,
    CatchUp,
    ExistingPeriodicWorkPolicy,
    ExistingWorkPolicy,
    Limit,
    OneTimeWorkRequest,
    PeriodicWorkRequest,
    WorkContinuation,
    WorkManager,
)
from celery_workmanager.errors import StoreBusy, StoreError, UniqueNameBusy
from tests.chaos.backlog import LIMITED, Backlog
from tests.chaos.journal import Journal

NAMES = ("north", "south", "east")
PERIODIC = "chaos-periodic"
PERIODS = (1, 2, 3, 5)
#: Works that are cancelled or updated together.
WAVES = tuple(f"wave-{number}" for number in range(5))
_POLICIES = tuple(ExistingWorkPolicy)
_LIMIT = Limit("chaos-few", 2)
_HOUR = 3600
#: How long works take (seconds), and how often: some outlast a lease.
_NAPS = {0: 60, 0.01: 10, 0.05: 10, 0.3: 10, 1.0: 4, 5.0: 2}

Edges = dict[str, tuple[str, ...]]
Steps = Sequence[Sequence[OneTimeWorkRequest]]


class Load:
    """One producer: what it enqueues is drawn with its dice."""

    def __init__(self, manager: WorkManager, journal: Journal, dice: random.Random, backlog: Backlog) -> None:
        self._manager, self._journal, self._dice, self._backlog = manager, journal, dice, backlog
        self._work = manager.app.tasks["story.step"]
        #: The latest accepted works, to cancel some of them.
        self._known: list[str] = []
        #: Works that wait for a moment, to update them.
        self._waiting: list[str] = []

    def produce(self) -> None:
        """Enqueue something of any shape."""
        shape = self._dice.choice((self._several, self._line, self._fan, self._diamond, self._later, self._much_later))
        shape()

    def contend(self) -> None:
        """Enqueue a chain under one of few names."""
        steps = [[self._request("named")] for _ in range(self._dice.randint(1, 3))]
        self._chain(steps, self._dice.choice(NAMES), self._dice.choice(_POLICIES))

    def disturb(self) -> None:
        """Cancel or update works that were enqueued a moment ago."""
        self._dice.choice((self._cancel, self._cancel, self._cancel_wave, self._cancel_name, self._update))()

    def hold(self, until: str) -> str:
        """Enqueue one work that runs until there is a file of that name; its id."""
        request = OneTimeWorkRequest(self._work, {"until": until})
        self._chain([[request]])
        return request.id

    def begin_periods(self) -> None:
        """Enqueue the periodic works of which no occurrence may be missing or doubled."""
        for number, interval in enumerate(PERIODS):
            request = PeriodicWorkRequest(
                self._manager.app.tasks["story.period"], {"nap": 0.05 * number}, tags={PERIODIC},
                repeat_interval=interval, fixed_rate=True, catch_up=CatchUp.ALL, catch_up_limit=1000, keep_runs=5,
            )  # fmt: skip
            with self._called({request.id: ()}) as kept:
                policy = ExistingPeriodicWorkPolicy.KEEP
                kept(self._manager.enqueue_unique_periodic_work(f"period-{number}", policy, request).ids)

    # -- shapes ---------------------------------------------------------------------------------------------------

    def _request(self, *tags: str, **options: Any) -> OneTimeWorkRequest:
        dice = self._dice
        nap = dice.choices(list(_NAPS), list(_NAPS.values()))[0]
        ending = dice.choice(["success"] * 21 + ["failure", "retry", "backoff"])
        if dice.random() < 0.05 and self._backlog.has_room_for_limited:
            nap, options, tags = 0.05, {"concurrency": _LIMIT, **options}, (*tags, LIMITED)
        if dice.random() < 0.1:
            tags = (*tags, dice.choice(WAVES))
        return OneTimeWorkRequest(
            self._work, {"nap": nap, "ending": ending}, tags=tags, priority=dice.choice([0, 0, 0, 5, 200]),
            backoff_policy=BackoffPolicy.LINEAR, backoff_delay=1, **options,
        )  # fmt: skip

    def _several(self) -> None:
        requests = [self._request("many") for _ in range(self._dice.randint(1, 60))]
        self._chain([requests])

    def _line(self) -> None:
        self._chain([[self._request()] for _ in range(self._dice.randint(2, 6))])

    def _fan(self) -> None:
        wide = [self._request() for _ in range(self._dice.randint(2, 20))]
        self._chain([[self._request()], wide, [self._request()]])

    def _diamond(self) -> None:
        left, right = ([[self._request()], [self._request()]] for _ in range(2))
        end = self._request("joined")
        edges = {**_edges(left), **_edges(right), end.id: (left[-1][0].id, right[-1][0].id)}
        chain = WorkContinuation.combine([self._begun(left), self._begun(right)]).then(end)
        self._store(chain, edges)

    def _later(self) -> None:
        request = self._request("later", initial_delay=self._dice.uniform(0.2, 3.0))
        self._waiting = [*self._waiting[-20:], request.id]
        self._chain([[request]])

    def _much_later(self) -> None:
        if self._dice.random() < 0.3:
            request = OneTimeWorkRequest(self._work, initial_delay=_HOUR)
            self._store(self._manager.begin_with(request), {request.id: ()}, delayed=True)

    def _begun(self, steps: Steps) -> WorkContinuation:
        chain = self._manager.begin_with(steps[0])
        for step in steps[1:]:
            chain = chain.then(step)
        return chain

    def _chain(self, steps: Steps, name: str | None = None, policy: Any = None) -> None:
        if name is None:
            self._store(self._begun(steps), _edges(steps))
            return
        chain = self._manager.begin_unique_work(name, policy, steps[0])
        for step in steps[1:]:
            chain = chain.then(step)
        self._store(chain, _edges(steps), name)

    def _store(self, chain: WorkContinuation, edges: Edges, name: str | None = None, *, delayed: bool = False) -> None:
        with self._called(edges, name, delayed=delayed) as kept:
            kept(chain.enqueue().ids)
        if not delayed:
            self._known = [*self._known[-100:], *edges]

    def _called(self, edges: Edges, name: str | None = None, *, delayed: bool = False) -> _Called:
        return _Called(self._journal, edges, name, delayed=delayed)

    # -- disturbances ---------------------------------------------------------------------------------------------

    def _cancel(self) -> None:
        if self._known:
            self._journal.write("asked", what="cancel of one")
            self._manager.cancel_work_by_id(self._dice.choice(self._known))

    def _cancel_wave(self) -> None:
        self._journal.write("asked", what="cancel of a tag")
        self._manager.cancel_all_work_by_tag(self._dice.choice(WAVES))

    def _cancel_name(self) -> None:
        self._journal.write("asked", what="cancel of a name")
        self._manager.cancel_unique_work(self._dice.choice(NAMES))

    def _update(self) -> None:
        if self._waiting:
            changed = OneTimeWorkRequest(
                self._work, {"nap": 0.02}, id=self._dice.choice(self._waiting), initial_delay=self._dice.uniform(0, 2)
            )
            self._journal.write("asked", what="update")
            if self._manager.get_work_info_by_id(changed.id) is not None:
                self._manager.update_work(changed)


class _Called:
    """An enqueue, journalled before and after: refused only where the error says that nothing was stored."""

    def __init__(self, journal: Journal, edges: Edges, name: str | None, *, delayed: bool) -> None:
        self._journal, self._edges, self._id = journal, edges, uuid.uuid4().hex
        self._facts = {"edges": edges, "name": name, "delayed": delayed}

    def __enter__(self) -> Callable[[Sequence[str]], None]:
        self._journal.write("try", call=self._id, **self._facts)
        return self._kept

    def _kept(self, ids: Sequence[str]) -> None:
        self._journal.write("kept", call=self._id, ids=[each for each in ids if each in self._edges])

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, (StoreBusy, UniqueNameBusy)):
            self._journal.write("refused", call=self._id, error=type(error).__name__)


def _edges(steps: Steps) -> Edges:
    edges: Edges = {}
    before: tuple[str, ...] = ()
    for step in steps:
        edges |= {each.id: before for each in step}
        before = tuple(each.id for each in step)
    return edges


class Producers:
    """Threads of load, until they are stopped.

    Each waits up to `pause` seconds between two calls, and longer while too much waits to be run.
    """

    def __init__(self, manager: WorkManager, journal: Journal, seed: int, pause: float) -> None:
        self._journal, self._pause, self._over = journal, pause, threading.Event()
        self._backlog = Backlog(manager)
        loads = [Load(manager, journal, random.Random(seed + number), self._backlog) for number in range(4)]
        jobs = [loads[0].produce, loads[1].produce, loads[2].contend, loads[3].contend, loads[0].disturb]
        self._threads = [
            threading.Thread(target=self._go_on, args=(job, random.Random(seed + number)), daemon=True)
            for number, job in enumerate(jobs)
        ]
        self.load = loads[0]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            if thread.is_alive():
                self._journal.write("broken", text="a producer is stuck")

    def _go_on(self, job: Callable[[], None], dice: random.Random) -> None:
        while not self._over.wait(dice.uniform(0.01, self._pause)):
            guarded(partial(self._do, job), self._journal)

    def _do(self, job: Callable[[], None]) -> None:
        if not self._backlog.is_full:
            job()


def guarded(job: Callable[[], None], journal: Journal) -> None:
    """Do the job; errors of a store in trouble are noted, others are broken promises."""
    try:
        job()
    except (StoreError, UniqueNameBusy) as error:
        journal.write("error", kind=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - the auditor reports it
        journal.write("broken", text=f"a call ended with {error!r}")
