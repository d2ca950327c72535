"""What users ask of a WorkManager, in terms of works and rows; the app it belongs to is wired in by `app`.

Names and meanings are those of AndroidX ``WorkManager``.
"""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias, TypeGuard, TypeVar

from celery_workmanager.bounds import check_keys
from celery_workmanager.checks import check_text, check_whole
from celery_workmanager.circumstances import explain_new, explain_stored
from celery_workmanager.clock import Clock
from celery_workmanager.continuation import Enqueuer, WorkContinuation
from celery_workmanager.errors import DataTooLarge, InvalidRequest
from celery_workmanager.explanation import Explanation
from celery_workmanager.ids import check_id, new_id
from celery_workmanager.observe import async_changes, changes, watch_list, watch_one
from celery_workmanager.operation import Operation
from celery_workmanager.pauses import PauseInfo, PauseTarget
from celery_workmanager.periodic import PeriodicWorkRequest, with_periodic
from celery_workmanager.periods import fitted
from celery_workmanager.planning import Step
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy, UpdateResult
from celery_workmanager.query import WorkQuery
from celery_workmanager.requests import OneTimeWorkRequest, WorkRequest, one_time
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store, pausing
from celery_workmanager.timing import as_datetime
from celery_workmanager.work import RunInfo, StopInfo, WorkInfo

#: A request, several, or a Celery signature (a mapping): of a task, chain, group or chord.
Requests: TypeAlias = WorkRequest | Iterable[WorkRequest] | Mapping[str, Any]
WorkId: TypeAlias = str | uuid.UUID
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: How many run times are worked out at once.
MOST_RUN_TIMES = 10_000
#: The frame that a warning names: that of the caller of `enqueue` and its kin.
_CALLER = 4
#: Policies by which the first works of a chain may follow works that are there.
_APPENDING = (ExistingWorkPolicy.APPEND, ExistingWorkPolicy.APPEND_OR_REPLACE)


