"""The store: the only writer. One method an arrow, one transaction a method; it executes what the rules decide."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from celery_workmanager import queries
from celery_workmanager.bell import ring
from celery_workmanager.outcome import Claim
from celery_workmanager.planning import Insertion, Step
from celery_workmanager.policies import UpdateResult
from celery_workmanager.requests import WorkRequest
from celery_workmanager.store import (
    cancelling,
    claiming,
    completing,
    deleting,
    ending,
    facts,
    finishing,
    inserting,
    leasing,
    short_ways,
    succeeding,
    updating,
    upkeeping,
)
from celery_workmanager.store.finishing import Settled
from celery_workmanager.store.following import Taker
from celery_workmanager.store.graph import HeldByOthers
from celery_workmanager.store.taking import TakingStore
from celery_workmanager.verdict import Verdict
from celery_workmanager.work import State, StopReason

__all__ = ["Settled", "Store", "Taker"]


class Store(TakingStore):
    """Works in one database. Every method may raise StoreUnavailable, or StoreNotMigrated on first use."""

    # -- what producers do --------------------------------------------------------------------------------------

    def enqueue(
        self,
        steps: Sequence[Step],
        queue_of: Callable[[WorkRequest], str],
        connection: Connection | None = None,
    ) -> Insertion:
        """Store `steps` in one transaction (the caller's, if given). Raises UniqueNameBusy, DuplicateWorkId."""
        # Ids are fresh as a rule. In a transaction that isn't ours a clash could not be undone, so it asks first;
        # so does a chain, whose first works may have been enqueued before.
        joined = connection is not None or self.database.is_joined
        look_for_ids = joined or any(step.parents for step in steps)
        try:
            if not look_for_ids and (done := self._enqueue_quickly(steps, queue_of)) is not None:
                return done
            return self._enqueue(
                steps, queue_of, connection, is_ours=not joined, look_for_ids=look_for_ids, may_refuse=not joined
            )
        except IntegrityError:
            if joined:
                raise
            return self._enqueue(steps, queue_of, None, is_ours=True, look_for_ids=True, may_refuse=False)

    def _enqueue_quickly(self, steps: Sequence[Step], queue_of: Callable[[WorkRequest], str]) -> Insertion | None:
        """Store what is one statement, and answer where KEEP stores nothing; ``None``: it takes a transaction."""
        if (single := short_ways.single_of(steps)) is not None:
            facts = (queue_of(single), self.clock.now(), self.terms)
            return self._write_single(lambda conn: short_ways.enqueue_single(conn, single, *facts))
        if not short_ways.may_be_kept(steps):
            return None
        held = self._read(lambda conn: short_ways.look_at(conn, steps))
        if (kept := short_ways.kept(steps, held)) is not None:
            return kept
        fresh = short_ways.fresh_of(steps, held) if self.database.dialect == "postgresql" else None
        return None if fresh is None else self._enqueue_fresh(fresh, str(steps[0].name), queue_of(fresh))

    def _enqueue_fresh(self, request: WorkRequest, unique: str, queue: str) -> Insertion | None:
        facts = (queue, self.clock.now(), self.terms, self._name_wait)
        return self._write_single(lambda conn: short_ways.enqueue_fresh(conn, request, unique, *facts))

    def _enqueue(
        self,
        steps: Sequence[Step],
        queue_of: Callable[[WorkRequest], str],
        connection: Connection | None,
        *,
        is_ours: bool,
        look_for_ids: bool,
        may_refuse: bool,
    ) -> Insertion:
        queue_of = inserting.once_each(queue_of)

        def change(conn: Connection) -> Insertion:
            return inserting.enqueue(
                conn,
                steps,
                queue_of,
                self.clock.now(),
                self.terms,
                name_wait=self._name_wait,
                is_ours=is_ours,
                look_for_ids=look_for_ids,
                may_refuse=may_refuse,
            )

        return self._write(change, connection)

    def cancel(self, work_id: str, connection: Connection | None = None) -> list[str]:
        """Cancel a work and all downstream; returns what became CANCELLED."""
        return self._write(lambda conn: self._cancel(conn, [work_id]), connection)

    def revoke(
        self, ids: Sequence[str], reason: StopReason, connection: Connection | None = None, *, wait: bool = True
    ) -> list[str]:
        """Cancel the unfinished of `ids` and all downstream, running ones with `reason`. No `wait`: HeldByOthers."""
        how = {"reason": reason, "only_unfinished_roots": True, "wait": wait}
        return self._write(lambda conn: self._cancel(conn, ids, **how), connection)

    def cancel_matching(
        self,
        *,
        tag: str | None = None,
        unique_name: str | None = None,
        connection: Connection | None = None,
        reason: StopReason = StopReason.CANCELLED_BY_APP,
    ) -> list[str]:
        """Cancel unfinished works with the tag or unique name (neither: all) and all downstream, in chunks."""
        cancelled: list[str] = []

        def change(conn: Connection) -> tuple[list[str], list[str]]:
            roots = cancelling.unfinished_with(
                conn, tag_name=tag, unique_name=unique_name, after=after, limit=deleting.CHUNK
            )
            return roots, self._cancel(conn, roots, reason=reason)

        after = ""
        while True:
            roots, done = self._write(change, connection)
            cancelled += done
            if not roots:
                return cancelled
            after = roots[-1]

    def _cancel(self, connection: Connection, roots: Sequence[str], **how: Any) -> list[str]:
        cancelled = cancelling.cancel_with_descendants(connection, roots, self.clock.now(), self.terms, **how)
        if cancelled:
            ring(connection)
        return cancelled

    def cancel_all(self, connection: Connection | None = None) -> list[str]:
        """Cancel everything unfinished and remember when."""
        self._write(lambda conn: facts.remember(conn, queries.LAST_CANCEL_ALL, str(self.clock.now())), connection)
        return self.cancel_matching(connection=connection)

    def update(self, request: WorkRequest, queue: str, connection: Connection | None = None) -> UpdateResult:
        """Replace the specification of an unfinished work. Raises WorkNotFound."""

        def change(conn: Connection) -> UpdateResult:
            done = updating.update_work(conn, request, queue, self.clock.now(), self.terms)
            ring(conn)
            return done

        return self._write(change, connection)

    def retry(self, work_id: str, new_id: str, connection: Connection | None = None) -> None:
        """Enqueue a finished work again under a new id."""

        def change(conn: Connection) -> None:
            updating.retry_work(conn, work_id, new_id, self.clock.now())
            ring(conn)

        self._write(change, connection)

    def make_due(self, work_id: str, connection: Connection | None = None) -> bool:
        """Let a delayed work be claimed now; ``False`` when it waits for no moment. Raises WorkNotFound."""
        return bool(self._write(lambda conn: updating.make_due(conn, work_id, self.clock.now()), connection))

    def prune(self, *, only_expired: bool, connection: Connection | None = None) -> int:
        """Delete finished works (`only_expired`: whose retention has ended), a chunk at a time; returns how many."""
        before = self.clock.now() if only_expired else None
        total = 0
        while some := self._write(lambda conn: deleting.prune(conn, before), connection):
            total += some
        return total

    def prune_results(self) -> int:
        """Delete results of ordinary tasks whose lifetime has ended, a chunk at a time; returns how many."""
        total = 0
        while some := self._write(lambda conn: upkeeping.prune_results(conn, self.clock.now())):
            total += some
        return total

    # -- what nodes do ------------------------------------------------------------------------------------------

    def look(self, known: Container[int] | None = None) -> claiming.Look:
        """The lanes in which something may be claimed, and what those stand for that are not among the `known`."""
        self.open()
        with self.database.plain(relaxed=True) as connection:
            return claiming.look(connection, known)

    def ready_lanes(self) -> list[int]:
        """The same, for who doesn't claim."""
        return self.look().lanes

    def write_starts(self, starts: Sequence[tuple[Claim, int]]) -> set[str]:
        """Write RUNNING for runs that have begun; returns the ids it was written for."""
        return self._write(lambda conn: claiming.write_starts(conn, starts))

    def write_progress(self, entries: Sequence[tuple[Claim, str]]) -> set[str]:
        """Replace the progress of running works."""
        return self._write(lambda conn: claiming.write_progress(conn, entries))

    def settle(self, verdicts: Sequence[Verdict], taker: Taker | None = None) -> Settled:
        """Write verdicts, each on another work, in one transaction; `held`: not now, try again. Raises DBAPIError.

        `taker` claims works that are unblocked by it. Those that only finish their works (on PostgreSQL and SQLite) and
        those that others have waited for (on PostgreSQL) are transactions before it, which are one statement each.
        """
        settled = self._settle_quickly(verdicts, taker)
        others = [verdict for verdict in verdicts if verdict.id not in settled.accepted]
        return settled.and_then(self._settle_others(others, None if settled.claims else taker)) if others else settled

    def _settle_quickly(self, verdicts: Sequence[Verdict], taker: Taker | None) -> Settled:
        settled, now = Settled(), self.clock.now()
        if self.database.dialect not in ("postgresql", "sqlite") or self.database.is_joined:
            return settled
        is_postgresql = self.database.dialect == "postgresql"
        if is_postgresql and (parents := [verdict for verdict in verdicts if verdict.only_releases]):
            settled = self._write_single(lambda conn: succeeding.write(conn, parents, now, taker))
        if plain := [verdict for verdict in verdicts if verdict.is_plain]:
            settled.accepted |= self._write_single(lambda conn: ending.write_plain(conn, plain, now))
        self.release([each.id for each in verdicts if each.has_permits and each.id in settled.accepted])
        return settled

    def _settle_others(self, verdicts: Sequence[Verdict], taker: Taker | None) -> Settled:
        held: set[str] = set()
        while True:
            now = [verdict for verdict in verdicts if verdict.id not in held]
            try:
                settled: Settled = self._write(lambda conn, now=now: self._settle(conn, now, taker))  # type: ignore[misc]
            except HeldByOthers as others:
                # Which parent a held descendant belongs to is not worth a query: those with children wait together.
                held |= self._with_children(now) if len(now) > 1 else {verdict.id for verdict in now}
                if len(held) == len(verdicts) or not others.ids:
                    return Settled(held={verdict.id for verdict in verdicts})
                continue
            settled.held |= held
            self.release([verdict.id for verdict in now if verdict.has_permits])
            return settled

    def _settle(self, connection: Connection, verdicts: Sequence[Verdict], taker: Taker | None) -> Settled:
        settled = finishing.settle(connection, verdicts, self.clock.now(), self.terms, taker=taker)
        if settled.unblocked > len(settled.claims) or any(verdict.state is State.ENQUEUED for verdict in verdicts):
            ring(connection)
        return settled

    def _with_children(self, verdicts: Sequence[Verdict]) -> set[str]:
        ids = [verdict.id for verdict in verdicts]
        return self._read(lambda conn: finishing.with_children(conn, ids))

    def complete(self, connection: Connection, verdict: Verdict) -> bool:
        """Finish a run inside the caller's transaction; ``False`` when the run no longer owns its work."""

        def change(conn: Connection) -> bool:
            done = completing.complete(conn, verdict, self.clock.now(), self.terms)
            ring(conn)
            return done

        return self.database.run(change, connection)

    def owned(self, node: str) -> dict[str, int]:
        """The works that `node` holds, with their tokens."""
        return self._read(lambda conn: claiming.owned(conn, node))

    def register(self, row: leasing.NodeRow) -> None:
        """Announce a node incarnation."""
        self._write(lambda conn: leasing.register(conn, row))

    def renew(self, node: str, lease_until: int, facts: str) -> bool:
        """Extend a node's lease; ``False``: it has been declared lost."""
        return self._write_single(lambda conn: leasing.renew(conn, node, lease_until, facts))

    def unregister(self, node: str) -> None:
        """Take an idle node off the list."""
        self._write(lambda conn: leasing.unregister(conn, node))

    def nodes(self) -> list[leasing.NodeRow]:
        """The node incarnations that are known."""
        return self._read(leasing.nodes)

    # -- what time does -----------------------------------------------------------------------------------------

    def give_up(self, nodes: Sequence[str]) -> None:
        """End the leases of nodes whose process is known to be gone."""
        self._write(lambda conn: leasing.give_up(conn, nodes))

    def look_for_lost(self, host: str, before: int) -> tuple[list[leasing.NodeRow], bool]:
        """The nodes of a machine (as `NodeRow.host` names it), and whether `heal` may find something to do."""
        return self._read(lambda conn: leasing.look_for_lost(conn, host, before))

    def heal(self, before: int, passing: Sequence[str] = ()) -> tuple[str, Settled] | None:
        """Put back a chunk of the works of one node whose lease ended before `before` (microseconds).

        Returns the node and what became of its works; ``None`` when there is no such node outside `passing`.
        """

        def change(conn: Connection, *, sparing: bool = False) -> tuple[str, Settled] | None:
            found = leasing.heal(conn, before, self.clock.now(), self.terms, passing=passing, sparing=sparing)
            if found is not None and found[1].accepted:
                ring(conn)
            return found

        done: tuple[str, Settled] | None
        try:
            done = self._write(change)
        except HeldByOthers:
            done = self._write(lambda conn: change(conn, sparing=True))
        if done is not None:
            self.release(sorted(done[1].accepted))
        return done

    def put_back(self, node: str, ids: Sequence[str]) -> Settled:
        """Put back works that `node` holds and knows nothing of; some may be left for the next call."""
        try:
            done: Settled = self._write(lambda conn: leasing.put_back(conn, node, ids, self.clock.now(), self.terms))
        except HeldByOthers as others:
            return Settled(held=others.ids)
        self.release(sorted(done.accepted))
        return done

    def promote(self) -> int:
        """Make due works claimable, a chunk at a time; returns how many."""
        total = 0
        while some := self._write(self._promote):
            total += some
        return total

    def _promote(self, connection: Connection) -> int:
        promoted = upkeeping.promote(connection, self.clock.now())
        if promoted:
            ring(connection)
        return promoted

    def pass_deadlines(self) -> int:
        """Let works whose deadline has come run whatever their constraints say, a chunk at a time; returns how many."""
        total = 0
        while some := self._write(self._pass_deadlines):
            total += some
        return total

    def _pass_deadlines(self, connection: Connection) -> int:
        passed = upkeeping.pass_deadlines(connection, self.clock.now())
        if passed:
            ring(connection)
        return passed

    def next_moment(self) -> int | None:
        """When the next work is due, expires or has its deadline (microseconds)."""
        return self._read(upkeeping.next_moment)

    def expire(self) -> list[str]:
        """Cancel works that had to start by now."""
        return self._write(lambda conn: upkeeping.expire(conn, self.clock.now(), self.terms))

    def sweep(self, after: str) -> tuple[str, int]:
        """Repair a chunk of BLOCKED works that nothing blocks any more; returns where to go on, and how many."""
        following, found = self._read(lambda conn: upkeeping.suspects(conn, after))
        repaired = self._write(lambda conn: upkeeping.repair(conn, found, self.clock.now(), self.terms)) if found else 0
        return following, repaired

    def empty(self) -> None:
        """Delete everything: for tests."""
        self._write(deleting.empty)
