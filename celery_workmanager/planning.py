"""What an enqueue does to what exists: policies become plans. Pure.

Source: WorkManager, ``EnqueueRunnable`` and ``ExistingWorkPolicy``. Two of its hazards are left out: APPEND_OR_REPLACE
cancels before it deletes, so a foreign dependent is never left waiting for nobody; and each running work that a plan
cancels is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.lifecycle import state_at_insertion
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.work import State


@dataclass(frozen=True, slots=True)
class Member:
    """A work that carries a unique name: what the policies need to know of it."""

    id: str
    state: State
    is_leaf: bool
    is_periodic: bool = False


@dataclass(frozen=True, slots=True)
class NamePlan:
    """What becomes of the existing works of a name, and what the new first step depends on.

    ``delete`` names every existing work when the name is cleared (the unfinished ones and all that depends on them are
    cancelled first); ``parents`` are the leaves that the new works wait for; ``keep`` stores nothing new at all;
    ``update`` is the work that gets the new specification.
    """

    keep: bool = False
    delete: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    update: str | None = None


class Step(NamedTuple):
    """Works that are enqueued together, all with the same prerequisites.

    ``parents`` are ids of works in earlier steps; ``name`` and ``policy`` belong to the chain's unique name.
    """

    requests: tuple[WorkRequest, ...]
    parents: tuple[str, ...] = ()
    name: str | None = None
    policy: ExistingWorkPolicy | ExistingPeriodicWorkPolicy = ExistingWorkPolicy.KEEP

    @property
    def is_first(self) -> bool:
        """Whether the policy of its name is applied to this step."""
        return self.name is not None and not self.parents


class NewWork(NamedTuple):
    """A work to insert, with the state it begins in and the works it depends on, in order."""

    request: WorkRequest
    state: State
    parents: tuple[str, ...]
    unfinished_parents: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Insertion:
    """What a whole enqueue stores and what it leaves out."""

    works: tuple[NewWork, ...]
    skipped: tuple[str, ...]
    #: Works that exist already under their id: nothing is written but the tags and the name of this call.
    existing: tuple[tuple[WorkRequest, str | None], ...] = ()
    #: Works that get a new specification, and the requests that it is taken from.
    updated: tuple[tuple[str, WorkRequest], ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The works that are stored or updated."""
        return (*(new.request.id for new in self.works), *(work_id for work_id, _ in self.updated))


#: That of a name that no work carries.
_FRESH = NamePlan()
_OF_PERIODIC = {
    ExistingPeriodicWorkPolicy.KEEP: ExistingWorkPolicy.KEEP,
    ExistingPeriodicWorkPolicy.CANCEL_AND_REENQUEUE: ExistingWorkPolicy.REPLACE,
}


def plan_name(policy: ExistingWorkPolicy | ExistingPeriodicWorkPolicy, members: Sequence[Member]) -> NamePlan:
    """Apply `policy` to the works that carry the name now. Raises UnsupportedOperation for an UPDATE that can't be."""
    if not members:
        return _FRESH
    if policy is ExistingPeriodicWorkPolicy.UPDATE:
        return _plan_update(members)
    if isinstance(policy, ExistingPeriodicWorkPolicy):
        policy = _OF_PERIODIC[policy]
    everything = tuple(member.id for member in members)
    if policy is ExistingWorkPolicy.KEEP:
        return NamePlan(keep=True) if any(map(_is_under_way, members)) else NamePlan(delete=everything)
    if policy is ExistingWorkPolicy.REPLACE:
        return NamePlan(delete=everything)
    leaves = [member for member in members if member.is_leaf]
    broken = any(leaf.state in (State.FAILED, State.CANCELLED) for leaf in leaves)
    if policy is ExistingWorkPolicy.APPEND_OR_REPLACE and broken:
        return NamePlan(delete=everything)
    return NamePlan(parents=tuple(leaf.id for leaf in leaves))


def _plan_update(members: Sequence[Member]) -> NamePlan:
    """Source: WorkManager, ``WorkerUpdater.enqueueUniquelyNamedPeriodic``."""
    member = members[0]
    if len(members) > 1:
        raise UnsupportedOperation(f"UPDATE needs one work of the unique name, but there are {len(members)}")
    if not member.is_periodic:
        raise UnsupportedOperation(f"one-time work {member.id} can't be updated to periodic work")
    if member.state is State.CANCELLED:
        return NamePlan(delete=(member.id,))
    return NamePlan(keep=True) if member.state.is_finished else NamePlan(update=member.id)


def _is_under_way(member: Member) -> bool:
    # Only ENQUEUED and RUNNING hold a name under KEEP: a chain that is merely BLOCKED behind foreign works is replaced.
    return member.state in (State.ENQUEUED, State.RUNNING)


def plan_insertion(
    steps: Iterable[Step], names: Mapping[str, NamePlan], known: Mapping[str, State], gone: Collection[str] = ()
) -> Insertion:
    """Decide which works of `steps` are stored and in which state.

    `known` are the states of existing works: leaves that a name appends to, and works whose id is enqueued again.
    `gone`: those that another name of this call has deleted; what was to follow them begins as they ended.
    A step whose prerequisites were not stored is left out, and with it all that follows: KEEP swallows its chain.
    """
    states = {each: state for each, state in known.items() if each not in gone} if gone else dict(known)
    swallowed: set[str] = set()
    works: list[NewWork] = []
    skipped: list[str] = []
    existing: list[tuple[WorkRequest, str | None]] = []
    updated: list[tuple[str, WorkRequest]] = []
    for step in steps:
        parents, keep, is_first = step.parents, False, step.is_first
        found: Mapping[str, State] = known if is_first else states
        if is_first and step.name is not None:
            plan = names[step.name]
            if plan.update is not None:
                updated += [(plan.update, request) for request in step.requests]
                continue
            parents, keep = plan.parents, plan.keep
        # A swallowed work may exist under its id from before; what follows it in this call is left out all the same.
        if keep or any(parent in swallowed or parent not in found for parent in parents):
            swallowed.update(request.id for request in step.requests)
            skipped += [request.id for request in step.requests]
            continue
        before = [found[parent] for parent in parents]
        state = state_at_insertion(before) if before else State.ENQUEUED
        waiting = sum([not parent.is_finished for parent in before])
        left = tuple(parent for parent in parents if parent not in gone) if gone and is_first else parents
        for request in step.requests:
            if request.id in states:
                skipped.append(request.id)
                existing.append((request, step.name))
                continue
            states[request.id] = state
            works.append(NewWork(request, state, left, waiting, step.name))
    return Insertion(tuple(works), tuple(skipped), tuple(existing), tuple(updated))