class Manager(Enqueuer):
    """Enqueues, changes, cancels, reads and observes works."""

    store: Store
    settings: Settings
    clock: Clock

    def queue_of(self, request: WorkRequest) -> str:
        """The queue a request goes to: its own, or the one the app routes its worker to."""
        raise NotImplementedError

    def check_worker(self, request: WorkRequest) -> None:
        """Raise UnknownWorker when no such worker is registered."""
        raise NotImplementedError

    def continuation_of(
        self,
        signature: Mapping[str, Any],
        name: str | None = None,
        policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP,
    ) -> WorkContinuation:
        """The graph of a Celery signature (a canvas); nothing is stored."""
        raise NotImplementedError

    def join(self, connection: Any) -> Any:
        """The transaction to take part in: the given one, or one that the surroundings have opened."""
        return connection

    # -- enqueue --------------------------------------------------------------------------------------------------

    def enqueue(self, requests: Requests, connection: Any = None) -> Operation:
        """Store works that depend on nothing, in one transaction (the caller's, if `connection` is given).

        Raises InvalidRequest, UnknownWorker, DataTooLarge, StoreError; then nothing is stored.
        """
        several = (requests,) if isinstance(requests, WorkRequest) else with_periodic(requests)
        if several is not None:
            return self._enqueue_steps([self._checked(Step(several))], connection)
        return self.begin_with(requests).enqueue(connection)

    def enqueue_unique_work(
        self, name: str, policy: ExistingWorkPolicy, requests: Requests, connection: Any = None
    ) -> Operation:
        """Store works under a unique name, as `policy` says of those that carry it. Raises UniqueNameBusy."""
        if type(requests) is OneTimeWorkRequest:  # most often, and a chain of one takes its time
            step = Step((requests,), name=_checked_name(name, policy), policy=policy)
            return self._enqueue_steps([self._checked(step)], connection)
        return self.begin_unique_work(name, policy, requests).enqueue(connection)

    def enqueue_unique_periodic_work(
        self, name: str, policy: ExistingPeriodicWorkPolicy, request: PeriodicWorkRequest, connection: Any = None
    ) -> Operation:
        """Store a periodic work under a unique name, as `policy` says of what carries it.

        The operation's ids are those of the work that is there now: after an UPDATE the one that it had before.
        Raises UniqueNameBusy, UnsupportedOperation for an UPDATE of one-time work or of several.
        """
        if not isinstance(policy, ExistingPeriodicWorkPolicy):
            raise InvalidRequest("policy", "an ExistingPeriodicWorkPolicy", policy)
        if not isinstance(request, PeriodicWorkRequest):
            raise InvalidRequest("request", "a PeriodicWorkRequest", request)
        at = request.next_schedule_time_override
        if at is not None and policy is ExistingPeriodicWorkPolicy.CANCEL_AND_REENQUEUE:
            raise InvalidRequest("next_schedule_time_override", "left out with CANCEL_AND_REENQUEUE", at)
        step = Step((request,), name=check_text("unique name", name), policy=policy)
        return self._enqueue_steps([self._checked(step)], connection)

    def begin_with(self, requests: Requests) -> WorkContinuation:
        """Begin a chain, with requests or one of Celery's signatures; nothing is stored before its ``enqueue()``."""
        if _is_signature(requests):
            return self.continuation_of(requests)
        return WorkContinuation(one_time(requests), self)

    def begin_unique_work(self, name: str, policy: ExistingWorkPolicy, requests: Requests) -> WorkContinuation:
        """Begin a chain with a unique name; the policy is applied to its first step."""
        unique = _checked_name(name, policy)
        if _is_signature(requests):
            return self.continuation_of(requests, unique, policy)
        return WorkContinuation(one_time(requests), self, name=unique, policy=policy)

    def enqueue_continuation(self, continuation: WorkContinuation, connection: Any = None) -> Operation:
        """Store a chain: the given step and every ancestor that isn't stored yet."""
        return self._enqueue_steps(self.steps_of(continuation), connection)

    def _enqueue_steps(self, steps: Sequence[Step], connection: Any) -> Operation:
        for step in steps:
            # What follows other works takes fields from their outputs, too: that is seen when it is claimed.
            if not step.parents and step.policy not in _APPENDING:
                for request in step.requests:
                    check_keys(request)
        insertion = self.store.enqueue(steps, self.queue_of, self.join(connection))
        return Operation(bool(ids := insertion.ids), ids, insertion.skipped)

    def _checked(self, step: Step) -> Step:
        for request in step.requests:
            self.check(request)
        return step

    def steps_of(self, continuation: WorkContinuation) -> list[Step]:
        """What of a chain is to be stored, checked. Raises InvalidRequest, UnknownWorker, DataTooLarge."""
        steps = continuation.steps()
        for step in steps:
            for request in step.requests:
                self.check(request)
        # What an earlier call stored is not stored again: its policy would be applied to its own works.
        return [_as_step(step) for step in steps if step.operation is None and step.requests]

    def enqueue_call(self, request: WorkRequest) -> Operation:
        """Store a task call as one durable work."""
        return self.enqueue(request)

    def check(self, request: WorkRequest) -> None:
        """Raise UnknownWorker, DataTooLarge or InvalidRequest for what can't be enqueued; warn of what is changed."""
        self.check_worker(request)
        limits = self.settings.limits
        if isinstance(request, PeriodicWorkRequest):
            _, _, said = fitted(request, limits)
            for sentence in said:
                logger.warning("%s: %s", request.worker_name, sentence)
                warnings.warn(sentence, UserWarning, stacklevel=_CALLER)
        if request.call is None:
            request.input_data.check_size(limits.data_max_bytes, "input_data")
        elif len(request.call.arguments) > limits.call_max_bytes:
            raise DataTooLarge("arguments", len(request.call.arguments), limits.call_max_bytes)

    # -- change ---------------------------------------------------------------------------------------------------

    def update_work(self, request: WorkRequest, connection: Any = None) -> UpdateResult:
        """Replace the specification of the unfinished work that has the id of `request`.

        Raises WorkNotFound, UnsupportedOperation for one-time work that is to be periodic or the other way round.
        """
        if not isinstance(request, WorkRequest):
            raise InvalidRequest("request", "a request with the id of a stored work", request)
        self._checked(Step((request,)))
        return self.store.update(request, self.queue_of(request), self.join(connection))

    def cancel_work_by_id(self, id: WorkId, connection: Any = None) -> Operation:
        """Cancel a work and all that depends on it; of a finished one, only what depends on it."""
        return _cancelled(self.store.cancel(check_id(id), self.join(connection)))

    def cancel_all_work_by_tag(self, tag: str, connection: Any = None) -> Operation:
        """Cancel unfinished works with the tag and all that depends on them."""
        return _cancelled(self.store.cancel_matching(tag=check_text("tag", tag), connection=self.join(connection)))

    def cancel_unique_work(self, name: str, connection: Any = None) -> Operation:
        """Cancel unfinished works of the unique name and all that depends on them."""
        unique = check_text("unique name", name)
        return _cancelled(self.store.cancel_matching(unique_name=unique, connection=self.join(connection)))

    def cancel_all_work(self, connection: Any = None) -> Operation:
        """Cancel every unfinished work."""
        return _cancelled(self.store.cancel_all(self.join(connection)))

    def retry(self, id: WorkId, connection: Any = None) -> Operation:
        """Enqueue a finished work again, as a new work that remembers the old one (``WorkInfo.retry_of``).

        Raises WorkNotFound, InvalidRequest when it isn't finished, UnsupportedOperation when a prerequisite failed.
        """
        fresh = new_id()
        self.store.retry(check_id(id), fresh, self.join(connection))
        return Operation(applied=True, ids=(fresh,), skipped_ids=())

    def run_now(self, id: WorkId, connection: Any = None) -> Operation:
        """Let a work wait no longer for its delay, period or backoff; a BLOCKED one still waits for its prerequisites.

        The run of a periodic work counts as that of the occurrence it waited for.

        Not ``applied`` when there is nothing to wait for: it may run already. Raises WorkNotFound, InvalidRequest when
        it is finished.
        """
        work_id = check_id(id)
        applied = self.store.make_due(work_id, self.join(connection))
        return Operation(applied, ids=(work_id,) if applied else (), skipped_ids=() if applied else (work_id,))

    def pause(
        self, *, queue: str | None = None, tag: str | None = None, name: str | None = None, node: str | None = None
    ) -> Operation:
        """Let no work of a queue, with a tag or of a unique name be started, also those enqueued later, until `resume`.

        `node`: let the node of that name ("celery@host") claim nothing more, also when it is started anew; others run
        what it would have run. What a node has taken already goes on. Not ``applied`` when it was paused before.
        Raises InvalidRequest unless exactly one is given, PauseIncomplete when others' open transactions hold works.
        """
        return Operation(applied=pausing.pause(self.store, PauseTarget.of(queue, tag, name, node)))

    def resume(
        self, *, queue: str | None = None, tag: str | None = None, name: str | None = None, node: str | None = None
    ) -> Operation:
        """Take back a pause; what another pause holds stays held. Not ``applied`` when it was not paused.

        Raises InvalidRequest, PauseIncomplete.
        """
        return Operation(applied=pausing.resume(self.store, PauseTarget.of(queue, tag, name, node)))

    def paused(self) -> list[PauseInfo]:
        """What is paused, by kind and label."""
        return pausing.paused(self.store)

    def prune_work(self, connection: Any = None) -> Operation:
        """Delete all finished works that no unfinished work depends on directly, whatever their retention."""
        pruned = self.store.prune(only_expired=False, connection=self.join(connection))
        return Operation(applied=pruned > 0, ids=(), skipped_ids=())

    # -- read -----------------------------------------------------------------------------------------------------

    def get_last_cancel_all_time(self) -> datetime | None:
        """When `cancel_all_work` was last called; ``None`` if never."""
        return as_datetime(self.store.last_cancel_all() or None)

    def get_work_info_by_id(self, id: WorkId) -> WorkInfo | None:
        """What is known of a work; ``None`` when it is unknown or pruned."""
        return next(iter(self.get_work_infos(WorkQuery(ids=(id,)))), None)

    def get_work_infos_by_tag(self, tag: str) -> list[WorkInfo]:
        """Works with the tag, in id order."""
        return self.get_work_infos(WorkQuery(tags=(tag,)))

    def get_work_infos_for_unique_work(self, name: str) -> list[WorkInfo]:
        """Works of the unique name, in id order."""
        return self.get_work_infos(WorkQuery(unique_names=(name,)))

    def get_work_infos(self, query: WorkQuery) -> list[WorkInfo]:
        """Works that match `query`, in id order."""
        return self.store.work_infos(query)

    def get_runs(self, id: WorkId) -> list[RunInfo]:
        """The past runs of a periodic work, the newest first: the latest ``keep_runs`` of them."""
        return self.store.runs(check_id(id))

    def get_stops(self, id: WorkId) -> list[StopInfo]:
        """The runs of a work that were stopped, and why, the newest first: the latest ``keep_stops`` of them."""
        return self.store.stops(check_id(id))

    def next_run_times(self, id: WorkId, count: int = 10) -> list[datetime]:
        """The moments at which a work runs next, as far as they are known; empty when it is finished.

        Those of a plain interval are as if its runs took no time. Raises WorkNotFound.
        """
        some = check_whole("count", count, 1, MOST_RUN_TIMES)
        return [as_datetime(at) for at in self.store.next_run_times(check_id(id), some)]

    def explain(self, what: WorkId | WorkRequest) -> Explanation:
        """Why a work doesn't run now, with the true reason first; a request: why it would not, were it enqueued.

        Nothing is written. Raises WorkNotFound; for a request what its enqueue would raise.
        """
        if not isinstance(what, WorkRequest):
            return explain_stored(self.store, check_id(what))
        self.check(what)
        return explain_new(self.store, what, self.queue_of(what))

    def infos_of(self, ids: Sequence[str]) -> list[WorkInfo]:
        """The works with these ids, in this order; unknown ones are left out."""
        if not ids:
            return []  # a query without ids would match every work
        found = {info.id: info for info in self.get_work_infos(WorkQuery(ids=ids))}
        return [found[each] for each in ids if each in found]

    # -- observe --------------------------------------------------------------------------------------------------

    def observe_work_info_by_id(self, id: WorkId, after: int | None = None) -> Iterator[WorkInfo | None]:
        """The work now and after each change, without end; `after`: a version that has been seen before."""
        work_id = check_id(id)
        seen = None if after is None else {work_id: after}
        return changes(self.store, watch_one(self.store, work_id), seen)

    def observe_work_infos_by_tag(self, tag: str) -> Iterator[list[WorkInfo]]:
        """The works with the tag now and after each change, without end."""
        return self.observe_work_infos(WorkQuery(tags=(tag,)))

    def observe_work_infos_for_unique_work(self, name: str) -> Iterator[list[WorkInfo]]:
        """The works of the unique name now and after each change, without end."""
        return self.observe_work_infos(WorkQuery(unique_names=(name,)))

    def observe_work_infos(self, query: WorkQuery, after: Mapping[str, int] | None = None) -> Iterator[list[WorkInfo]]:
        """The works of `query` now and after each change, without end; `after`: versions by id, seen before."""
        return changes(self.store, watch_list(self.store, query), after)

    # -- the same for asyncio ---------------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await self.store.database.in_thread(call, *args)

    async def aenqueue(self, requests: Requests) -> Operation:
        """`enqueue` without blocking the event loop."""
        return await self._in_thread(self.enqueue, requests)

    async def aenqueue_unique_work(self, name: str, policy: ExistingWorkPolicy, requests: Requests) -> Operation:
        """`enqueue_unique_work` without blocking the event loop."""
        return await self._in_thread(self.enqueue_unique_work, name, policy, requests)

    async def aenqueue_unique_periodic_work(
        self, name: str, policy: ExistingPeriodicWorkPolicy, request: PeriodicWorkRequest
    ) -> Operation:
        """`enqueue_unique_periodic_work` without blocking the event loop."""
        return await self._in_thread(self.enqueue_unique_periodic_work, name, policy, request)

    async def aget_work_info_by_id(self, id: WorkId) -> WorkInfo | None:
        """`get_work_info_by_id` without blocking the event loop."""
        return await self._in_thread(self.get_work_info_by_id, id)

    async def aget_work_infos(self, query: WorkQuery) -> list[WorkInfo]:
        """`get_work_infos` without blocking the event loop."""
        return await self._in_thread(self.get_work_infos, query)

    async def aexplain(self, what: WorkId | WorkRequest) -> Explanation:
        """`explain` without blocking the event loop."""
        return await self._in_thread(self.explain, what)

    def aobserve_work_info_by_id(self, id: WorkId, after: int | None = None) -> AsyncIterator[WorkInfo | None]:
        """`observe_work_info_by_id` as an async iterator."""
        work_id = check_id(id)
        seen = None if after is None else {work_id: after}
        return async_changes(self.store, watch_one(self.store, work_id), seen)

    def aobserve_work_infos_by_tag(self, tag: str) -> AsyncIterator[list[WorkInfo]]:
        """`observe_work_infos_by_tag` as an async iterator."""
        return self.aobserve_work_infos(WorkQuery(tags=(tag,)))

    def aobserve_work_infos_for_unique_work(self, name: str) -> AsyncIterator[list[WorkInfo]]:
        """`observe_work_infos_for_unique_work` as an async iterator."""
        return self.aobserve_work_infos(WorkQuery(unique_names=(name,)))

    def aobserve_work_infos(
        self, query: WorkQuery, after: Mapping[str, int] | None = None
    ) -> AsyncIterator[list[WorkInfo]]:
        """`observe_work_infos` as an async iterator."""
        return async_changes(self.store, watch_list(self.store, query), after)


def _checked_name(name: str, policy: ExistingWorkPolicy) -> str:
    if not isinstance(policy, ExistingWorkPolicy):
        raise InvalidRequest("policy", "an ExistingWorkPolicy", policy)
    return check_text("unique name", name)


def _is_signature(requests: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(requests, Mapping) and "task" in requests and "subtask_type" in requests


def _as_step(step: WorkContinuation) -> Step:
    before = [each.last_ids for each in step.parents]
    parents = before[0] if len(before) == 1 else tuple(dict.fromkeys([each for ids in before for each in ids]))
    return Step(step.requests, parents, step.name, step.policy)


def _cancelled(ids: list[str]) -> Operation:
    return Operation(applied=bool(ids), ids=tuple(ids), skipped_ids=())
