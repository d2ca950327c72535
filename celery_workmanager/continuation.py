"""Chains: immutable steps of requests, each waiting for the steps before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol

from celery_workmanager.errors import CyclicChain, DuplicateWorkId, InvalidRequest
from celery_workmanager.mergers import ArrayCreatingInputMerger
from celery_workmanager.operation import Operation
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.requests import OneTimeWorkRequest, any_number
from celery_workmanager.work import WorkInfo

#: The worker of the hidden work that joins chains: it hands its merged input on as its output.
COMBINE_WORKER = "celery_workmanager.combine"


class Enqueuer(Protocol):
    """What a continuation needs of its manager."""

    def enqueue_continuation(self, continuation: WorkContinuation, connection: Any = None) -> Operation:
        """Store the step and every ancestor that isn't stored yet."""

    def infos_of(self, ids: Sequence[str]) -> list[WorkInfo]:
        """Return what is known of these works."""

    def canvas_of(self, continuation: WorkContinuation) -> Any:
        """Return the graph as a Celery canvas."""

    def continuation_of(self, signature: Mapping[str, Any]) -> WorkContinuation:
        """Return the graph of a Celery canvas."""


#: How the manager of the current app is found; the floor that knows apps says it.
_finders: list[Callable[[], Enqueuer]] = []


def find_enqueuer_with(find: Callable[[], Enqueuer]) -> None:
    """Say how to find the manager of the current app."""
    _finders[:] = [find]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WorkContinuation:
    """A step of a chain, and through its parents all before it (WorkManager semantics: WorkContinuation).

    Each of its works waits for every work of each parent. ``policy`` matters for a named first step only.
    """

    requests: tuple[OneTimeWorkRequest, ...]
    enqueuer: Enqueuer
    parents: tuple[WorkContinuation, ...] = ()
    name: str | None = None
    policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP
    #: Made by ``combine``: its one work only passes outputs on.
    is_join: bool = False
    #: Steps that are stored together with this one, which nothing that follows it waits for.
    asides: tuple[WorkContinuation, ...] = ()
    #: What stored this step; None as long as it isn't stored.
    operation: Operation | None = field(default=None, init=False)

    def then(self, requests: OneTimeWorkRequest | Iterable[OneTimeWorkRequest]) -> WorkContinuation:
        """Return a further step that waits for all of this one; without any request, this one itself."""
        several = any_number(requests)
        if not several:
            return self
        return WorkContinuation(several, self.enqueuer, (self,), self.name)

    @staticmethod
    def combine(continuations: Iterable[WorkContinuation]) -> WorkContinuation:
        """Return a nameless step that waits for all of these and hands on the lists of their outputs."""
        parents = tuple(continuations)
        for parent in parents:
            if not isinstance(parent, WorkContinuation):
                raise InvalidRequest(None, "a WorkContinuation", parent)
        if not parents:
            raise InvalidRequest(None, "at least one continuation", parents)
        enqueuer = parents[0].enqueuer
        if any(parent.enqueuer is not enqueuer for parent in parents):
            raise InvalidRequest("continuations", "of one WorkManager", parents)
        join = OneTimeWorkRequest(COMBINE_WORKER, input_merger=ArrayCreatingInputMerger)
        return WorkContinuation((join,), enqueuer, parents, is_join=True)

    def enqueue(self, connection: Any = None) -> Operation:
        """Store this step and its ancestors, once: a later call gives the Operation of the first.

        Inside the caller's transaction (`connection`) the call is not remembered: only the caller knows how that ends.
        """
        if self.operation is not None:
            return self.operation
        steps = self.steps()
        check_acyclic(steps)
        check_names(steps)
        operation = self.enqueuer.enqueue_continuation(self, connection)
        if connection is not None:
            return operation  # the caller may still roll back, and then nothing was stored
        for step in steps:
            if step.operation is None:
                object.__setattr__(step, "operation", operation)
        return operation

    def to_canvas(self) -> Any:
        """Return Celery's canvas of this step and all before it, whose ``apply_async`` enqueues the same graph.

        The unique name is not part of it. Raises UnsupportedOperation for what is not made of chains and groups.
        """
        return self.enqueuer.canvas_of(self)

    @staticmethod
    def from_canvas(signature: Mapping[str, Any], enqueuer: Enqueuer | None = None) -> WorkContinuation:
        """Return the graph of a Celery canvas; `enqueuer` is a WorkManager (default: that of the current app).

        Raises NotInitialized, TypeError when arguments don't fit a task, DataNotStorable.
        """
        return (enqueuer or _finders[-1]()).continuation_of(signature)

    def get_work_infos(self) -> list[WorkInfo]:
        """Return what is known of the works of this step and its ancestors, hidden joins included."""
        ids = dict.fromkeys(work for step in self.steps() for work in step.ids)
        return self.enqueuer.infos_of(list(ids))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of this step's works."""
        return tuple([request.id for request in self.requests])

    def steps(self) -> list[WorkContinuation]:
        """Return all ancestors, each once and after its own parents, and then this step."""
        # Without recursion: a chain may be ten thousand steps long.
        ordered: list[WorkContinuation] = []
        seen = {id(self)}
        way: list[tuple[WorkContinuation, Iterator[WorkContinuation]]] = [(self, iter(self.before))]
        while way:
            step, parents = way[-1]
            for parent in parents:
                if id(parent) not in seen:
                    seen.add(id(parent))
                    way.append((parent, iter(parent.before)))
                    break
            else:
                ordered.append(step)
                way.pop()
        return ordered

    @property
    def before(self) -> tuple[WorkContinuation, ...]:
        """The steps that are stored before this one."""
        return (*self.asides, *self.parents) if self.asides else self.parents

    @property
    def last_ids(self) -> tuple[str, ...]:
        """The ids of the works that a following step waits for, each once."""
        if self.requests:
            return self.ids
        # A step without works stands for those before it, as the end of a canvas that ends in several places.
        return tuple(dict.fromkeys(work for parent in self.parents for work in parent.last_ids))

    def __repr__(self) -> str:
        named = f" named {self.name!r}" if self.name else ""
        return f"<WorkContinuation{named}: {len(self.requests)} works after {len(self.parents)} steps>"


