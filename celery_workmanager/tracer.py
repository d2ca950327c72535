"""Running claims inside a pool's process or thread, through Celery's own tracing."""

from __future__ import annotations

import marshal
import os
import traceback
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any

from billiard import common
from celery import states
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry
from kombu.utils.encoding import safe_repr
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.answers import Replaced, WorkFailed, kept
from celery_workmanager.arguments import arguments_in, is_put_back, parameters_of, put_back, sent_anew
from celery_workmanager.call import shown_facts
from celery_workmanager.current import Run, Runtime, running
from celery_workmanager.data import Data
from celery_workmanager.errors import UnknownWorker
from celery_workmanager.mergers import OverwritingInputMerger, load_merger
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.timing import as_datetime
from celery_workmanager.told_states import told_failure
from celery_workmanager.work import StopReason, WorkError

__all__ = ("Answer", "Member", "error_text", "install", "member_of", "outcome_of", "run_batch")

#: (slot, run number, the claim's fields): what crosses the pipe; a tuple pickles faster than a dataclass.
Member = tuple[Any, ...]
#: (ending, output, error, after, reason, started_at, runtime, result or exception as shown in events)
Answer = tuple[int, str | None, str | None, float | None, int, float | None, float, str | None]

_ENDINGS = tuple(Ending)
_SUCCEEDED, _FAILED, _RETRY, _STOPPED, _GIVEN_BACK, _REPLACED = (
    _ENDINGS.index(ending)
    for ending in (
        Ending.SUCCEEDED, Ending.FAILED, Ending.RETRY, Ending.STOPPED, Ending.GIVEN_BACK, Ending.REPLACED,
    )
)  # fmt: skip
_NOT_STOPPED = int(StopReason.NOT_STOPPED)
_GIVE_BACK: Answer = (_GIVEN_BACK, None, None, None, _NOT_STOPPED, None, 0.0, None)
_OVERWRITING = OverwritingInputMerger()

_runtime: Runtime | None = None


def install(runtime: Runtime | None) -> None:
    """Set what every run of this process shares; before the pool forks."""
    global _runtime  # noqa: PLW0603  # children inherit it by forking, which no argument can do
    _runtime = runtime


def member_of(claim: Claim, slot: int, number: int) -> Member:
    """Return what crosses the pool's pipe for one claim."""
    member = (
        slot, number, claim.id, claim.worker, claim.queue, claim.token, claim.node, claim.run_attempt_count,
        claim.interruptions, claim.generation, claim.inputs, claim.options,
    )  # fmt: skip
    if claim.standing is None:
        return member
    # A periodic worker may end its period itself.
    return (*member, claim.start_written, claim.enqueued_at, claim.run_at, claim.standing)


def outcome_of(answer: Answer) -> Outcome:
    """Return the outcome that an answer stands for."""
    ending, output, error, after, reason, started_at, runtime, _ = answer
    why = StopReason.NOT_STOPPED if reason == _NOT_STOPPED else StopReason(reason)
    return Outcome(_ENDINGS[ending], output, error, after, why, started_at, runtime)


def error_text(exc: BaseException, traceback_text: str = "") -> str:
    """Return an exception as the store keeps it."""
    return WorkError.from_exception(exc, traceback_text).to_json()


def run_batch(show: bool, members: Sequence[Member]) -> list[Answer | None]:
    """Run claims one after the other; never raises, except when this process was told to exit.

    An answer that fits goes into its slot, where it outlives this process, and is ``None`` here. ``show``: add
    each result as text for Celery's events.
    """
    runtime = _runtime
    if runtime is None:  # a pool that was started without us
        return [_GIVE_BACK for _ in members]
    return [_run_member(runtime, show, member) for member in members]


