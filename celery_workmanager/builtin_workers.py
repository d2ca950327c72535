"""The workers that every app with a WorkManager has: the hidden works of chains and canvases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery import states
from celery.app.task import Context
from celery.canvas import _chain, chord, group, maybe_signature
from kombu.exceptions import OperationalError

from celery_workmanager.backend import kept_exception
from celery_workmanager.call import AFTERMATH_WORKER
from celery_workmanager.canvas_graph import ACCUMULATE_WORKER, MAP_WORKER, PUBLISH_WORKER, REPORT_WORKER, STARMAP_WORKER
from celery_workmanager.continuation import COMBINE_WORKER
from celery_workmanager.current import current_run
from celery_workmanager.data import Data
from celery_workmanager.ids import derived_id
from celery_workmanager.work import State, WorkError
from celery_workmanager.worker import Worker

__all__ = ("register",)

#: Seconds until a message is sent again to a broker or result backend that is away.
_AGAIN = 1.0
_LONGEST = 60.0


class _Sending(Worker):
    """A worker that needs the broker or the app's result backend, and tries until it is there."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (OperationalError, ConnectionError) as error:
            raise self.retry(
                exc=error, countdown=min(_LONGEST, _AGAIN * 2.0 ** min(10, self.request.retries))
            ) from error


def register(app: Any) -> None:
    """Register them in `app`."""
    for name, (base, run) in _WORKERS.items():
        app.task(base=base, bind=True, name=name, shared=False)(run)


def _combine(self: Worker, **_: Any) -> Data:
    # WorkManager's CombineContinuationsWorker: it hands on what its merger put together.
    return self.input_data


def _accumulate(_self: Worker, *args: Any, **kwargs: Any) -> Any:
    index = kwargs.get("index")
    return args if index is None else args[index]


def _map(self: Worker, task: Mapping[str, Any], it: Sequence[Any]) -> list[Any]:
    called = maybe_signature(task, app=self.app).type
    return [called(item) for item in it]


def _starmap(self: Worker, task: Mapping[str, Any], it: Sequence[Any]) -> list[Any]:
    called = maybe_signature(task, app=self.app).type
    return [called(*items) for items in it]


def _publish(
    self: Worker, *value: Any, signature: Any, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    """Hand what isn't durable to Celery. At least once: a lost run is run again.

    As a periodic work it sends what it sends again for the same period under the same id.
    """
    run = current_run()
    if run is not None and run.claim.standing is not None:
        options = {"task_id": derived_id(run.claim.id, run.claim.standing.at), **options}
    with _in_the_place_of(self, options.get("parent_id"), options.get("root_id")):
        maybe_signature(signature, app=self.app).apply_async((*value, *args), kwargs, **options)


@contextmanager
def _in_the_place_of(task: Worker, work_id: str | None, root_id: str | None) -> Iterator[None]:
    """Celery takes the task that something is called in for its parent; let that be another than this hidden one."""
    task.push_request(id=work_id, root_id=root_id)
    try:
        yield
    finally:
        task.pop_request()


def _report(self: Worker, value: Any, context: dict[str, Any]) -> None:
    """Tell a chord that Celery keeps that this part of its header has succeeded."""
    _return_chord_part(self, context, states.SUCCESS, value)


def _aftermath(
    self: Worker, failed: dict[str, Any], state: str, error: dict[str, Any] | None, entry: dict[str, Any]
) -> None:
    """Run what was to run when the work `failed` ends badly."""
    exc, traceback = _exception(self.app, state, error)
    if "errback" in entry:
        facts = failed["facts"]
        request = Context(
            id=failed["id"], task=failed["task"], args=failed.get("args"), kwargs=failed.get("kwargs"),
            root_id=facts.get("root"), parent_id=facts.get("parent"), group=facts.get("group"),
            errbacks=[entry["errback"]], delivery_info={}, headers=facts.get("headers"),
        )  # fmt: skip
        self.app.backend._call_task_errbacks(request, exc, traceback)  # noqa: SLF001  # as Celery's tracer does
        return
    always = entry["always"]
    if "report" in always:
        _return_chord_part(self, always["report"], _STATES[state], exc)
        return
    published = maybe_signature(always["published"], app=self.app)
    if always["is_body"]:
        try:
            raise exc  # Celery wants to see it on the stack
        except type(exc):
            self.app.backend.chord_error_from_stack(published, exc)
    else:
        _fail_published(self.app, list(_tasks_of(published)), exc, traceback, _STATES[state])


_STATES = {State.FAILED.name: states.FAILURE, State.CANCELLED.name: states.REVOKED}


def _tasks_of(signature: Any) -> Iterator[Any]:
    if isinstance(signature, _chain | group):
        for each in signature.tasks:
            yield from _tasks_of(maybe_signature(each, app=signature.app))
    elif isinstance(signature, chord) and signature.body is not None:
        yield from _tasks_of(maybe_signature(signature.body, app=signature.app))
    else:
        yield signature


def _fail_published(app: Any, tasks: list[Any], exc: Any, traceback: str, state: str) -> None:
    """Let them fail as the rest of a chain does, which is told to the chords they are in."""
    *before, last = tasks
    options = last.options
    if last.id:
        request = Context(
            id=last.id, chain=before, chord=options.get("chord"), group=options.get("group_id"),
            group_index=options.get("group_index"),
        )  # fmt: skip
        app.backend.mark_as_failure(last.id, exc, traceback, request=request, call_errbacks=False, state=state)


def _return_chord_part(task: Worker, context: dict[str, Any], state: str, result: Any) -> None:
    app, request = task.app, Context(context)
    # Most backends look up what the parts of a header returned, so it has to be there.
    app.backend.store_result(context["id"], result, state, request=request)
    with _in_the_place_of(task, request.id, request.root_id):
        app.backend.on_chord_part_return(request, state, result)


def _exception(app: Any, state: str, error: dict[str, Any] | None) -> tuple[Any, str]:
    if state == State.CANCELLED.name:
        error = {"exc_type": "TaskRevokedError", "message": "revoked", "module": "celery.exceptions"}
    found = WorkError(**error) if error else None
    return app.backend.exception_to_python(kept_exception(found)), "" if found is None else found.traceback


_WORKERS: dict[str, tuple[type[Worker], Callable[..., Any]]] = {
    COMBINE_WORKER: (Worker, _combine),
    ACCUMULATE_WORKER: (Worker, _accumulate),
    MAP_WORKER: (Worker, _map),
    STARMAP_WORKER: (Worker, _starmap),
    PUBLISH_WORKER: (_Sending, _publish),
    REPORT_WORKER: (_Sending, _report),
    AFTERMATH_WORKER: (_Sending, _aftermath),
}
