"""The dispatcher: claims works in batches, hands them to the engine, and commits what comes back in batches.

One thread turns it (`step`), a test can turn it by hand. The engine's threads only leave notes (`on_started`,
`on_ended`), so nothing the database does ever holds up the pool.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from sqlalchemy.exc import DBAPIError

from celery_workmanager.clock import Clock
from celery_workmanager.errors import StoreError
from celery_workmanager.file_triggers import FileTriggers
from celery_workmanager.lanes import LIMIT, TRIGGER
from celery_workmanager.looks import Looks
from celery_workmanager.offer import Offer
from celery_workmanager.outage import Outage
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.pace import Pace
from celery_workmanager.prompt_claims import PromptClaims
from celery_workmanager.revocations import Revocations
from celery_workmanager.run_marks import RunMarks
from celery_workmanager.running import Engine, Run
from celery_workmanager.settlement import Settlement
from celery_workmanager.store import Store, Taker
from celery_workmanager.store.claiming import Look
from celery_workmanager.throttle import BucketOf, Throttle
from celery_workmanager.work import StopReason

Aside = Callable[[Callable[[], None]], object]

#: A node that took all it may hold looks for more when this part of it has ended, or so many seconds later: a small
#: claim costs as much as a large one.
ROOM_AGAIN, LOOK_AGAIN = 0.5, 0.05
#: How many times as many works as may be in flight a node holds when a slow store takes their ends late.
MOST_HELD = 2
#: Seconds to wait after the store refused, doubled up to the longest.
PAUSE, LONGEST_PAUSE = 0.05, 2.0


class Dispatcher:
    """One node's share of the works: never more than it can begin soon."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        offer: Offer,
        *,
        max_in_flight: int,
        name: str = "",
        outage: Outage | None = None,
        bucket_of: BucketOf | None = None,
        files: FileTriggers | None = None,
        aside: Aside | None = None,
    ) -> None:
        """`aside` makes calls in a thread of its own, in which ends are written; without it `step` writes them."""
        self._store = store
        self._engine = engine
        self._clock = clock
        self._offer = offer
        self._pace = Pace(max_in_flight)
        self._settlement = Settlement(store, clock)
        self._aside = aside
        self._most_held = MOST_HELD * max_in_flight
        self._outage = outage or Outage()
        self._name = name
        self.node = ""
        self.accepting = False
        self.closed = False
        self._leased_until = inf
        #: With more runs than these, for so many processes, nothing needs to be looked for until that moment.
        self._enough: tuple[float, int, float] = (inf, 0, 0.0)
        self.runs: dict[str, Run] = {}
        self._marks = RunMarks(store, engine, clock, self.runs)
        self.rung = threading.Event()
        self._started: deque[tuple[Claim, float]] = deque()
        self._ended: deque[tuple[Claim, Outcome]] = deque()
        self._pause = PAUSE
        self._revocations = Revocations(store)
        self._throttle = Throttle(bucket_of)
        self.prompt = PromptClaims(store, self._throttle)
        self._looks = Looks()
        self._turn = False
        self._files = files
        if files is not None:
            files.on_change = self.look_again

    def start(self) -> None:
        """Connect with the engine; claiming begins when there is a lease."""
        self._engine.start(self._on_started, self._on_ended)

    # -- notes from the engine's threads --------------------------------------------------------------------------

    def _on_started(self, claim: Claim, at: float) -> None:
        self._started.append((claim, at))

    def _on_ended(self, claim: Claim, outcome: Outcome) -> None:
        self._ended.append((claim, outcome))
        if not self.rung.is_set():  # it takes a lock to set it
            self.rung.set()

    def revoked(self, claim: Claim) -> None:
        """An operator revoked the task of this claim: its work is cancelled."""
        self._revocations.add([claim.id], StopReason.USER)
        self.rung.set()

    def leased(self, node: str, until: float) -> None:
        """Claim as `node`, and begin no run after `until` (monotonic seconds) unless told again."""
        self.node = node
        self._leased_until = until
        self.accepting = not self.closed
        self._engine.may_start_until(until)

    def lost(self) -> None:
        """The node was declared lost: whatever was or is being claimed in its name must not run."""
        self.accepting = False
        self.node = ""

    @property
    def sees_nothing(self) -> bool:
        """Whether the last look found nothing that anybody could claim."""
        return self._looks.saw_nothing

    def bell_rang(self) -> None:
        """Somebody committed something that is worth a look."""
        self.prompt.was_rung = True
        self.look_again()

    def look_again(self) -> None:
        """Something may have become claimable."""
        self._looks.ask()
        self.rung.set()

    # -- turning --------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits to be written."""
        return not (self.runs or self._ended or self._settlement.claimed) and self._settlement.is_empty

    def in_hand(self) -> set[tuple[str, int]]:
        """The works this node knows it holds, each with its token: they run, or their ends are to be written."""
        unwritten = self._settlement.unwritten.copy()
        return {(run.claim.id, run.claim.token) for run in list(self.runs.values())} | unwritten

    def step(self) -> bool:
        """One round: collect, claim and hand over, commit. Returns whether another round is worth it at once."""
        self._collect()
        self._revocations.write()
        if self._aside is None:
            # Children are fed before the ends of others are written, so that none waits for a commit.
            again = self._may_claim() and self._claim()
            again |= self._write_down()
        else:
            self._write_down()
            again = self._may_claim() and self._claim()
        return again or bool(self._ended)

    def _write_down(self) -> bool:
        self._marks.write(ends_follow=not self._settlement.is_empty)
        try:
            taker = self._taker() if self._settlement.would_unblock else None
            # What may bring claims is written here: nothing else is claimable that it could be beside.
            if self._aside is None or taker is not None:
                return self._settlement.write(taker)
            return self._settlement.write_aside(self._aside, self.rung.set)
        finally:
            self._take_what_followed()

    def _taker(self) -> Taker | None:
        """This node, if it has room for what the ends unblock, and nothing waited when it last looked."""
        if not (self.sees_nothing and self._may_claim()):
            return None
        room = min(self._engine.concurrency - len(self.runs), self._room_for_ends)
        lanes = self._throttle.unlimited(self._offer.lanes())
        return Taker(self.node, secrets.randbits(62), lanes, room) if room > 0 else None

    def _take_what_followed(self) -> None:
        claims: list[Claim] = []
        while self._settlement.claimed:
            claims.append(self._settlement.claimed.popleft())
        if self._settlement.left_some:
            self._settlement.left_some = False
            self._looks.ask()
        if claims:
            self.take(claims)

    def wait(self, timeout: float) -> None:
        """Wait for the bell or an end, at most `timeout` seconds; shorter while something needs to be looked at."""
        self._looks.patience = timeout
        timeout = self._looks.until_next(self._clock.monotonic())
        if self.runs:
            timeout = min(timeout, self._marks.patience)
        if not (self._settlement.is_empty and self._revocations.is_empty):
            timeout = min(timeout, self._settlement.patience)
        timeout = min(timeout, self._throttle.next_token(), self._files.until_next() if self._files else inf)
        self.rung.wait(timeout)
        self.rung.clear()

    def guarded_step(self) -> bool:
        """`step` that survives a store that is away: works in hand are kept, and it pauses longer each time."""
        try:
            again = self.step()
        except (StoreError, DBAPIError, OSError) as error:
            self._outage.away(error)
            self._looks.ask()
            self.rung.wait(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            return False
        self._pause = PAUSE
        return again

    def _collect(self) -> None:
        while self._started:
            claim, at = self._started.popleft()
            run = self.runs.get(claim.id)
            if run is not None and run.claim is claim:
                run.started_at = at
        while self._ended:
            claim, outcome = self._ended.popleft()
            self._settlement.add(claim, outcome)
            run = self.runs.get(claim.id)
            if run is not None and run.claim is claim:
                del self.runs[claim.id]
            if outcome.started_at is not None:
                self._pace.learn(claim.worker, outcome.runtime)

    # -- claiming -------------------------------------------------------------------------------------------------

    def _may_claim(self) -> bool:
        # Past the lease this process was frozen: it is renewed first, or a new identity taken.
        return self.accepting and self._clock.monotonic() < self._leased_until

    def _claim(self) -> bool:
        now, processes = self._clock.monotonic(), self._engine.concurrency
        if self._has_enough(processes, now) or self._claim_promptly(own := self._offer.lanes(), processes, now):
            return False
        return self._looks.begin(now) and self._look_and_claim(own, processes, now)

    def _look_and_claim(self, own: Mapping[int, str], processes: int, now: float) -> bool:
        seen = self._store.look(own)
        self._looks.saw_nothing = not seen.lanes
        if self._files is not None and (triggered := self._files.claim(seen, self.node, self._name)):
            self.take(triggered)
            return True
        if self._name in seen.drained:
            return False
        lanes = {**own, **self._others(seen)} if seen.kinds else own
        ready, caps = self._throttle.allow([lane for lane in seen.lanes if lane in lanes], lanes)
        if not ready:
            return False
        room = self._room({lanes[lane] for lane in ready}, processes, now)
        if room <= 0:
            return False
        claims = self._claim_from(ready, seen, room, caps)
        self._throttle.spend(claims)
        self.prompt.is_worth_it |= bool(claims)
        self.take(claims)
        if len(claims) >= room:
            self._enough = (max(processes - 1, (1 - ROOM_AGAIN) * len(self.runs)), processes, now + LOOK_AGAIN)
        # None, though they were ready: others hold their rows, maybe for long.
        return bool(claims)

    def _claim_promptly(self, own: Mapping[int, str], processes: int, now: float) -> bool:
        is_due = self.prompt.is_due() and self.sees_nothing and own
        if not is_due or (room := self._room(own.values(), processes, now)) <= 0:
            return False
        self._looks.begin(now)
        claims, were_all = self.prompt.claim(own, self.node, room)
        self.take(claims)
        if not were_all:
            self._looks.ask()
        return were_all

    def _room(self, workers: Iterable[str], processes: int, now: float) -> int:
        return min(self._pace.room(workers, self.runs.values(), processes, now), self._room_for_ends)

    def _has_enough(self, processes: int, now: float) -> bool:
        runs, known, until = self._enough
        if len(self.runs) > runs and processes == known and now < until:
            return True
        self._enough = (inf, 0, 0.0)
        return self._room_for_ends <= 0

    @property
    def _room_for_ends(self) -> int:
        return self._most_held - len(self.runs) - len(self._settlement.unwritten)

    def _others(self, seen: Look) -> dict[int, str]:
        """The lanes of works with constraints or limits that this node may claim from now."""
        return {
            number: lane.worker
            for number, lane in seen.kinds.items()
            if lane.mark != TRIGGER and self._offer.covers(lane)
        }

    def _claim_from(self, ready: Sequence[int], seen: Look, room: int, caps: Mapping[int, int]) -> list[Claim]:
        limited = [lane for lane in ready if lane in seen.kinds and seen.kinds[lane].mark == LIMIT]
        others = [lane for lane in ready if lane not in limited] if limited else ready
        ways = [(others, self._store.claim), (limited, self._store.claim_limited)]
        # Neither kind keeps the other waiting: they take turns at going first.
        self._turn = not self._turn
        claims: list[Claim] = []
        token = secrets.randbits(62)
        for lanes, claim in ways if self._turn else reversed(ways):
            if lanes and len(claims) < room:
                claims += claim(lanes, self.node, token, room - len(claims), caps=caps, stamp=seen.stamp)
        return claims

    def take(self, claims: Sequence[Claim]) -> None:
        """Hand claims of this node over to the engine."""
        self._tell_the_overdue(claims)
        claims = self._marks.begin_with_care(claims)
        now = self._clock.monotonic()
        for claim in claims:
            self.runs[claim.id] = Run(claim, now)
        # Looked at after they are among the runs: either `lost` came before, or whoever calls it stops them.
        if any(claim.node != self.node for claim in claims):
            for claim in claims:
                self._on_ended(claim, Outcome(Ending.GIVEN_BACK))
            return
        claims = self._still_met(claims)
        most = self._engine.concurrency if self._engine.supports_batches else len(claims)
        for batch in self._pace.batches(claims, most):
            self._engine.hand_over(batch)

    def _tell_the_overdue(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if "deadline" in claim.options and claim.options["deadline"] <= self._clock.now():
                claim.options["deadline_expired"] = True

    def _still_met(self, claims: list[Claim]) -> list[Claim]:
        """Give back what has lost its constraints while it was claimed; what loses them later is stopped as a run."""
        lost = [claim for claim in claims if "constraints" in claim.options and self._offer.lost(claim) is not None]
        for claim in lost:
            self._on_ended(claim, Outcome(Ending.GIVEN_BACK))
        return [claim for claim in claims if claim not in lost] if lost else claims

    # -- stopping -------------------------------------------------------------------------------------------------

    def stop_what_lost_its_constraints(self, grace: float | None) -> None:
        """Stop runs whose constraints this node doesn't meet now, each with the reason of the first unmet."""
        constrained = [run.claim for run in list(self.runs.values()) if "constraints" in run.claim.options]
        for claim in constrained:
            lost = self._offer.lost(claim)
            if lost is not None:
                self.stop([claim.id], lost.reason, grace)

    def stop(self, ids: Iterable[str], reason: StopReason, grace: float | None) -> None:
        """Tell runs to stop, each once."""
        for each in ids:
            run = self.runs.get(each)
            if run is not None and not run.stopping:
                run.stopping = True
                self._engine.stop(run.claim, reason, grace)

    def close_to_new(self) -> None:
        """Claim nothing more; what hasn't begun comes back."""
        self.closed = True
        self.accepting = False
        self._engine.give_back()

    def abandon(self, reason: StopReason) -> None:
        """Write what is known of the runs of a worker that ends at once: they were stopped."""
        self._collect()
        for run in list(self.runs.values()):
            started = run.started_at
            ending = Ending.GIVEN_BACK if started is None else Ending.STOPPED
            self._settlement.add(run.claim, Outcome(ending, reason=reason, started_at=started))
        self.runs.clear()
        self._settlement.write()
