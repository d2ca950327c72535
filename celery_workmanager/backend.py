"""The store as a Celery result backend.

The state of a work is derived by reading its row; Celery is never let write it (its own trackers would write STARTED
over a finished work). Results of ordinary tasks, where it is the app's ``result_backend``, are kept as keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured, Retry
from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.utils.json import loads

from celery_workmanager import errors
from celery_workmanager.answers import WorkFailed
from celery_workmanager.call import HIDDEN
from celery_workmanager.current import running
from celery_workmanager.query import WorkQuery
from celery_workmanager.timing import SECOND, as_datetime
from celery_workmanager.told_states import told_in
from celery_workmanager.work import State, WorkError

_STATES = {
    State.ENQUEUED: states.PENDING,
    State.BLOCKED: states.PENDING,
    State.RUNNING: states.STARTED,
    State.SUCCEEDED: states.SUCCESS,
    State.FAILED: states.FAILURE,
    State.CANCELLED: states.REVOKED,
}


class WorkManagerBackend(KeyValueStoreBackend):
    """Results of works and, where it is the app's backend, of ordinary tasks.

    ``AsyncResult.info`` of an unfinished work is its WorkInfo as a dict; the result of a work that was not called as a
    task is its output data as a dict.
    """

    persistent = True
    supports_autoexpire = True

    def __init__(self, app: Any = None, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self.url = url or "workmanager"

    def as_uri(self, include_password: bool = True) -> str:
        """The store's URL."""
        del include_password
        return f"workmanager+{self._manager.store.database.shown_url}"

    @property
    def _manager(self) -> Any:
        manager = getattr(self.app, "workmanager", None)
        if manager is None:
            raise ImproperlyConfigured("result_backend 'workmanager' needs WorkManager(app)")
        return manager

    # -- works ----------------------------------------------------------------------------------------------------

    def store_result(
        self, task_id: Any, result: Any, state: Any, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Keep the result of an ordinary task, or what somebody else says of an unfinished work.

        What a run tells of itself is its progress; the rest a work's row says.
        """
        run = running.get()
        if run is not None and run.claim.id == task_id:
            run.tell_state(state, result)
            return result
        is_work = self._manager.store.result_of(task_id) is not None
        if state == states.REVOKED and is_work:
            return result  # by each worker that heard it revoked
        if not is_work and not isinstance(self.app.backend, WorkManagerBackend | DisabledBackend):
            # Celery fails what was to follow a task that failed: it is looked for where results of such tasks are.
            return self.app.backend.store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)
        return super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)

    def task_result_exists(self, task_id: str) -> bool:
        """Whether there is such a work, finished or not, or a result of an ordinary task."""
        return self._manager.store.result_of(task_id) is not None or bool(self.get(self.get_key_for_task(task_id)))

    def _forget(self, task_id: str) -> None:
        """Delete a result; a finished work goes with it, unless an unfinished one depends on it."""
        self._manager.store.forget_result(_text(self.get_key_for_task(task_id)), task_id)

    def wait_for(
        self,
        task_id: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> Any:
        """Wait for a result and return its metadata (Celery's ``wait_for``); times in seconds.

        What is asked in each interval is one short question, unlike Celery's. Raises celery.exceptions.TimeoutError.
        """
        del no_ack
        self._ensure_not_eager()
        waited = 0.0
        while (meta := self._ready_meta(task_id)) is None:
            (on_interval or _ignore)()
            if timeout is not None and waited >= timeout:
                raise CeleryTimeoutError("The operation timed out.")
            nap = interval if timeout is None else min(interval, timeout - waited)
            self._sleep(nap)
            waited += nap
        # Works of a canvas fail together. Celery finds a failed header first, since it is asked for in each interval.
        if on_interval and meta["status"] in states.EXCEPTION_STATES:
            on_interval()
        return meta

    def _ready_meta(self, task_id: Any) -> Any:
        key = _text(self.get_key_for_task(task_id))
        if self._manager.store.is_open(_text(task_id), key):
            return None
        meta = self.get_task_meta(task_id)
        return meta if meta["status"] in states.READY_STATES else None

    def get_many(self, task_ids: Any, timeout: float | None = None, interval: float = 0.5, **options: Any) -> Any:
        """Yield ids and metadata as they become ready; times in seconds. Raises celery.exceptions.TimeoutError."""
        waiting, waited = dict.fromkeys(map(_text, task_ids), -1), 0.0
        while True:
            for task_id, meta in self._newly_ready(waiting):
                (options.get("on_message") or _ignore)(meta)
                yield task_id, meta
            if not waiting:
                return
            if timeout is not None and waited >= timeout:
                raise CeleryTimeoutError(f"expected {len(waiting)} more results within {timeout} seconds")
            (options.get("on_interval") or _ignore)()
            self._sleep(interval)
            waited += interval

    def _newly_ready(self, waiting: dict[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Take those that are ready out of `waiting`, which holds the version of each that was last seen."""
        versions = self._manager.store.versions(WorkQuery(ids=waiting))
        for task_id, seen in list(waiting.items()):
            # An ordinary task has no version: it is looked up each time.
            waiting[task_id] = versions.get(task_id, -1)
            if waiting[task_id] != seen or seen == -1:
                meta = self.get_task_meta(task_id)
                if meta["status"] in states.READY_STATES:
                    del waiting[task_id]
                    yield task_id, meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        extended = bool(self.app.conf.result_extended)
        stored = self._manager.store.result_of(task_id, extended=extended)
        if stored is None:
            return self._meta_elsewhere(task_id)
        row, below = stored
        if not State(row.state).is_finished:
            # Such as ABORTED, which the one who aborts it stores.
            told = self._kept_meta(task_id)
            if told["status"] != states.PENDING:
                return told
        meta = dict(self.meta_from_decoded(self._meta_of(row)))
        if meta["status"] == states.RETRY and meta["result"] is None:  # where Celery would look for an exception
            info = self._manager.get_work_info_by_id(task_id)
            meta["result"] = info and info.to_dict()
        if extended:
            meta |= _call_of(row)
        # Each in its own place: the app's backend may be another one.
        children = [(self.app.tasks.get(worker), each) for each, worker in below if not worker.startswith(HIDDEN)]
        return meta | {"children": [task.AsyncResult(each) for task, each in children if task is not None]}

    def _kept_meta(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = super()._get_task_meta_for(task_id)
        return found

    def _meta_elsewhere(self, task_id: str) -> dict[str, Any]:
        """What is known of a task that is no work: what was before it failed, or it ran as an ordinary task."""
        found: dict[str, Any] = super()._get_task_meta_for(task_id)
        if found["status"] != states.PENDING or isinstance(self.app.backend, WorkManagerBackend):
            return found
        look = getattr(self.app.backend, "_get_task_meta_for", None)
        return found if look is None else look(task_id)

    def _meta_of(self, row: Any) -> dict[str, Any]:
        state = State(row.state)
        finished = as_datetime(row.finished_at)
        error = WorkError.from_json(row.error) if row.error else None
        status, result = self._shown(row, state, error)
        return {
            "status": status,
            "result": result,
            "traceback": error.traceback or None if error is not None and status in states.EXCEPTION_STATES else None,
            "children": [],
            "task_id": row.id,
            "name": row.worker,
            "date_done": finished.isoformat() if finished is not None else None,
        }

    def _shown(self, row: Any, state: State, error: WorkError | None) -> tuple[str, Any]:
        told = told_in(row.progress) if state is State.RUNNING else None
        if told is not None:
            return told
        if state is State.ENQUEUED and error is not None:  # left by the run that asked for another one
            return states.RETRY, None if error.exc_type == Retry.__name__ else kept_exception(error)
        return _STATES[state], self._result_of(row, state, error)

    def _result_of(self, row: Any, state: State, error: WorkError | None) -> Any:
        if state is State.SUCCEEDED:
            return loads(row.output or "{}")
        if state is State.FAILED:
            return kept_exception(error)
        if state is State.CANCELLED:
            message = "expired" if error is not None and error.exc_type == "Expired" else "revoked"
            return {"exc_type": "TaskRevokedError", "exc_message": message, "exc_module": "celery.exceptions"}
        info = self._manager.get_work_info_by_id(row.id)
        return info.to_dict() if info is not None else None

    # -- ordinary tasks: keys and values --------------------------------------------------------------------------

    def get(self, key: Any) -> Any:
        """The value under `key`, or ``None``."""
        return self._manager.store.results([_text(key)]).get(_text(key))

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """The values under `keys`, ``None`` where there is none."""
        wanted = [_text(key) for key in keys]
        found = self._manager.store.results(wanted)
        return [found.get(key) for key in wanted]

    def _set_with_state(self, key: Any, value: Any, state: Any) -> None:
        del state
        self.set(key, value)

    def set(self, key: Any, value: Any) -> None:
        """Write `value` under `key`; it expires after ``result_expires``."""
        expires = round(self.expires * SECOND) if self.expires else None
        self._manager.store.put_result(_text(key), _text(value), expires)

    def delete(self, key: Any) -> None:
        """Delete the value under `key`."""
        self._manager.store.forget_result(_text(key))


def _call_of(row: Any) -> dict[str, Any]:
    call = loads(row.input)
    if "call" not in json.loads(row.options):
        call = {"args": [], "kwargs": call}
    return {**call, "queue": row.queue, "retries": max(0, row.run_attempt_count - 1), "worker": None}


def kept_exception(error: WorkError | None) -> Any:
    """The exception that failed a work, as Celery's backends keep one: `exception_to_python` makes it again."""
    error = error or WorkError(WorkFailed.__name__, "the worker returned Result.failure()", WorkFailed.__module__)
    own = getattr(errors, error.exc_type, None) if error.module == errors.__name__ else None
    if own is not None:
        # Made of facts that aren't kept, while its sentence is.
        made: BaseException = own.__new__(own)
        made.args = (error.message,)
        return made
    message = error.message if error.args is None else error.args
    return {"exc_type": error.exc_type, "exc_message": message, "exc_module": error.module}


def _ignore(*_: Any) -> None: ...


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
