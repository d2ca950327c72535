"""Worker: the base of Celery tasks whose calls are durable works."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from functools import wraps
from inspect import iscoroutine, iscoroutinefunction, unwrap
from typing import Any, NoReturn

from celery import Task
from celery._state import pop_current_task, push_current_task
from celery.exceptions import Retry
from celery.utils.serialization import raise_with_context

from celery_workmanager import aliases as other_names
from celery_workmanager.answers import Replaced, RunStopped, answer, has_onlookers, result_text
from celery_workmanager.calls import changed_call, request_from_call
from celery_workmanager.canvas import applied, replacement
from celery_workmanager.coroutines import drive, watch_for_stop
from celery_workmanager.current import Run, current_run
from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest, NotInitialized, UnsupportedOperation
from celery_workmanager.foreground import ForegroundInfo
from celery_workmanager.outcome import Ending, Outcome
from celery_workmanager.payloads import check_serializer, check_task
from celery_workmanager.publish_signals import announce, announced
from celery_workmanager.timing import as_datetime
from celery_workmanager.waiters import is_resumed
from celery_workmanager.work import Result, ResultKind, StopReason

__all__ = ("Worker",)

#: Options that say that other tasks depend on this one.
_OF_A_CANVAS = ("link", "link_error", "chain", "chord")


class Worker(Task):
    """A task that runs as a durable work (WorkManager semantics: Worker, CoroutineWorker).

    Use it as ``@app.task(base=Worker)`` on a function or coroutine function, which takes the input data as
    keyword arguments, or subclass it with ``do_work``. What it returns is described at ``Result``.
    """

    abstract = True
    #: What makes a task's calls durable works, whoever looks at it.
    is_durable_worker = True
    #: Retries are unlimited, as on Android; ``max_attempts`` of a request limits them.
    max_retries = None
    #: Seconds until a retry that doesn't say when; None: as the request's backoff says.
    default_retry_delay: float | None = None
    #: The store keeps every result; True: ``get()`` doesn't wait for it.
    ignore_result = False
    track_started = False
    acks_late = False
    #: Names it had before: works and messages under them run as this worker.
    aliases: tuple[str, ...] = ()
    #: Makes works of broker messages.
    Strategy = "celery_workmanager.intake:strategy"

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Connect the worker with its app. Raises ConfigurationError for an alias that is taken, and for pickle."""
        if not cls.__bound__:
            check_task(cls.name, cls.serializer)
        bound = super().bind(app)
        other_names.register(app, cls)
        return bound

    def __init__(self) -> None:
        super().__init__()
        # Celery's autoretry wraps ``run`` later and must see what a coroutine raises, so it ends below that.
        self.run = _ending_coroutines(self, self.run)  # type: ignore[method-assign]

    # What a subclass may override

    def do_work(self) -> Any:
        """Do the work; may be a coroutine function. Override it, or ``run``, or decorate a function."""
        raise UnsupportedOperation(f"expected worker {self.name!r} to override do_work() or run()")

    def run(self, *_args: Any, **_kwargs: Any) -> Any:
        """Run the worker's code; a decorated function takes this place."""
        return self.do_work()

    def on_stopped(self) -> None:
        """Called once, in another thread, when the run is asked to stop; for a coroutine worker in its own thread.

        WorkManager semantics: ListenableWorker.onStopped.
        """

    # The run

    @property
    def _run(self) -> Run:
        run = current_run()
        if run is None:
            raise UnsupportedOperation(f"expected to be inside a run of worker {self.name!r}, got: no run")
        return run

    @property
    def work_id(self) -> str:
        """The work's id."""
        return self._run.claim.id

    @property
    def input_data(self) -> Data:
        """The input, outputs of prerequisites merged in; also the keys that the function doesn't take."""
        return self._run.input_data

    @property
    def tags(self) -> frozenset[str]:
        """The work's tags; the worker's name is one of them."""
        return self._run.tags

    @property
    def run_attempt_count(self) -> int:
        """How often it was run before: 0 in the first run (WorkManager semantics: getRunAttemptCount)."""
        return self._run.claim.run_attempt_count

    @property
    def deadline_expired(self) -> bool:
        """Whether its deadline had passed when it was taken: its constraints need not be met (``JobParameters``)."""
        return bool(self._run.claim.options.get("deadline_expired"))

    @property
    def triggered_content_uris(self) -> tuple[str, ...]:
        """What has changed and so started it; empty if that was more than 50 (WorkManager, getTriggeredContentUris)."""
        return tuple(self._run.claim.options.get("triggered", {}).get("uris", ()))

    @property
    def triggered_content_authorities(self) -> tuple[str, ...]:
        """The folders of what has changed (WorkManager semantics: getTriggeredContentAuthorities)."""
        return tuple(self._run.claim.options.get("triggered", {}).get("authorities", ()))

    @property
    def generation(self) -> int:
        """How often the request was updated."""
        return self._run.claim.generation

    @property
    def is_stopped(self) -> bool:
        """Whether this run should end now; its result won't count. Cheap; False outside a run."""
        return self.stop_reason is not StopReason.NOT_STOPPED

    @property
    def stop_reason(self) -> StopReason:
        """Why this run should end, ``NOT_STOPPED`` while it needn't."""
        run = current_run()
        return (run and run.stop_reason) or StopReason.NOT_STOPPED

    def set_progress(self, data: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Publish progress; the latest wins. Raises DataNotStorable, DataTooLarge."""
        self._run.set_progress(Data.of(data, "progress", **values))

    def set_foreground(self, info: ForegroundInfo) -> None:
        """Declare this run to be long, and show `info` to those who watch while it lasts. May be called again.

        A cold shutdown waits for it up to ``workmanager_foreground_wait``; a lost constraint and a cancel stop it all
        the same (WorkManager semantics: setForegroundAsync). Raises InvalidRequest.
        """
        if not isinstance(info, ForegroundInfo):
            raise InvalidRequest("foreground", "a ForegroundInfo", info)
        self._run.set_foreground(info)

    @property
    def scheduled_at(self) -> datetime | None:
        """The nominal moment of the occurrence that this run is for; None in one-time work."""
        standing = self._run.claim.standing
        return None if standing is None else as_datetime(standing.at)

    def complete(self, connection: Any = None, result: Result | Mapping[str, Any] | None = None) -> None:
        """Finish the work inside the caller's database transaction, so that it and the caller's rows commit together.

        ``connection`` is an SQLAlchemy connection to the store's database; in a Django project without one, the
        transaction is that of ``transaction.atomic``. What the run returns afterwards is ignored. Raises
        InvalidRequest without a transaction, UnsupportedOperation for ``Result.retry()``.
        """
        run = self._run
        if not isinstance(result, Result):
            result = Result.success(result)
        if result.kind is ResultKind.RETRY:
            raise UnsupportedOperation("expected complete() with a success or a failure, got: Result.retry()")
        ending = Ending.SUCCEEDED if result.kind is ResultKind.SUCCESS else Ending.FAILED
        started_at = run.runtime.slots.started(run.slot)
        outcome = Outcome(ending, output=result_text(run, result), started_at=started_at)
        _manager_of(self).complete_run(connection, run.claim, outcome)
        run.completed = outcome

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, inside a run as Celery's tracer calls it; elsewhere a plain call of the function."""
        run = current_run()
        if run is None or run.entered or (run.claim.worker != self.name and run.claim.worker not in self.aliases):
            return self._called(args, kwargs)
        run.entered = True
        request = self.request_stack.top
        if not request.headers:
            request.headers = None  # as Celery has it, see `tracer`
        with self._watched(run):
            value = self.run(*args, **kwargs)
        shown = answer(run, value)
        if run.show or request.callbacks or request.chain or has_onlookers(type(self), Worker.__call__):
            return shown
        run.shown = None
        return None

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = self.request_stack.top
        if request is None or request.called_directly or request._protected:  # noqa: SLF001  # Celery's own mark
            return super().__call__(*args, **kwargs)
        request._protected = 1  # noqa: SLF001  # Celery's tracer (eager, tests) pushed it for this very call
        return _bare(self.run(*args, **kwargs))

    def _watched(self, run: Run) -> Any:
        """Watch the stop flag for a worker that wants to be told; a coroutine's loop does so itself."""
        if type(self).on_stopped is Worker.on_stopped or _is_coroutine_worker(self):
            return nullcontext()
        return watch_for_stop(lambda: run.stop_reason is not None, self.on_stopped)

    # Celery's task, where a work differs

    @property
    def backend(self) -> Any:
        """The store, whatever the app's result backend is."""
        manager = getattr(self.app, "workmanager", None)
        return self._backend or (self.app.backend if manager is None else manager.result_backend)

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: Any = None, producer: Any = None, link: Any = None,
        link_error: Any = None, shadow: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Enqueue this call as a durable work and return its AsyncResult; options as Celery's.

        With callbacks, and inside a chain or chord, all works of it are enqueued in one transaction. Raises TypeError
        for arguments that don't fit, DataNotStorable for those that aren't JSON in Celery's sense.
        """
        app = self._get_app()
        check_serializer(options.get("serializer"))
        if app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        options.update(task_id=task_id, link=link, link_error=link_error, shadow=shadow)
        manager = _manager_of(self)
        if any(options.get(name) for name in _OF_A_CANVAS) or is_resumed(app, options):
            following = options.pop("chain", None)
            own = {name: value for name, value in options.items() if value is not None}
            signature = self.signature(args, kwargs, options=own, immutable=True)
            return applied(signature, manager, (), {}, {"chain": following})
        around = app.current_worker_task
        if around is not None:
            options.setdefault("root_id", around.request.root_id or around.request.id)
            options.setdefault("parent_id", around.request.id)
        announce(self, args, kwargs, options)
        # The store's time: a delay that is worked out by it ends at the moment that was asked for.
        now = as_datetime(int(manager.clock.now()))
        request = request_from_call(self, args, kwargs, options, now)
        manager.enqueue_call(request)
        announced(self, args, kwargs, options)
        result = self.AsyncResult(request.id)
        result.ignored = options.get("ignore_result", self.ignore_result)
        if around is not None and options.get("add_to_parent", True):
            around.add_trail(result)
        return result

    def retry(
        self, args: Any = None, kwargs: Any = None, exc: Any = None, throw: bool = True, eta: Any = None,
        countdown: Any = None, max_retries: int | None = None, **_options: Any,
    ) -> Retry:  # fmt: skip
        """Raise what makes this run be retried.

        Without ``countdown``, ``eta`` and a ``default_retry_delay`` of the task the request's backoff decides. With
        other ``args`` or ``kwargs`` (of a task call) the next run gets those.
        """
        request = self.request
        if request.called_directly:
            raise_with_context(exc or Retry("Task can be retried", None))
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and (request.retries or 0) >= limit:
            self._give_up(exc, limit)
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        sig = self._once_more(args, kwargs)
        again = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=sig)
        if throw:
            raise again
        return again

    def replace(self, sig: Any) -> Any:
        """Put a call, chain, group or chord of Workers in the place of this work, and end this run (Celery's replace).

        What waits for this work waits for the replacement: its last work takes the id. Raises UnsupportedOperation
        when there are ordinary tasks in it.
        """
        run = current_run()
        if run is None or run.claim.id != self.request.id:
            return super().replace(sig)
        raise Replaced(replacement(sig, _manager_of(self), run))

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Refuse what a durable graph can't be: one that grows at its sides. Raises UnsupportedOperation."""
        run = current_run()
        if run is None or run.claim.id != self.request.id:
            return super().add_to_chord(sig, lazy)
        raise UnsupportedOperation("expected a chord whose header was known at its enqueue, got: add_to_chord()")

    def _once_more(self, args: Any, kwargs: Any) -> Any:
        """What Celery calls again at once when a task that it runs here (``apply``) is retried."""
        request, run = self.request, current_run()
        if request.is_eager:
            return self.signature_from_request(request, args, kwargs, retries=(request.retries or 0) + 1)
        if run is not None and (args is not None or kwargs is not None):
            if not run.is_call:
                raise UnsupportedOperation("expected retry() of the same input data, got: args or kwargs")
            run.change_call(changed_call(self, request, args, kwargs))
        return None

    def _give_up(self, exc: Any, limit: int) -> NoReturn:
        if exc is not None:
            raise_with_context(exc)
        raise self.MaxRetriesExceededError(f"Can't retry {self.name}[{self.request.id}]: more than {limit} times")


def _manager_of(task: Worker) -> Any:
    manager = getattr(task.app, "workmanager", None)
    if manager is None:
        raise NotInitialized(str(task.app.main or "default"))
    return manager


def _ending_coroutines(worker: Worker, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def ended(*args: Any, **kwargs: Any) -> Any:
        value = run(*args, **kwargs)
        if not iscoroutine(value) or not _inside(worker):
            return value
        return _driven(worker, value)

    return ended


def _inside(worker: Worker) -> bool:
    """Whether Celery runs the worker; a plain call of a coroutine function gives its coroutine."""
    request = worker.request_stack.top
    return request is not None and not request.called_directly


def _driven(worker: Worker, coroutine: Any) -> Any:
    try:
        inside = _inside_request(worker, worker.request_stack.top, coroutine)
        return drive(inside, lambda: worker.is_stopped, worker.on_stopped)
    except CancelledError as cancelled:
        if worker.is_stopped:
            raise RunStopped("stopped") from None
        # Celery's tracer lets through what is no Exception.
        raise RuntimeError("expected the coroutine to end, got: it was cancelled") from cancelled


async def _inside_request(worker: Worker, request: Any, coroutine: Any) -> Any:
    """Let it see ``self.request`` and ``current_task``, which Celery keeps for each thread apart."""
    if worker.request_stack.top is request:
        return await coroutine
    worker.request_stack.push(request)
    push_current_task(worker)
    try:
        return await coroutine
    finally:
        pop_current_task()
        worker.request_stack.pop()


def _is_coroutine_worker(worker: Worker) -> bool:
    return iscoroutinefunction(unwrap(worker.run)) or iscoroutinefunction(worker.do_work)


def _bare(value: Any) -> Any:
    """What an eager call shows of a result."""
    if not isinstance(value, Result):
        return value
    if value.kind is ResultKind.RETRY:
        raise Retry(when=value.after)
    return value.output_data.to_dict()
