"""A random walk over the real store and the reference model, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from celery_workmanager import Data, OneTimeWorkRequest
from celery_workmanager.clock import HeldClock
from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.ids import new_id
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.planning import Step
from celery_workmanager.policies import BackoffPolicy, ExistingWorkPolicy, OutOfQuotaPolicy
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import as_timedelta
from celery_workmanager.verdict import judge
from celery_workmanager.work import StopReason
from tests.story.draws import NAMES, TAGS, endings, picks, policies, specs
from tests.story.invariants import Watcher
from tests.story.model import SECOND, Head, Model, Spec

START = 1_700_000_000 * SECOND
LEASE = 15 * SECOND
RETENTION = 3600
MAX_INTERRUPTIONS = 3


class StoreAndModel(RuleBasedStateMachine):
    """Each rule is one commit of the store and the same move of the model; a node is what it remembers."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        store.empty()
        self.store = store
        store.clock = self.clock = HeldClock(START)
        self.model = Model(START, RETENTION * SECOND, MAX_INTERRUPTIONS)
        self.watcher = Watcher(store.database)
        self.tokens = 0
        #: What each live node has in hand, and claims of which nobody has taken account any more.
        self.hands: dict[str, list[Claim]] = {}
        self.ghosts: list[tuple[Claim, Outcome]] = []
        self.seats = [self._register(), self._register()]
        self.number = 0

    # -- small parts ----------------------------------------------------------------------------------------------

    def _register(self) -> str:
        node = new_id()
        until = self.clock.now() + LEASE
        self.store.register(NodeRow(node, "n", "h", 1, 1, self.clock.now(), until, "{}"))
        self.model.leases[node], self.hands[node] = until, []
        return node

    def _request(self, spec: Spec, work_id: str) -> OneTimeWorkRequest:
        return OneTimeWorkRequest(
            spec.worker,
            {"n": self.number},
            id=work_id,
            tags=spec.tags,
            initial_delay=as_timedelta(spec.delay),
            backoff_policy=BackoffPolicy.EXPONENTIAL,
            backoff_delay=as_timedelta(spec.backoff),
            priority=spec.priority,
            expedited=OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST if spec.expedited else None,
            expires=None if spec.expires is None else as_timedelta(spec.expires),
            max_attempts=spec.max_attempts,
        )

    def _enqueue(self, heads: list[Head]) -> None:
        self.number += 1
        steps = [
            Step(
                tuple(self._request(spec, each) for each, spec in head.works),
                tuple(head.parents),
                head.name,
                ExistingWorkPolicy[head.policy],
            )
            for head in heads
        ]
        text = Data(n=self.number).to_json()
        for head in heads:
            head.works = [(each, Spec(**{**spec.__dict__, "input": text})) for each, spec in head.works]
        done = self.store.enqueue(steps, lambda request: request.queue or "q")
        stored, skipped = self.model.enqueue(heads)
        assert ([new.request.id for new in done.works], list(done.skipped)) == (stored, skipped)

    def _any(self, pick: int, among: Callable[[Any], bool] = lambda _job: True) -> str | None:
        ids = [each for each, job in sorted(self.model.jobs.items()) if among(job)]
        return ids[pick % len(ids)] if ids else None

    # -- producers --------------------------------------------------------------------------------------------------

    @rule(several=st.lists(specs, min_size=1, max_size=3))
    def enqueue(self, several):
        self._enqueue([Head([(new_id(), spec) for spec in several])])

    @rule(several=st.lists(specs, min_size=2, max_size=4), name=st.sampled_from([None, *NAMES]), policy=policies)
    def enqueue_chain(self, several, name, policy):
        heads: list[Head] = []
        for spec in several:
            before = [each for each, _ in heads[-1].works] if heads else []
            heads.append(Head([(new_id(), spec)], before, name, policy))
        self._enqueue(heads)

    @rule(spec=specs, name=st.sampled_from(NAMES), policy=policies, width=st.integers(1, 3))
    def enqueue_diamond(self, spec, name, policy, width):
        top, bottom = new_id(), new_id()
        middle = [new_id() for _ in range(width)]
        sides = Head([(each, spec) for each in middle], [top], name, policy)
        self._enqueue([Head([(top, spec)], [], name, policy), sides, Head([(bottom, spec)], middle, name, policy)])

    @rule(spec=specs, first=policies, second=policies)
    def enqueue_join_of_two_names(self, spec, first, second):
        ends = [new_id(), new_id()]
        heads = [
            Head([(each, spec)], [], name, policy)
            for each, name, policy in zip(ends, NAMES, (first, second), strict=True)
        ]
        self._enqueue([*heads, Head([(new_id(), spec)], ends)])

    @rule(pick=picks, spec=specs, name=st.sampled_from([None, *NAMES]), policy=policies, follow=st.booleans())
    def enqueue_known_id_again(self, pick, spec, name, policy, follow):
        known = self._any(pick)
        if known is None:
            return
        again = Spec(**{**spec.__dict__, "worker": self.model.jobs[known].spec.worker})
        heads = [Head([(known, again)], [], name, policy)]
        if follow:
            heads.append(Head([(new_id(), spec)], [known], name, policy))
        self._enqueue(heads)

    @rule(pick=picks, spec=specs)
    def update(self, pick, spec):
        known = self._any(pick)
        if known is None:
            return
        self.number += 1
        changed = Spec(**{**spec.__dict__, "input": Data(n=self.number).to_json()})
        done = self.store.update(self._request(changed, known), "q")
        assert done.name == self.model.update(known, changed)

    @rule(pick=picks)
    def retry(self, pick):
        known = self._any(pick, lambda job: job.is_finished)
        if known is None:
            return
        fresh = new_id()
        if self.model.retry(known, fresh):
            self.store.retry(known, fresh)
        else:
            with pytest.raises(UnsupportedOperation):
                self.store.retry(known, fresh)

    @rule(pick=picks)
    def cancel_by_id(self, pick):
        known = self._any(pick)
        if known is not None:
            assert self.store.cancel(known) == self.model.cancel([known])

    @rule(tag=st.sampled_from([*TAGS, "w.b"]))
    def cancel_by_tag(self, tag):
        found = [
            j.id for j in self.model.jobs.values() if not j.is_finished and (tag in j.tags or tag == j.spec.worker)
        ]
        assert self.store.cancel_matching(tag=tag) == self.model.cancel(found)

    @rule(name=st.sampled_from(NAMES))
    def cancel_by_name(self, name):
        found = [job.id for job in self.model.jobs.values() if not job.is_finished and name in job.names]
        assert self.store.cancel_matching(unique_name=name) == self.model.cancel(found)

    @precondition(lambda self: len(self.model.jobs) > 12)
    @rule()
    def cancel_all(self):
        assert self.store.cancel_all() == self.model.cancel(
            [j.id for j in self.model.jobs.values() if not j.is_finished]
        )

    # -- nodes --------------------------------------------------------------------------------------------------------

    @rule(seat=st.integers(0, 1), limit=st.integers(1, 4))
    def claim(self, seat, limit):
        self._claim(self.seats[seat], limit)

    def _claim(self, node: str, limit: int) -> list[Claim]:
        self.tokens += 1
        lanes = self.store.ready_lanes()
        claims = self.store.claim(lanes, node, self.tokens, limit)
        before = self.model.claimable()
        taken = []
        for claim in claims:
            job = self.model.jobs[claim.id]
            assert job in before
            assert (claim.run_attempt_count, claim.interruptions) == (job.attempts, job.interruptions)
            parents = [self.model.jobs[parent].output for parent in job.parents]
            assert claim.inputs == [job.spec.input, *parents]
            job.claim = (node, self.tokens)
            taken.append(claim)
        assert len(claims) == min(limit, len(before))
        left = self.model.claimable()
        order = [(self.model.jobs[claim.id].urgency, self.model.jobs[claim.id].run_at) for claim in claims]
        assert order == sorted(order)
        assert not left or not order or order[-1] <= (left[0].urgency, left[0].run_at)
        self.hands.setdefault(node, []).extend(taken)
        return taken

    @rule(seat=st.integers(0, 1), pick=picks)
    def start(self, seat, pick):
        hand = self.hands[self.seats[seat]]
        if hand:
            self._start(hand[pick % len(hand)])

    def _start(self, claim: Claim) -> None:
        written = self.store.write_starts([(claim, self.clock.now())])
        assert (claim.id in written) == self.model.start(claim.id, claim.token)
        claim.start_written = claim.start_written or claim.id in written

    @rule(seat=st.integers(0, 1), how=st.lists(endings, min_size=1, max_size=4), after=st.sampled_from([None, 0, 7]))
    def finish(self, seat, how, after):
        hand = self.hands[self.seats[seat]]
        ended = [self._outcome(hand.pop(0), ending, after) for ending in how if hand]
        self._settle(ended)
        self.ghosts = [*self.ghosts, *ended][-20:]

    def _outcome(self, claim: Claim, ending: Ending, after: int | None) -> tuple[Claim, Outcome]:
        began = ending is not Ending.GIVEN_BACK
        return claim, Outcome(
            ending,
            output=Data(of=claim.id).to_json() if ending is Ending.SUCCEEDED else None,
            error='{"exc_type":"E","message":"m"}' if ending is Ending.FAILED else None,
            after=after if ending is Ending.RETRY else None,
            reason=StopReason.APP_STANDBY if ending is Ending.STOPPED else StopReason.NOT_STOPPED,
            started_at=self.clock.monotonic() if began else None,
        )

    def _settle(self, ended: list[tuple[Claim, Outcome]]) -> None:
        if not ended:
            return
        now, monotonic = self.clock.now(), self.clock.monotonic()
        settled = self.store.settle([judge(c, outcome, now, monotonic, self.store.terms) for c, outcome in ended])
        # Each work stands in a batch once, as a node has it once; who owns what is decided before anything moves.
        mine = [each for each in ended if self.model.owns(each[0].id, each[0].token)]
        known = {c.id for c, _ in ended if self.model.has_succeeded_by(c.id, c.token)}
        for claim, outcome in mine:
            self._move(claim, outcome)
        self.model.release_children(claim.id for claim, outcome in mine if outcome.ending is Ending.SUCCEEDED)
        assert not settled.held
        assert settled.accepted == {claim.id for claim, _ in mine} | known
        assert settled.stale == {claim.id for claim, _ in ended} - settled.accepted

    def _move(self, claim: Claim, outcome: Outcome) -> None:
        attempts = claim.run_attempt_count
        if outcome.ending is Ending.SUCCEEDED:
            self.model.succeed(claim.id, attempts, outcome.output or "")
        elif outcome.ending is Ending.FAILED:
            self.model.fail(claim.id, attempts + 1)
        elif outcome.ending is Ending.RETRY:
            after = None if outcome.after is None else int(outcome.after) * SECOND
            self.model.retry_later(claim.id, attempts, after)
        elif outcome.ending is Ending.LOST:
            self.model.lose(claim.id, attempts, claim.generation)
        else:
            self.model.give_back(claim.id, attempts, claim.generation)

    @precondition(lambda self: self.ghosts)
    @rule(pick=picks)
    def finish_once_more(self, pick):
        claim, outcome = self.ghosts[pick % len(self.ghosts)]
        self._settle([(claim, outcome)])

    @rule(seat=st.integers(0, 1))
    def crash(self, seat):
        """The process is gone between two commits: a new one comes, the others see the old lease run out in time."""
        node = self.seats[seat]
        self._drop(node)
        self.seats[seat] = self._register()

    def _drop(self, node: str) -> None:
        ended = Outcome(Ending.SUCCEEDED, output="{}", started_at=0.0)
        self.ghosts += [(claim, ended) for claim in self.hands.pop(node)]

    @rule(seat=st.integers(0, 1))
    def crash_seen_at_once(self, seat):
        node = self.seats[seat]
        self.crash(seat)
        self.store.give_up([node])
        self.model.leases[node] = 0
        self._heal(self.clock.now())

    @rule(seat=st.integers(0, 1), limit=st.integers(1, 3))
    def wake_from_the_dead_and_claim(self, seat, limit):
        """A frozen node is declared lost, wakes up and claims before it has noticed."""
        node = self.seats[seat]
        self.store.give_up([node])
        if node in self.model.leases:
            self.model.leases[node] = 0
        self._heal(self.clock.now())
        self._claim(node, limit)

    @rule(seat=st.integers(0, 1))
    def renew(self, seat):
        node = self.seats[seat]
        until = self.clock.now() + LEASE
        alive = self.store.renew(node, until, "{}")
        assert alive == (node in self.model.leases)
        if alive:
            self.model.leases[node] = until
        else:
            self._drop(node)
            self.seats[seat] = self._register()

    @rule(seat=st.integers(0, 1))
    def say_goodbye(self, seat):
        node = self.seats[seat]
        if self.hands[node]:
            return
        self.store.unregister(node)
        if not any(job.claim and job.claim[0] == node for job in self.model.jobs.values()):
            self.model.leases.pop(node, None)
        self.seats[seat] = self._register()

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0, 1, 5, 20, 60, 4000]), look=st.booleans())
    def time_passes(self, seconds, look):
        self.clock.move(seconds * SECOND)
        self.model.now = self.clock.now()
        if look:
            self._promote_and_expire()

    def _promote_and_expire(self) -> None:
        self.store.promote()
        self.model.promote()
        assert self.store.expire() == self.model.expire()
        due = self.store.next_moment()
        assert due is None or due > self.clock.now()

    @rule()
    def heal(self):
        self._heal(self.clock.now())

    def _heal(self, before: int) -> None:
        lost = [node for node, until in self.model.leases.items() if until < before]
        held = {job.claim[0] for job in self.model.jobs.values() if job.claim is not None}
        orphans = sorted(held - self.model.leases.keys())
        while self.store.heal(before) is not None:
            pass
        self.model.heal([*lost, *orphans])

    @rule(only_expired=st.booleans())
    def prune(self, only_expired):
        assert self.store.prune(only_expired=only_expired) == self.model.prune(only_expired=only_expired)

    @rule()
    def sweep(self):
        assert self.store.sweep("") == ("", 0)

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def store_and_model_agree(self):
        self.watcher.look(self.model)

    def teardown(self):
        """Whatever happened: now that nothing more does, everything that was accepted ends."""
        try:
            for _ in range(400):
                if all(job.is_finished for job in self.model.jobs.values()):
                    return
                self.time_passes(7200, look=True)
                self._heal(self.clock.now() + LEASE + 1)
                node = self.seats[0] = self._register()
                ended = [self._outcome(claim, Ending.SUCCEEDED, None) for claim in self._claim(node, 100)]
                self._settle(ended)
                self.watcher.look(self.model)
            unfinished = [job for job in self.model.jobs.values() if not job.is_finished]
            raise AssertionError(f"expected everything to end, got: {unfinished}")
        finally:
            self.model.jobs.clear()
