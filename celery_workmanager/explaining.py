"""Why a work doesn't run: judged from what is known of it and of the nodes. Pure.

Names of the reasons: WorkManager's platform, ``JobScheduler.getPendingJobReasons``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from celery_workmanager.bounds import Bound, Room, next_token_at
from celery_workmanager.constraints import Constraints
from celery_workmanager.explanation import Explanation, Reason, ReasonKind
from celery_workmanager.pauses import PauseInfo, PauseKind, PauseTarget
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.serving import NodeFacts, listed, of_nodes, since, told
from celery_workmanager.timing import as_datetime, as_timedelta
from celery_workmanager.work import State, WorkError

#: Works that a reason names; the others are only counted.
SHOWN = 10
#: Nothing is counted further than this.
MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFacts:
    """A work as it is stored (or would be); moments in microseconds."""

    id: str
    worker: str
    queue: str
    state: State
    due_at: int | None
    urgency: int
    expires_at: int | None
    deadline_at: int | None
    started_at: int | None
    finished_at: int | None
    run_attempt_count: int
    #: The nominal moment of its occurrence; None: it is one-time work.
    period_at: int | None
    override_at: int | None
    #: The incarnation of the node that has it.
    node: str | None
    is_held: bool
    error: str | None
    options: Mapping[str, Any]

    def constraints_at(self, now: int) -> Constraints:
        """What a node must meet to run it at `now`: nothing once its deadline has passed."""
        if "constraints" not in self.options or self.options.get("deadline", now + 1) <= now:
            return Constraints.NONE
        asked, _ = Constraints.known_of(self.options["constraints"])
        return replace(asked, content_uri_triggers=()) if "triggered" in self.options else asked

    def unknown_constraints_at(self, now: int) -> tuple[str, ...]:
        """The names of constraints that only a later version knows."""
        if self.options.get("deadline", now + 1) <= now:
            return ()
        return Constraints.known_of(self.options.get("constraints", {}))[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known of a work and of all that may hold it up."""

    work: WorkFacts
    nodes: tuple[NodeFacts, ...] = ()
    #: Pauses that are in force for it, and those of nodes.
    pauses: tuple[PauseInfo, ...] = ()
    #: The first of its unfinished prerequisites with their states, and how many there are.
    blockers: Mapping[str, State] = field(default_factory=dict)
    blocker_count: int = 0
    #: Its limits of the fleet and its quota, what room these leave, and the first works that count under each.
    limits: tuple[Bound, ...] = ()
    quota: tuple[Bound, ...] = ()
    room: Room = field(default_factory=lambda: Room({}, {}, 0))
    holders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: How many works that wait for the same come before it, counted up to one more than `MOST`.
    before: int = 0


def explain(seen: Circumstances, now: int) -> Explanation:
    """Every reason why a work doesn't run at `now`, in order."""
    work = seen.work
    if work.state.is_finished:
        reasons = [_finished(work)]
    elif work.node is not None:
        reasons = [_in_hand(seen, work.node)]
    else:
        reasons = [*_waiting(seen, now)]
    is_running = reasons[0].kind is ReasonKind.RUNNING
    return Explanation(work.id, work.state, is_running, tuple(reasons), as_datetime(now))


def _waiting(seen: Circumstances, now: int) -> Iterator[Reason]:
    drained = {pause.label: pause.since for pause in seen.pauses if pause.kind is PauseKind.NODE}
    work = seen.work
    nodes = of_nodes(work.queue, work.worker, work.constraints_at(now), seen.nodes, drained, now)
    own = [*_expired(work, now), *_not_due(work, now), *_blocked(seen), *_paused(seen)]
    yield from own
    others = [*nodes.holding, *_unknown(work, now), *_limited(seen), *_out_of_quota(seen)]
    yield from others
    if not own and not others:
        yield from _downgraded(work) if nodes.busy or seen.before else ()
        yield from nodes.busy
        if not nodes.busy and not seen.before:
            yield Reason(ReasonKind.READY, f"nothing holds it up: {listed(nodes.able)} will claim it now")
    is_triggered = any(each.kind is ReasonKind.CONTENT_TRIGGER for each in others)
    yield from () if own or is_triggered else _position(seen)
    yield from _to_come(work, now)


# -- finished or in hand -----------------------------------------------------------------------------------------


def _finished(work: WorkFacts) -> Reason:
    error = f": {WorkError.from_json(work.error)}" if work.error else ""
    at = as_datetime(work.finished_at)
    return Reason(ReasonKind.FINISHED, f"it has been {work.state.name}{since(at)}{error}", since=at)


def _in_hand(seen: Circumstances, node_id: str) -> Reason:
    work = seen.work
    node = next((each for each in seen.nodes if each.id == node_id), None)
    if node is None or not node.is_alive:
        return _lost(seen, node)
    if work.state is State.RUNNING:
        at = as_datetime(work.started_at)
        return Reason(ReasonKind.RUNNING, f"it runs on {node.name}{since(at)}", since=at)
    return Reason(ReasonKind.STARTING, f"it is claimed by {node.name}, which is about to start it")


def _lost(seen: Circumstances, node: NodeFacts | None) -> Reason:
    name = "a node that is gone" if node is None else node.name
    at = None if node is None else node.lost_at
    silent = "" if at is None else f", whose lease ended at {told(at)}"
    heals = any(each.is_alive for each in seen.nodes)
    means = "a live node is about to put it back" if heals else "no live node is there to put it back"
    return Reason(ReasonKind.NODE_LOST, f"it is in the hands of {name}{silent}: {means}", since=at)


