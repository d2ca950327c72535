"""How nodes take works, in a random walk: by what they meet, within limits and quota, and when the answer is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule
from sqlalchemy import select

from celery_workmanager.constraints import Constraints
from celery_workmanager.lanes import Lane
from celery_workmanager.outcome import Claim
from celery_workmanager.store import triggering
from celery_workmanager.store.claiming import Look
from celery_workmanager.tables import limit as limits
from celery_workmanager.triggers import Triggered
from tests.story.draws import CONSTRAINTS, picks
from tests.story.model_words import Job
from tests.story.walk_base import Answer, Walk


class Claims(Walk):
    """Each look of a node is followed by its claims: of works with limits, and of others."""

    @rule(seat=st.integers(0, 1), most=st.integers(1, 4))
    def claim(self, seat, most):
        self.take(self.seats[seat], most)

    def take(self, node: str, most: int) -> list[Claim]:
        seen = self._look()
        if ("node", self.names[node]) in self.model.paused:
            assert self.names[node] in seen.drained
            return []
        self.tokens += 1
        claims = self._claim(node, most, seen) + self._claim_limited(node, most, seen)
        for claim in claims:
            self._compare(claim)
        self.hands.setdefault(node, []).extend(claims)
        return claims

    def _look(self) -> Look:
        seen = self.store.look(())
        ready = {
            (job.spec.queue, job.spec.worker, job.asks_for)
            for job in self.model.jobs.values()
            if self.model.is_ready(job)
            and not job.spec.is_limited
            and not job.waits_for_files
            and not self.model.lane_is_paused(job)
        }
        kinds = [seen.kinds[lane] for lane in seen.lanes]
        found = {(kind.queue, kind.worker, kind.constraints) for kind in kinds if kind.mark == ""}
        assert found == {(queue, worker, Constraints(**CONSTRAINTS[asked])) for queue, worker, asked in ready}
        return seen

    def _lanes(self, node: str, seen: Look, mark: str) -> list[int]:
        met = [Constraints(**CONSTRAINTS[each]) for each in (None, *self.meets[node])]

        def serves(kind: Lane) -> bool:
            return kind.mark == mark and kind.constraints in met

        return [lane for lane in seen.lanes if serves(seen.kinds[lane])]

    def _compare(self, claim: Claim) -> None:
        job = self.model.jobs[claim.id]
        assert (claim.run_attempt_count, claim.interruptions) == (job.attempts, job.interruptions)
        assert claim.inputs == [job.spec.input, *(self.model.jobs[parent].output or "{}" for parent in job.parents)]
        assert claim.has_permits == bool(job.permits)

    # -- works without limits: which they are is known beforehand ----------------------------------------------------

    def _claim(self, node: str, most: int, seen: Look) -> list[Claim]:
        lanes, token = self._lanes(node, seen, ""), self.tokens
        if not lanes:
            return []
        taken = self.model.claimable(self.meets[node])[:most]
        answer = self.ask(lambda: self.store.claim(lanes, node, token, most, stamp=seen.stamp))
        if not answer.came:
            self._see_what_broke(answer, taken, node)
            return []
        for job in taken:
            job.claim = (node, token)
        for job in self.model.out_of_quota(taken):
            self.model.refuse(job)
        kept = [job for job in taken if job.claim is not None]
        kept = [job for job in kept if not self.model.missed(job) or self.model.pass_over(job)]
        assert [claim.id for claim in answer.value or ()] == [job.id for job in kept]
        return answer.value or []

    def _see_what_broke(self, answer: Answer[Any], taken: list[Job], node: str) -> None:
        """A claim is several commits where there is a quota, or periods were missed: each is applied, or it is not."""
        if not answer.applied:
            return
        for job in taken:
            job.claim = (node, self.tokens)
        rows = self.rows([job.id for job in taken])
        rates = self.model.limits.rates
        before = dict(rates.full_at)
        out = self.model.out_of_quota(taken)
        if not self._is_spent():
            rates.full_at = before
            out = []
        for job in out:
            if rows[job.id].token != self.tokens:
                self.model.refuse(job)
        for job in taken:
            is_mine = rows[job.id].token == self.tokens
            if job.claim is not None and self.model.missed(job) and (not is_mine or rows[job.id].period_at != job.at):
                self.model.pass_over(job)

    def _is_spent(self) -> bool:
        with self.database.plain() as connection:
            stored = dict(connection.execute(select(limits.c.key, limits.c.full_at)).all())
        full_at = self.model.limits.rates.full_at
        return all(stored.get(key) == at for key, at in full_at.items() if at > self.model.now)

    # -- works with limits: it is known what must hold -------------------------------------------------------------

    def _claim_limited(self, node: str, most: int, seen: Look) -> list[Claim]:
        lanes, token = self._lanes(node, seen, "limit"), self.tokens
        if not lanes:
            return []
        might = self.model.claimable(self.meets[node], limited=True)
        before = self.rows([job.id for job in might])
        answer = self.ask(lambda: self.store.claim_limited(lanes, node, token, most, stamp=seen.stamp))
        after = self.rows([job.id for job in might])
        if answer.came:
            claimed = [self.model.jobs[claim.id] for claim in answer.value or ()]
            assert {job.id for job in claimed} == {each for each, row in after.items() if row.token == token}
        else:
            claimed = [job for job in might if after[job.id].token == token]
        assert len(claimed) <= most
        for job in claimed:
            assert job in might
            assert self.model.limits.has_room(job, self.model.now), "more run than may"
            self.model.limits.enter(job, self.model.now)
            job.claim = (node, token)
            if self.model.missed(job) and (answer.came or after[job.id].period_at != job.at):
                assert self.model.pass_over(job)
        if answer.came and len(claimed) < most:
            were_ready = [job for job in might if before[job.id].parked_by is None and job not in claimed]
            self._are_parked_for_a_reason(were_ready, after)
        return answer.value or []

    def _are_parked_for_a_reason(self, jobs: list[Job], rows: dict[str, Any]) -> None:
        """A node with places left has taken all for which there was room, but for what it has woken on the way."""
        promised = set[str]()
        for job in self.model.jobs.values():
            if self.model.is_ready(job) and (job.id not in rows or rows[job.id].parked_by is None):
                promised |= job.spec.keys
        for job in jobs:
            assert rows[job.id].parked_by is not None, "it was neither claimed nor parked"
            has_room = self.model.limits.has_room(job, self.model.now)
            assert not has_room or not promised.isdisjoint(job.spec.keys), "it was parked beside room"

    # -- works that wait for files --------------------------------------------------------------------------------

    @rule(seat=st.integers(0, 1), pick=picks)
    def files_change(self, seat, pick):
        self.change_files(self.seats[seat], pick)

    def change_files(self, node: str, pick: int) -> None:
        seen = self._look()
        if self.names[node] in seen.drained:
            return
        lanes = self._lanes(node, seen, "trigger")
        meets = {None, *self.meets[node]}
        waiting = [
            job
            for job in self.model.jobs.values()
            if self.model.is_ready(job)
            and job.waits_for_files
            and job.spec.constraint in meets
            and not self.model.lane_is_paused(job)
        ]
        found = {each.id: each for each in triggering.waiting(self.store, lanes)}
        assert found.keys() == {job.id for job in waiting}
        if waiting:
            job = sorted(waiting, key=lambda job: job.id)[pick % len(waiting)]
            self._fire(job, found[job.id], node)

    def _fire(self, job: Job, seen: triggering.Waiting, node: str) -> None:
        self.tokens += 1
        told = Triggered(("/in/a",), ("/in",))
        answer = self.ask(lambda: triggering.fire(self.store, seen, told, node, self.tokens))
        if not answer.applied:
            return
        claims = answer.value or []
        if job.expires_at is not None and job.expires_at <= self.model.now:
            assert claims == []
            return
        job.triggered = True
        if not job.spec.is_limited:
            job.claim = (node, self.tokens)
        assert not answer.came or [claim.id for claim in claims] == ([] if job.spec.is_limited else [job.id])
        for claim in claims:
            self._compare(claim)
        self.hands.setdefault(node, []).extend(claims)
