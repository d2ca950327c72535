"""What every step of a random walk needs: the store, the model, and a call that may break at any of its commits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import select

from celery_workmanager import Data
from celery_workmanager.clock import HeldClock
from celery_workmanager.errors import InvalidRequest, UnsupportedOperation
from celery_workmanager.ids import new_id
from celery_workmanager.outcome import Claim, Outcome
from celery_workmanager.requests import WorkRequest
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.tables import work
from tests.story.draws import QUOTA, START, request_of
from tests.story.faults import Broken, FaultyDatabase
from tests.story.invariants import Watcher
from tests.story.model import Model
from tests.story.model_words import SECOND, Job, Refused, Spec

T = TypeVar("T")

LEASE = 15 * SECOND
#: Settings of the store: the numbers are small, so that they are reached.
RETENTION = 3600
MAX_INTERRUPTIONS, KEEP_RUNS, KEEP_STOPS = 3, 4, 3


@dataclass
class Answer(Generic[T]):
    """What a call returned; when it broke: nothing, and all that can be told is whether something was written."""

    value: T | None
    came: bool = True
    applied: bool = True


class Walk(RuleBasedStateMachine):
    """The store and the model, side by side; nodes are what they remember."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        store.empty()
        self.store = store
        assert isinstance(store.database, FaultyDatabase)
        self.database = store.database
        self.database.fuse = None
        store.clock = self.clock = HeldClock(START)
        self.model = Model(
            START,
            retention=RETENTION * SECOND,
            max_interruptions=MAX_INTERRUPTIONS,
            keep_runs=KEEP_RUNS,
            keep_stops=KEEP_STOPS,
            quota=QUOTA,
        )
        self.watcher = Watcher(store.database)
        self.tokens = 0
        #: What each live node has in hand, what it is called, and what constraints it meets.
        self.hands: dict[str, list[Claim]] = {}
        self.names: dict[str, str] = {}
        self.meets: dict[str, tuple[str, ...]] = {}
        #: Runs that have ended, and claims of which nobody has taken account any more.
        self.ghosts: list[tuple[Claim, Outcome]] = []
        self.number = 0
        self.seats: list[str] = []
        self.seats = [self.register(0), self.register(1)]

    def register(self, seat: int, met: tuple[str, ...] = ("storage", "network")) -> str:
        node, until = new_id(), self.clock.now() + LEASE
        self.names[node], self.meets[node] = f"n{seat}", met
        self.store.register(NodeRow(node, f"n{seat}", "h", 1, 1, self.clock.now(), until, "{}"))
        self.model.leases[node], self.hands[node] = until, []
        return node

    # -- calls that may break -----------------------------------------------------------------------------------------

    def ask(self, call: Callable[[], T]) -> Answer[T]:
        """Call the store once; when it breaks, look what it has written."""
        before = None if self.database.fuse is None else self.database.contents()
        try:
            return Answer(self.database.call(call))
        except Broken:
            return Answer(None, came=False, applied=self.database.contents() != before)

    def until_done(self, call: Callable[[], T]) -> Answer[T]:
        """Call what anybody may call again until it has come through."""
        answer = self.ask(call)
        return answer if answer.came else Answer(call(), came=False)

    def both(self, call: Callable[[], T], move: Callable[[], T]) -> None:
        """Let the store and the model do the same; it is applied wholly or not at all, and refused by both or none."""
        try:
            answer = self.ask(call)
        except (UnsupportedOperation, InvalidRequest):
            with pytest.raises(Refused):
                move()
            return
        if answer.came:
            assert answer.value == move()
        elif answer.applied:
            move()

    def let_time_pass(self, seconds: int, *, look: bool = True) -> None:
        """Time passes; `look`: and somebody does what has become due."""
        self.clock.move(seconds * SECOND)
        self.model.now = self.clock.now()
        if look:
            self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        self.until_done(self.store.promote)
        self.model.promote()
        expired = self.model.expire()
        answer = self.until_done(self.store.expire)
        assert not answer.came or answer.value == expired
        self.until_done(self.store.pass_deadlines)
        self.model.pass_deadlines()
        self.until_done(self.store.wake_limited)
        due = self.store.next_moment()
        assert due is None or due > self.clock.now()

    # -- small parts ----------------------------------------------------------------------------------------------

    def request(self, spec: Spec, work_id: str) -> WorkRequest:
        return request_of(spec, work_id, self.number)

    def with_input(self, spec: Spec, **others: Any) -> Spec:
        text = Data(n=self.number, part=spec.part).to_json()
        return Spec(**{**spec.__dict__, "input": text, **others})

    def pick(self, number: int, among: Callable[[Job], bool] = lambda _job: True) -> str | None:
        ids = [each for each, job in sorted(self.model.jobs.items()) if among(job)]
        return ids[number % len(ids)] if ids else None

    def rows(self, ids: list[str]) -> dict[str, Any]:
        with self.database.plain() as connection:
            return {row.id: row for row in connection.execute(select(work).where(work.c.id.in_(ids)))}