def _run_member(runtime: Runtime, show: bool, member: Member) -> Answer | None:
    slots, slot, number = runtime.slots, member[0], member[1]
    if slots.is_withdrawn(slot):
        return _GIVE_BACK
    if slots.started(slot) is not None:
        # The pool hands a job out again when its process died before it was seen to begin. It did begin: the
        # parent finds in the slot how far it came.
        return None
    answer = _answer_of(runtime, show, Claim(*member[2:]), slot, number)
    if answer[0] == _GIVEN_BACK:
        return answer
    kept = slots.write_outcome(slot, number, marshal.dumps(answer))
    slots.stamp_end(slot, monotonic())
    return None if kept else answer


def _answer_of(runtime: Runtime, show: bool, claim: Claim, slot: int, number: int) -> Answer:
    try:
        task = runtime.app.tasks.get(claim.worker)
        if task is None:
            raise UnknownWorker(claim.worker, runtime.app.tasks)  # noqa: TRY301
        run = Run(runtime, claim, slot, number, _merged(runtime, claim))
        args, kwargs = _arguments(task, run)
    except Exception as error:  # noqa: BLE001  # an input that can't be used fails this work and no other
        return _failed(error, None, 0.0)
    started = monotonic()
    if not runtime.slots.stamp_start(slot, started, os.getpid()):
        return _GIVE_BACK
    token = running.set(run)
    try:
        return _traced(task, run, args, kwargs, started, show)
    except BaseException as error:
        # Sent away by the parent: say nothing, it knows what it did. Anything else is the worker's own doing.
        if common._should_have_exited[0]:  # noqa: SLF001  # billiard says it nowhere else in all versions
            raise
        # A greenlet is ended by an exception thrown into it, once its stop flag is up.
        return _stopped(run, started) or _failed(error, started, monotonic() - started)
    finally:
        running.reset(token)


def _failed(error: BaseException, started: float | None, runtime: float) -> Answer:
    text = "".join(traceback.format_exception(error))
    return (_FAILED, None, error_text(error, text), None, _NOT_STOPPED, started, runtime, None)


def _merged(runtime: Runtime, claim: Claim) -> str:
    inputs, path = claim.inputs, claim.options.get("merger")
    if "call" in claim.options or (path is None and len(inputs) == 1):
        return inputs[0]
    merger = _OVERWRITING if path is None else load_merger(path)
    merged = Data.of(merger.merge([_as_data(text) for text in inputs]), "merged input")
    merged.check_size(runtime.data_max_bytes, "merged input")
    return merged.to_json()


def _as_data(text: str) -> Data:
    """The output of a prerequisite; a task call may have returned any JSON value."""
    return Data.from_json(text) if text.startswith("{") else Data.of({"result": kombu_loads(text)}, "input")


def _arguments(task: Any, run: Run) -> tuple[Any, dict[str, Any]]:
    parameters = parameters_of(task)
    if not run.is_call:
        if run.input_text == "{}":
            return (), {}
        return (), parameters.accepted(run.input_data.to_dict())
    args, kwargs = arguments_in(run.claim.inputs, run.claim.options)
    if parameters.models:
        if args and parameters.all_named:
            args, kwargs = (), parameters.by_name(args, kwargs)
        kwargs = parameters.validated(kwargs)
    return args, kwargs


def _request(task: Any, run: Run) -> dict[str, Any]:
    claim, facts = run.claim, run.facts
    delivery = {
        "exchange": "",
        "routing_key": claim.queue,
        "priority": facts.get("priority"),
        "redelivered": claim.interruptions > 0 or is_put_back(claim.inputs, claim.options),
    }
    request = {
        "id": claim.id,
        "root_id": claim.id,
        "correlation_id": claim.id,
        "task": claim.worker,
        "retries": claim.run_attempt_count,
        "hostname": run.runtime.hostname,
        "is_eager": False,
        # The store is the truth and the parent writes it; Celery's tracer must write nothing.
        "ignore_result": True,
        "delivery_info": delivery,
        "timelimit": [
            claim.options.get("time_limit") or task.time_limit,
            claim.options.get("soft_time_limit") or task.soft_time_limit,
        ],
        "lang": "py",
        "argsrepr": None,
        "kwargsrepr": None,
        "stamps": {},
        # Without any, Celery looks through all of these for some that aren't its own: a tenth of a short run.
        "headers": {},
    }
    if "expires" in claim.options:
        request["expires"] = as_datetime(claim.options["expires"]).isoformat()
    return request | shown_facts(facts) if facts else request


