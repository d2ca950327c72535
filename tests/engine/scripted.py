"""A node whose engine does what a test says: everything else is the real thing, on a held clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from celery_workmanager.clock import HeldClock
from celery_workmanager.database import Database
from celery_workmanager.dispatcher import Aside, Dispatcher
from celery_workmanager.file_triggers import FileTriggers
from celery_workmanager.kit_node import NoWatcher
from celery_workmanager.lanes import lane_of
from celery_workmanager.lease import Lease
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.planning import Step
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.query import WorkQuery
from celery_workmanager.readings import Readings
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store
from celery_workmanager.terms import Terms
from celery_workmanager.throttle import BucketOf
from celery_workmanager.timing import SECOND
from celery_workmanager.upkeep import Upkeep
from celery_workmanager.work import StopReason, WorkInfo

START = 1_800_000_000 * SECOND
LEASE = 15.0
GRACE = 10.0


@dataclass
class ScriptedEngine:
    """Runs nothing: remembers what it was asked, and ends works when told to."""

    concurrency: int = 2
    supports_batches: bool = True
    batches: list[list[str]] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    stops: list[tuple[str, StopReason, float | None]] = field(default_factory=list)
    news: list[tuple[Claim, str]] = field(default_factory=list)
    gave_back: bool = False
    deadline: float = 0.0

    def start(self, on_started: Callable[..., None], on_ended: Callable[..., None]) -> None:
        self.on_started, self.on_ended = on_started, on_ended

    def hand_over(self, batch: Sequence[Claim]) -> None:
        self.batches.append([claim.id for claim in batch])
        self.claims |= {claim.id: claim for claim in batch}

    def stop(self, claim: Claim, reason: StopReason, grace: float | None) -> None:
        self.stops.append((claim.id, reason, grace))

    def may_start_until(self, moment: float) -> None:
        self.deadline = moment

    def give_back(self) -> None:
        self.gave_back = True

    def progress(self) -> list[tuple[Claim, str]]:
        found, self.news = self.news, []
        return found


class Node:
    """One node, turned by hand; several may share a store and a clock."""

    def __init__(
        self,
        store: Store,
        clock: HeldClock,
        *,
        concurrency: int = 2,
        most: int = 128,
        bucket_of: BucketOf | None = None,
        aside: Aside | None = None,
        name: str = "",
    ) -> None:
        self.store, self.clock = store, clock
        self.engine = ScriptedEngine(concurrency)
        self.worker = "w"
        self.readings = Readings()
        offer = Offer(lambda: {lane_of("q", self.worker): self.worker}, clock, lambda: self.readings)
        self.files = FileTriggers(store, clock, offer, lambda _: NoWatcher())
        self.dispatcher = Dispatcher(
            store,
            self.engine,
            clock,
            offer,
            max_in_flight=most,
            name=name,
            bucket_of=bucket_of,
            files=self.files,
            aside=aside,
        )
        self.lease = Lease(
            store, self.dispatcher, clock, "node", length=LEASE, stop_grace=GRACE, facts=lambda: {"pool": "scripted"}
        )
        self.upkeep = Upkeep(store, clock, Settings(lease=LEASE), self.dispatcher.look_again)
        self.dispatcher.start()

    def join(self) -> Node:
        """Get a lease and take works."""
        self.lease.step()
        self.dispatcher.step()
        return self

    def settle(self) -> None:
        """Turn the dispatcher until it has nothing to do at once."""
        while self.dispatcher.step():
            pass

    def wait(self, patience: float) -> None:
        """Let the dispatcher know how long it may wait for a ring; it doesn't wait."""
        self.dispatcher.rung.set()
        self.dispatcher.wait(patience)

    @property
    def running(self) -> list[str]:
        return list(self.dispatcher.runs)

    def began(self, work_id: str) -> None:
        self.engine.on_started(self.engine.claims[work_id], self.clock.monotonic())

    def ended(self, work_id: str, ending: Ending = Ending.SUCCEEDED, seconds: float = 0.0, **facts: Any) -> None:
        """The run has taken `seconds` (and never began if that is negative)."""
        started = self.clock.monotonic() - seconds if seconds >= 0 else None
        self.engine.on_ended(
            self.engine.claims[work_id], Outcome(ending, started_at=started, runtime=max(0.0, seconds), **facts)
        )

    def learn(self, seconds: float = 0.0001) -> None:
        """Let the pace know the worker from three runs of this length."""
        for _ in range(3):
            self.dispatcher._pace.learn(self.worker, seconds)


class World:
    """A store, in memory as a rule, and a clock that stands still."""

    def __init__(self, profile: Any = "server", url: str = "sqlite://") -> None:
        self.clock = HeldClock(START)
        settings = Settings(store_url=url, profile=profile, lease=LEASE)
        self.database = Database(url)
        self.store = Store(self.database, self.clock, Terms.of(settings), name_wait=1.0)

    def node(self, **options: Any) -> Node:
        return Node(self.store, self.clock, **options)

    def enqueue(self, number: int = 1, **options: Any) -> list[str]:
        requests = tuple(OneTimeWorkRequest("w", **options) for _ in range(number))
        self.store.enqueue([Step(requests)], lambda _: "q")
        return [request.id for request in requests]

    def chain(self, length: int = 2) -> list[str]:
        requests = [OneTimeWorkRequest("w") for _ in range(length)]
        steps = [Step((requests[0],), (), None, ExistingWorkPolicy.KEEP)]
        steps += [Step((after,), (before.id,)) for before, after in pairwise(requests)]
        self.store.enqueue(steps, lambda _: "q")
        return [request.id for request in requests]

    def fan(self, count: int) -> list[str]:
        """A work, and so many that follow it."""
        parent, *children = (OneTimeWorkRequest("w") for _ in range(1 + count))
        steps = [Step((parent,), (), None, ExistingWorkPolicy.KEEP), Step(tuple(children), (parent.id,))]
        self.store.enqueue(steps, lambda _: "q")
        return [parent.id, *(child.id for child in children)]

    def advance(self, seconds: float) -> None:
        self.clock.move(round(seconds * SECOND))

    def info(self, work_id: str) -> WorkInfo:
        [found] = self.store.work_infos(WorkQuery(ids=(work_id,)))
        return found

    def states(self, *ids: str) -> list[str]:
        return [self.info(each).state.name for each in ids]
