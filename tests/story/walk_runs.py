"""How runs begin and end, and how nodes die, in a random walk."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from celery_workmanager import Data
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.verdict import Verdict, judge
from celery_workmanager.work import StopReason
from tests.story.draws import endings, met_constraints, picks
from tests.story.model_words import SECOND
from tests.story.walk_base import LEASE
from tests.story.walk_claims import Claims


class Runs(Claims):
    """Starts, ends, repeated and late ends, crashes and leases."""

    @rule(seat=st.integers(0, 1), most=st.integers(1, 4), begun=st.integers(0, 2), how=st.lists(endings, max_size=3))
    def take_and_finish(self, seat, most, begun, how):
        """What a node does most of the time."""
        node = self.seats[seat]
        self.take(node, most)
        for claim in self.hands[node][:begun]:
            self._start(claim)
        self._finish(node, how)

    @rule(rounds=st.lists(st.lists(endings, max_size=3), min_size=2, max_size=4), seconds=st.sampled_from([0, 1, 10]))
    def be_busy(self, rounds, seconds):
        """Both nodes, in turn."""
        for at, how in enumerate(rounds):
            node = self.seats[at % 2]
            self.take(node, 3)
            self._finish(node, how)
            self.watcher.look(self.model)
            self.let_time_pass(seconds)

    @rule(seat=st.integers(0, 1), pick=picks)
    def start(self, seat, pick):
        hand = self.hands[self.seats[seat]]
        if hand:
            self._start(hand[pick % len(hand)])

    def _start(self, claim: Claim) -> None:
        answer = self.ask(lambda: self.store.write_starts([(claim, self.clock.now())]))
        if answer.applied:
            began = self.model.start(claim.id, claim.token)
            assert not answer.came or (claim.id in (answer.value or ())) == began
            claim.start_written = claim.start_written or began

    @rule(seat=st.integers(0, 1), how=st.lists(endings, min_size=1, max_size=4), after=st.sampled_from([None, 0, 7]))
    def finish(self, seat, how, after):
        self._finish(self.seats[seat], how, after)

    def _finish(self, node: str, how: list[Ending], after: int | None = None) -> None:
        hand = self.hands[node]
        ended = [self.outcome(hand.pop(0), ending, after) for ending in how if hand]
        self.settle(ended)
        self.ghosts = [*self.ghosts, *ended][-20:]

    def outcome(self, claim: Claim, ending: Ending, after: int | None = None) -> tuple[Claim, Outcome]:
        began = ending is not Ending.GIVEN_BACK
        return claim, Outcome(
            ending,
            output=Data(of=claim.id).to_json() if ending is Ending.SUCCEEDED else None,
            error='{"exc_type":"E","message":"m"}' if ending is Ending.FAILED else None,
            after=after if ending is Ending.RETRY else None,
            reason=StopReason.APP_STANDBY if ending is Ending.STOPPED else StopReason.NOT_STOPPED,
            started_at=self.clock.monotonic() if began else None,
        )

    def _verdict(self, claim: Claim, outcome: Outcome) -> Verdict:
        return judge(claim, outcome, self.clock.now(), self.clock.monotonic(), self.store.terms)

    def settle(self, ended: list[tuple[Claim, Outcome]]) -> None:
        """Write ends, those of two runs of one work apart, as nodes do."""
        while ended:
            first = [each for at, each in enumerate(ended) if each[0].id not in {one.id for one, _ in ended[:at]}]
            self._settle(first)
            ended = [each for each in ended if each not in first]

    def _settle(self, ended: list[tuple[Claim, Outcome]]) -> None:
        # Who owns what is decided before anything moves.
        mine = [each for each in ended if self.model.owns(each[0].id, each[0].token)]
        known = {claim.id for claim, _ in ended if self.model.has_finished_by(claim.id, claim.token)}
        answer = self.ask(lambda: self.store.settle([self._verdict(*each) for each in ended]))
        if answer.applied:
            for claim, outcome in mine:
                self._move(claim, outcome)
            self.model.release_children(claim.id for claim, outcome in mine if outcome.ending is Ending.SUCCEEDED)
        if not answer.came:
            self._settle(ended)  # a node tells until it is heard; a second time it changes nothing
            return
        assert answer.value is not None
        assert not answer.value.held
        assert answer.value.accepted == {claim.id for claim, _ in mine} | known, "4: one outcome a run"
        assert answer.value.stale == {claim.id for claim, _ in ended} - answer.value.accepted

    def _move(self, claim: Claim, outcome: Outcome) -> None:
        attempts = claim.run_attempt_count
        if self.model.let_go_of_completed(self.model.jobs[claim.id]):
            return
        if outcome.ending is Ending.SUCCEEDED:
            self.model.succeed(claim.id, attempts, outcome.output or "")
        elif outcome.ending is Ending.FAILED:
            self.model.fail(claim.id, attempts + 1)
        elif outcome.ending is Ending.RETRY:
            after = None if outcome.after is None else int(outcome.after) * SECOND
            self.model.retry_later(claim.id, attempts, after)
        elif outcome.ending is Ending.LOST:
            self.model.lose(claim.id, attempts, claim.generation)
        elif outcome.ending is Ending.STOPPED:
            self.model.stop(claim.id, attempts, claim.generation, outcome.reason.name)
        else:
            self.model.give_back(claim.id, attempts, claim.generation)

    @precondition(lambda self: self.ghosts)
    @rule(pick=picks)
    def finish_once_more(self, pick):
        claim, outcome = self.ghosts[pick % len(self.ghosts)]
        self.settle([(claim, outcome)])

    @rule(seat=st.integers(0, 1), pick=picks)
    def complete_in_a_transaction(self, seat, pick):
        """A worker finishes its work together with rows of its own; its run ends later, however it does."""
        hand = self.hands[self.seats[seat]]
        if not hand:
            return
        claim, outcome = self.outcome(hand[pick % len(hand)], Ending.SUCCEEDED)
        is_mine = self.model.owns(claim.id, claim.token)
        is_known = self.model.has_finished_by(claim.id, claim.token)
        with self.database.transaction() as theirs:
            assert self.store.complete(theirs, self._verdict(claim, outcome)) == (is_mine or is_known)
        if is_mine:
            self.model.complete(claim.id, claim.run_attempt_count, outcome.output or "")

    # -- nodes --------------------------------------------------------------------------------------------------------

    @rule(seat=st.integers(0, 1), met=met_constraints)
    def readings_change(self, seat, met):
        self.meets[self.seats[seat]] = met

    @rule(seat=st.integers(0, 1), how=st.sampled_from(["crash", "crash_seen_at_once", "wake_from_the_dead_and_claim"]))
    def die(self, seat, how):
        getattr(self, f"_{how}")(seat)

    def _crash(self, seat: int) -> None:
        """The process is gone between two commits: a new one comes, the others see the old lease run out in time."""
        self.drop(self.seats[seat])
        self.seats[seat] = self.register(seat)

    def drop(self, node: str) -> None:
        ended = Outcome(Ending.SUCCEEDED, output="{}", started_at=0.0)
        self.ghosts = [*self.ghosts, *((claim, ended) for claim in self.hands.pop(node))][-20:]

    def _crash_seen_at_once(self, seat: int) -> None:
        node = self.seats[seat]
        self._crash(seat)
        self.store.give_up([node])
        self.model.leases[node] = 0
        self.heal_before(self.clock.now())

    def _wake_from_the_dead_and_claim(self, seat: int) -> None:
        """A frozen node is declared lost, wakes up and claims before it has noticed."""
        node = self.seats[seat]
        self.store.give_up([node])
        if node in self.model.leases:
            self.model.leases[node] = 0
        self.heal_before(self.clock.now())
        self.take(node, 2)

    @rule(seat=st.integers(0, 1), what=st.sampled_from(["renew", "put_back_what_was_forgotten", "say_goodbye", "heal"]))
    def live_on(self, seat, what):
        getattr(self, f"_{what}")(seat)

    def _put_back_what_was_forgotten(self, seat: int) -> None:
        """The answer to a claim was lost with its connection: the node finds the works that it knows nothing of."""
        node = self.seats[seat]
        known = {(claim.id, claim.token) for claim in self.hands[node]}
        owned = self.store.owned(node)
        assert owned == {job.id: job.claim[1] for job in self.model.jobs.values() if job.claim and job.claim[0] == node}
        forgotten = sorted(each for each, token in owned.items() if (each, token) not in known)
        if forgotten:
            answer = self.ask(lambda: self.store.put_back(node, forgotten))
            if answer.applied:
                self.model.put_back(node, lambda job: job.id in forgotten)

    def _renew(self, seat: int) -> None:
        node = self.seats[seat]
        until = self.clock.now() + LEASE
        alive = self.store.renew(node, until, "{}")
        assert alive == (node in self.model.leases)
        if alive:
            self.model.leases[node] = until
        else:
            self.drop(node)
            self.seats[seat] = self.register(seat)

    def _say_goodbye(self, seat: int) -> None:
        node = self.seats[seat]
        if self.hands[node]:
            return
        self.store.unregister(node)
        if not any(job.claim and job.claim[0] == node for job in self.model.jobs.values()):
            self.model.leases.pop(node, None)
        self.seats[seat] = self.register(seat)

    def _heal(self, seat: int) -> None:
        del seat
        self.heal_before(self.clock.now())

    def heal_before(self, before: int) -> None:
        lost = [node for node, until in self.model.leases.items() if until < before]
        held = {job.claim[0] for job in self.model.jobs.values() if job.claim is not None}
        orphans = sorted(held - self.model.leases.keys())

        def until_none_is_lost() -> None:
            while self.store.heal(before) is not None:
                pass

        self.until_done(until_none_is_lost)
        self.model.heal([*lost, *orphans])