def check_names(steps: Sequence[WorkContinuation]) -> None:
    """Raise InvalidRequest when one unique name is begun twice: two policies cannot both decide about it."""
    begun: set[str] = set()
    for step in steps:
        if step.name is not None and not step.parents:
            if step.name in begun:
                raise InvalidRequest("unique name", "begun once in a chain", step.name)
            begun.add(step.name)


def check_acyclic(steps: Sequence[WorkContinuation]) -> None:
    """Raise CyclicChain when a work would wait for itself, DuplicateWorkId when one id means two works."""
    requests: dict[str, OneTimeWorkRequest] = {}
    for step in steps:
        if len(step.requests) > 1 and len(set(step.ids)) < len(step.requests):
            raise DuplicateWorkId(next(work for work in step.ids if step.ids.count(work) > 1))
        for request in step.requests:
            known = requests.setdefault(request.id, request)
            if known is not request and known != request:
                raise DuplicateWorkId(request.id)
    # Steps are immutable, so only a work that stands in two of them can close a circle.
    if len(requests) < sum(len(step.requests) for step in steps):
        _check_order(steps)


def _check_order(steps: Sequence[WorkContinuation]) -> None:
    # Nodes for the start and end of each step keep the edges few: n works after m works are n + m of them.
    order: TopologicalSorter[tuple[str, Any]] = TopologicalSorter()
    for step in steps:
        order.add(("start", id(step)), *(("end", id(parent)) for parent in step.parents))
        order.add(("end", id(step)), *(("work", work) for work in step.ids))
        for work in step.ids:
            order.add(("work", work), ("start", id(step)))
    try:
        order.prepare()
    except CycleError as error:
        # The circle ends with the node it begins with, maybe a step: the first work is put last by hand.
        circle = [work for kind, work in error.args[1][:-1] if kind == "work"]
        raise CyclicChain([*circle, circle[0]]) from None