def _traced(task: Any, run: Run, args: Any, kwargs: dict[str, Any], started: float, show: bool) -> Answer:
    if task.__trace__ is None:  # only outside a Celery worker, which builds them all when it starts
        task.__trace__ = build_tracer(task.name, task, app=run.runtime.app)
    run.show = show or bool(run.facts)
    returned, info, _, shown = task.__trace__(run.claim.id, args, kwargs, _request(task, run))
    ending, output, error, after = _meaning(run, returned, info)
    runtime = monotonic() - started
    if show and info is not None:
        shown = safe_repr(getattr(info.retval, "exc", None) if ending == _RETRY else info.retval)
    if info is not None:
        _let_go(info.retval)
    stopped = _stopped(run, started)
    return stopped or (ending, output, error, after, _NOT_STOPPED, started, runtime, shown if show else None)


def _let_go(error: Any) -> None:
    """Take the tracebacks off an exception: their frames hold what holds it, some 100 kB until the collector comes."""
    seen = set[int]()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _kept(run: Run) -> tuple[list[str], dict[str, Any]]:
    return run.claim.inputs, run.claim.options


def _stopped(run: Run, started: float) -> Answer | None:
    reason = run.stop_reason
    if reason is None:
        return None
    return (_STOPPED, None, None, None, int(reason), started, monotonic() - started, None)


def _meaning(run: Run, returned: Any, info: Any) -> tuple[int, str | None, str | None, float | None]:
    if info is None:
        return _done(run, returned)
    exc = info.retval
    trace = str(getattr(returned, "traceback", "") or "")
    if info.state == states.RETRY:
        return _RETRY, run.next_call or sent_anew(*_kept(run)), _why_again(run, exc, trace), _seconds_until(exc)
    if isinstance(exc, Reject) and exc.requeue:
        return _RETRY, put_back(*_kept(run)), None, 0.0
    if info.state == states.IGNORED:
        return _ignored(run, exc)
    if isinstance(exc, WorkFailed):
        return _FAILED, run.output, None, None
    return _FAILED, None, error_text(exc, trace), None


def _done(run: Run, returned: Any) -> tuple[int, str | None, None, None]:
    if run.completed is not None:
        return _SUCCEEDED if run.completed.ending is Ending.SUCCEEDED else _FAILED, run.completed.output, None, None
    if run.output is None or returned is not run.shown:
        kept(run, returned)  # a task class that overrides __call__: this is its value
    return _SUCCEEDED, run.output, None, None


def _ignored(run: Run, exc: Any) -> tuple[int, str | None, str | None, None]:
    if isinstance(exc, Replaced) and exc.plan is not None:
        return _REPLACED, exc.plan, None, None
    if run.told is not None and run.told[0] == states.FAILURE:
        # Celery's way to fail with a state of one's own: the state is told, then nothing else may be stored.
        return _FAILED, None, told_failure(run.told[1]).to_json(), None
    return _SUCCEEDED, "null" if run.is_call else "{}", None, None


def _why_again(run: Run, retry: Retry, trace: str) -> str | None:
    """What shows meanwhile; a call without a cause shows that it is retried."""
    cause = retry.exc if isinstance(retry.exc, Exception) else retry
    if cause is retry and not run.is_call:
        return None
    return error_text(cause, trace)


def _seconds_until(retry: Retry) -> float | None:
    when = retry.when
    if isinstance(when, datetime):
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    return None if when is None else max(0.0, float(when))
