"""Random walks of works under limits: enqueues, claims, ends, losses, cancels, pauses and time in any order."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.store import Store, pausing
from celery_workmanager.tables import limit, permit, work
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State
from tests.stores import QUEUE, WORKER, end, job, make_store, move, put, register, start

#: How many works of each key may run at once.
KEYS = {"narrow": 1, "wide": 3}
#: How many may start under each key, in how many seconds.
RATES = {"slow": (1, 30), "quick": (4, 10)}
WORKERS = (WORKER, "two")
RED = PauseTarget(PauseKind.TAG, "red")
NODES = ("one", "two")
ENDINGS = (Ending.SUCCEEDED, Ending.FAILED, Ending.RETRY, Ending.STOPPED, Ending.GIVEN_BACK)
LANES = {worker: lane_of(QUEUE, worker, "", LIMIT) for worker in WORKERS}
#: Of works that an update has freed of their limits.
PLAIN = [lane_of(QUEUE, worker) for worker in WORKERS]

_concurrency = st.sampled_from([None, *(Limit(key, most) for key, most in KEYS.items())])
_rate = st.sampled_from([None, None, *(Rate(key, *rest) for key, rest in RATES.items())])


class Limited(RuleBasedStateMachine):
    """Two nodes that take from two lanes; the store's own rows say what holds."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.store.empty()
        self.tokens, self.names = count(1), count(1)
        self.hands: dict[str, list[Claim]] = {node: [] for node in NODES}
        self.starts: list[tuple[str, int]] = []
        self.lives = count(1)
        self.node_ids = {node: self._new_node(node) for node in NODES}
        self.paused = False

    def _new_node(self, node: str) -> str:
        return register(self.store, f"{node}-{next(self.lives)}", lease=10**6 * SECOND)

    @initialize()
    def begin(self) -> None:
        both = {"concurrency": Limit("wide", KEYS["wide"]), "rate": Rate("quick", *RATES["quick"])}
        put(self.store, *(self._job({"concurrency": Limit("narrow", 1)}, red=n % 2 == 1) for n in range(4)))
        put(self.store, *(self._job(both, red=n % 2 == 1) for n in range(8)))
        self.claim(NODES[0], 2, WORKERS)

    def _job(self, limits: dict[str, Any], *, red: bool, worker: str = WORKER) -> OneTimeWorkRequest:
        return job(f"w{next(self.names):04}", worker, tags={"red"} if red else (), **limits)

    @rule(limits=st.tuples(_concurrency, _rate), worker=st.sampled_from(WORKERS), red=st.booleans())
    def enqueue(self, limits: tuple[Limit | None, Rate | None], worker: str, red: bool) -> None:
        given = dict(zip(("concurrency", "rate"), limits, strict=True))
        put(self.store, *(self._job(given, red=red, worker=worker) for _ in range(3)))

    @rule(
        node=st.sampled_from(NODES),
        most=st.integers(1, 5),
        workers=st.sampled_from([WORKERS, WORKERS[:1], WORKERS[1:]]),
    )
    def claim(self, node: str, most: int, workers: tuple[str, ...]) -> None:
        lanes = [LANES[each] for each in workers]
        self._took(node, self.store.claim_limited(lanes, self.node_ids[node], next(self.tokens), most))

    @rule(node=st.sampled_from(NODES), pick=st.randoms())
    def claim_one(self, node: str, pick: Any) -> None:
        ids = self._ids(work.c.node.is_(None))
        if ids:
            self._took(node, self.store.claim_one(pick.choice(ids), self.node_ids[node], next(self.tokens)))

    def _took(self, node: str, claims: list[Claim]) -> None:
        self.hands[node] += claims
        rated = [claim.options["rate"][0] for claim in claims if "rate" in claim.options]
        self.starts += [(key, self.store.clock.now()) for key in rated]

    @precondition(lambda self: any(self.hands.values()))
    @rule(
        ending=st.sampled_from(ENDINGS),
        pick=st.randoms(),
    )
    def end(self, ending: Ending, pick: Any) -> None:
        hand = pick.choice([hand for hand in self.hands.values() if hand])
        end(self.store, hand.pop(pick.randrange(len(hand))), ending=ending)

    @rule(node=st.sampled_from(NODES), started=st.booleans())
    def die(self, node: str, started: bool) -> None:
        if started:
            start(self.store, *self.hands[node])
        self.store.give_up([self.node_ids[node]])
        while self.store.heal(1) is not None:
            pass
        self.hands[node] = []
        self.node_ids[node] = self._new_node(node)

    @rule(pick=st.randoms())
    def cancel(self, pick: Any) -> None:
        ids = self._ids()
        if ids:
            self.store.cancel(pick.choice(ids))

    @rule(pick=st.randoms(), concurrency=_concurrency)
    def update(self, pick: Any, concurrency: Limit | None) -> None:
        # A run keeps the limits that it was claimed under.
        ids = self._ids(work.c.node.is_(None))
        if ids:
            self.store.update(job(pick.choice(ids), concurrency=concurrency), QUEUE)

    @rule()
    def pause_or_resume(self) -> None:
        (pausing.resume if self.paused else pausing.pause)(self.store, RED)
        self.paused = not self.paused

    @rule(seconds=st.sampled_from([0.001, 1, 11, 60]))
    def pass_time(self, seconds: float) -> None:
        move(self.store, round(seconds * SECOND))
        self.store.wake_limited()
        self.store.forget_limits("")

    # -- what holds ---------------------------------------------------------------------------------------------------

    def _ids(self, *where: Any) -> list[str]:
        unfinished = work.c.state.in_([int(State.ENQUEUED), int(State.RUNNING)])
        with self.store.database.plain() as connection:
            return list(connection.execute(select(work.c.id).where(unfinished, *where).order_by(work.c.id)).scalars())

    @invariant()
    def no_more_run_than_may(self) -> None:
        owned = set(self._ids(work.c.node.is_not(None)))
        claims = [claim for hand in self.hands.values() for claim in hand if claim.id in owned]
        running = Counter(claim.options["concurrency"][0] for claim in claims if "concurrency" in claim.options)
        for key, number in running.items():
            assert number <= KEYS[key]

    @invariant()
    def no_more_start_than_may(self) -> None:
        for key, (most, seconds) in RATES.items():
            moments = [at for name, at in self.starts if name == key]
            for at, first in enumerate(moments):
                for later in range(at, len(moments)):
                    assert later - at + 1 <= most + (moments[later] - first) * most // (seconds * SECOND)

    @invariant()
    def every_work_waits_in_one_place(self) -> None:
        columns = (work.c.node, work.c.ready_lane, work.c.due_at, work.c.held, work.c.parked_by)
        with self.store.database.plain() as connection:
            waiting = select(work.c.id, *columns).where(work.c.state == int(State.ENQUEUED), work.c.held.is_(None))
            for row in connection.execute(waiting):
                assert sum(each is not None for each in row[1:]) == 1, row
            done = select(work.c.id).where(work.c.state > int(State.RUNNING), work.c.parked_by.is_not(None))
            assert connection.execute(done).all() == []
            # What is parked is looked at some time.
            parked = set(connection.execute(select(work.c.parked_by).where(work.c.parked_by.is_not(None))).scalars())
            watched = set(connection.execute(select(limit.c.key).where(limit.c.wake_at.is_not(None))).scalars())
            assert parked <= watched

    def teardown(self) -> None:
        """All come to an end, if they are only let, and nothing is left of their limits."""
        if self.paused:
            pausing.resume(self.store, RED)
        for _ in range(600):
            for node in NODES:
                self.claim(node, 5, WORKERS)
                plain = self.store.claim(PLAIN, self.node_ids[node], next(self.tokens), 9)
                end(self.store, *self.hands[node], *plain)
                self.hands[node] = []
            if not self._ids():
                break
            self.pass_time(30)
        assert self._ids() == []
        self.pass_time(3600)
        with self.store.database.plain() as connection:
            assert connection.execute(select(permit)).all() == []
            assert connection.execute(select(limit)).all() == []


@pytest.mark.timeout(600)  # a walk cut short would be reported as flaky
def test_limits_hold_on_every_walk() -> None:
    store = make_store("sqlite://")
    walks = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(partial(Limited, store), settings=walks)  # type: ignore[arg-type]  # it only calls it
    finally:
        store.close()
