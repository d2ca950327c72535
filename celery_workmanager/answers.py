"""What a worker's return value means, inside Celery's own tracing, so that its signals and logs agree with ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from weakref import ref

from celery import Task
from celery.exceptions import Ignore, Retry
from celery.result import ResultBase
from celery.signals import task_postrun, task_success
from kombu.utils.json import dumps as kombu_dumps

from celery_workmanager.arguments import dumped
from celery_workmanager.current import Run
from celery_workmanager.data import Data
from celery_workmanager.errors import DataNotStorable, DataTooLarge
from celery_workmanager.work import Result, ResultKind

__all__ = ("Replaced", "RunStopped", "WorkFailed", "answer", "has_onlookers", "kept", "result_text")

#: That of Celery's tracer, which tells of each success, with what was returned.
_log = logging.getLogger("celery.app.trace")


class WorkFailed(Exception):
    """The worker returned ``Result.failure(...)``; Celery's hooks and signals see it as this exception."""


class RunStopped(Ignore):
    """The run was stopped before its end: neither a success nor a failure, so no signal tells of one."""


class Replaced(Ignore):
    """The run put other works in the place of its own; ``plan`` says which (JSON)."""

    def __init__(self, plan: str) -> None:
        super().__init__("replaced")
        self.plan = plan


def answer(run: Run, value: Any) -> Any:
    """Keep what a run returned, as the store wants it, and return what Celery shall show as its result.

    Raises what Celery must see instead: a stop, a failure, a retry, or that the value can't be stored.
    """
    if run.stop_reason is not None:
        raise RunStopped("stopped")
    if run.completed is not None:
        return dumped(value)
    run.shown = kept(run, value)
    return run.shown


def has_onlookers(kind: type, call: Callable[..., Any]) -> bool:
    """Whether anybody is shown what a run of a task of this class returns; `call`: the ``__call__`` that hands it on.

    Celery's tracer makes a text of it each time, a tenth of the cost of a short run, for its log and for us.
    """
    if _log.isEnabledFor(logging.INFO) or _has_hooks(kind) or kind.__call__ is not call:
        return True
    return any(not _is_blind(each) for _, each in (*task_success.receivers, *task_postrun.receivers))


def _is_blind(receiver: Any) -> bool:
    """Whether it is Celery's own for Django, which closes connections after each run and looks at nothing."""
    called = receiver() if isinstance(receiver, ref) else receiver
    return getattr(called, "__module__", None) == "celery.fixups.django"


@lru_cache(maxsize=1024)
def _has_hooks(kind: Any) -> bool:
    return kind.on_success is not Task.on_success or kind.after_return is not Task.after_return


def kept(run: Run, value: Any) -> Any:
    """Keep a value as the output of a run and return it as Celery shall show it; raises as `answer` does."""
    if isinstance(value, Result):
        if value.kind is ResultKind.RETRY:
            raise Retry(when=None if value.after is None else value.after.total_seconds())
        run.output = result_text(run, value)
        if value.kind is ResultKind.FAILURE:
            raise WorkFailed("the worker returned a failure")
        return value.output_data.to_dict()
    if not run.is_call and value is None:
        run.output = "{}"
        return None
    value = dumped(value)
    run.output = _call_text(run, value) if run.is_call else data_text(run, value)
    return value


def result_text(run: Run, result: Result) -> str:
    """Return the output of a ``Result`` as the store keeps it; raises DataTooLarge."""
    if run.is_call:
        return _call_text(run, result.output_data.to_dict())
    result.output_data.check_size(run.runtime.data_max_bytes, "output data")
    return result.output_data.to_json()


def data_text(run: Run, value: Any) -> str:
    """Return a returned value as Data: a mapping as it is, anything else under the key ``result``."""
    data = Data.of(value if isinstance(value, Mapping) else {"result": value}, "output_data")
    data.check_size(run.runtime.data_max_bytes, "output data")
    return data.to_json()


def _call_text(run: Run, value: Any) -> str:
    try:
        # A result object is handed on as Celery's backends keep one (Source: Celery, ``Backend.prepare_value``).
        text: str = kombu_dumps(value.as_tuple() if isinstance(value, ResultBase) else value)
    except (TypeError, ValueError) as error:
        raise DataNotStorable("return value", value, str(error)) from error
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > run.runtime.call_max_bytes:
        raise DataTooLarge("return value", size, run.runtime.call_max_bytes)
    return text