# -- what holds it, whatever the nodes ---------------------------------------------------------------------------


def _expired(work: WorkFacts, now: int) -> Iterator[Reason]:
    if work.expires_at is not None and work.expires_at <= now:
        at = as_datetime(work.expires_at)
        yield Reason(ReasonKind.EXPIRES, f"it has expired at {told(at)} and is about to be cancelled", since=at)


def _not_due(work: WorkFacts, now: int) -> Iterator[Reason]:
    if work.due_at is None or work.due_at <= now:
        return
    if work.override_at is not None:
        why = "its next run was set to that moment"
    elif work.run_attempt_count:
        why = f"the backoff after attempt {work.run_attempt_count}"
    elif work.period_at is not None:
        why = "its schedule"
    else:
        why = "its initial delay"
    until = as_datetime(work.due_at)
    yield Reason(ReasonKind.NOT_DUE, f"it is not due until {told(until)}: {why}", until=until)


def _blocked(seen: Circumstances) -> Iterator[Reason]:
    if seen.work.state is not State.BLOCKED:
        return
    ids = tuple(seen.blockers)[:SHOWN]
    names = [f"{each} ({seen.blockers[each].name})" for each in ids]
    if more := seen.blocker_count - len(ids):
        names.append(f"{more} more")
    works = "work" if seen.blocker_count == 1 else "works"
    text = f"it waits for {seen.blocker_count} {works} to succeed: {', '.join(names)}"
    yield Reason(ReasonKind.BLOCKED, text, work_ids=ids, count=seen.blocker_count)


def _paused(seen: Circumstances) -> Iterator[Reason]:
    mine = [pause for pause in seen.pauses if pause.kind is not PauseKind.NODE]
    for pause in mine:
        target = PauseTarget(pause.kind, pause.label)
        yield Reason(ReasonKind.PAUSED, f"the {target} is paused{since(pause.since)}", since=pause.since)
    if seen.work.is_held and not mine:
        yield Reason(ReasonKind.PAUSED, "it was paused, is resumed, and about to be freed")


def _unknown(work: WorkFacts, now: int) -> Iterator[Reason]:
    if unknown := work.unknown_constraints_at(now):
        text = (
            f"it asks for {listed(unknown, 'and')}, which this version doesn't know: only nodes of a later one take it"
        )
        yield Reason(ReasonKind.CONSTRAINT, text)


def _limited(seen: Circumstances) -> Iterator[Reason]:
    for bound in seen.limits:
        if seen.room.under(bound) > 0:
            continue
        if bound.per is None:
            ids, count = seen.holders[bound.key], seen.room.running[bound.key]
            more = f" and {count - len(ids)} more" if count > len(ids) else ""
            text = f"{count} of {bound.n} run under the limit {bound.key!r}: {', '.join(ids)}{more}"
            yield Reason(ReasonKind.CONCURRENCY, text, work_ids=ids, count=count)
        else:
            at = _free_at(seen.room, bound)
            often = f"{bound.n} in {as_timedelta(bound.per)}"
            yield Reason(ReasonKind.RATE, f"the rate {bound.key!r} ({often}) is used up until {told(at)}", until=at)


def _free_at(room: Room, bound: Bound) -> datetime:
    return as_datetime(next_token_at(bound, room.full_at[bound.key]))


def _out_of_quota(seen: Circumstances) -> Iterator[Reason]:
    bound = seen.room.lacking(seen.quota)
    if bound is not None and seen.work.urgency < 0:
        at = _free_at(seen.room, bound)
        is_dropped = seen.work.options["expedited"] == OutOfQuotaPolicy.DROP_WORK_REQUEST
        means = "it is about to be dropped" if is_dropped else "it is about to become one that isn't expedited"
        text = f"the quota of expedited works is used up until {told(at)}: {means}"
        yield Reason(ReasonKind.QUOTA, text, until=at)


def _downgraded(work: WorkFacts) -> Iterator[Reason]:
    # A retry isn't expedited either, and that is no question of quota.
    if "expedited" in work.options and work.urgency >= 0 and not work.run_attempt_count:
        yield Reason(ReasonKind.QUOTA, "it was out of quota and is expedited no more: others come before it")


# -- its place among others, and what is to come -----------------------------------------------------------------


def _position(seen: Circumstances) -> Iterator[Reason]:
    if not seen.before:
        return
    count = min(seen.before, MOST)
    number = f"{count:,}".replace(",", " ")
    works = "1 work comes" if count == 1 else f"{'> ' if seen.before > MOST else ''}{number} works come"
    yield Reason(ReasonKind.POSITION, f"{works} before it", count=count)


def _to_come(work: WorkFacts, now: int) -> Iterator[Reason]:
    if work.deadline_at is not None:
        at = as_datetime(work.deadline_at)
        yield Reason(ReasonKind.DEADLINE, f"from {told(at)} on it runs whatever its constraints say", until=at)
    if work.expires_at is not None and work.expires_at > now:
        at = as_datetime(work.expires_at)
        yield Reason(ReasonKind.EXPIRES, f"it is cancelled unless it has started by {told(at)}", until=at)
