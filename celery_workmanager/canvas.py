"""Canvases that are enqueued: by ``work_manager.enqueue(canvas)``, and by their own ``apply_async``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from celery.canvas import Signature, _basemap, _chain, _chord, chain, chunks, group, maybe_signature
from celery.exceptions import ImproperlyConfigured
from celery.result import GroupResult, ResultSet

from celery_workmanager import waiters
from celery_workmanager.backend import WorkManagerBackend
from celery_workmanager.canvas_graph import ACCUMULATE, Compiler
from celery_workmanager.canvas_parts import Given, Outcome, Step, steps_of, unique
from celery_workmanager.continuation import WorkContinuation
from celery_workmanager.current import Run
from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.wire import request_to_json

__all__ = ("applied", "continuation_of", "continuation_of_call", "install", "replacement")

#: Options that a group can't hand on to its members.
_OF_TASKS = ("link", "link_error", "chord")
_CANVASES: tuple[type[Signature], ...] = (_chain, group, _chord, _basemap)


def continuation_of(
    canvas: Any, manager: Any, name: str | None = None, policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP
) -> WorkContinuation:
    """Return the graph of a canvas as a continuation; nothing is stored.

    Raises TypeError for arguments that don't fit (as Celery), DataNotStorable for those that aren't JSON.
    """
    compiler = Compiler(manager)
    outcome = compiler.part(maybe_signature(canvas, app=manager.app), Outcome(), Given())
    return compiler.continuation(outcome, name, policy)


def continuation_of_call(
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    manager: Any,
    *,
    typed: bool = True,
) -> WorkContinuation:
    """Return the graph of a task call that was sent as a message, and of all that its options say follows it.

    Without `typed`, arguments that don't fit are no error: the run fails. Where results of ordinary tasks are kept
    elsewhere, what becomes of the works is told there.
    """
    own = {name: value for name, value in options.items() if name != "chain"}
    canvas: Signature = task.signature(list(args), dict(kwargs), options=own, immutable=True)
    if options.get("chain"):
        canvas = chain(canvas, *reversed(options["chain"]), app=manager.app)
    compiler = Compiler(manager, is_published=True)
    outcome = compiler.part(canvas, Outcome(), Given())
    for node in compiler.nodes:
        node.options.setdefault("typing", node.task.typing and typed)
    if waiters.look_elsewhere(manager.app):
        waiters.add_reports(compiler)
    return compiler.continuation(outcome)


def applied(
    canvas: Signature, manager: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> Any:
    """Enqueue a canvas as its ``apply_async`` was called, in one transaction, and return Celery's result object.

    ``None`` when it doesn't begin with works alone: then it is Celery's.
    """
    options = {name: value for name, value in options.items() if value is not None}
    following = options.pop("chain", None)
    trail = options.pop("add_to_parent", True)
    if following:
        canvas = chain(canvas, *reversed(following), app=manager.app)
    if isinstance(canvas, _chord) and kwargs.get("body"):
        kwargs = dict(kwargs)
        canvas = canvas.clone()
        canvas.body = kwargs.pop("body")
    compiler = Compiler(manager)
    # Celery has its say about groups with callbacks, which it refuses.
    if not compiler.begins_durable(canvas) or (isinstance(canvas, group) and not options.keys().isdisjoint(_OF_TASKS)):
        return None
    outcome = compiler.part(canvas, Outcome(), Given(tuple(args), dict(kwargs), options))
    if waiters.is_resumed(manager.app, canvas.options):
        waiters.add_reports(compiler)
    compiler.enqueue(outcome)
    result = _unwrapped(outcome.result) if isinstance(canvas, group) else outcome.result
    around = manager.app.current_worker_task
    if trail and around is not None:
        around.add_trail(result)
    return result


def _unwrapped(result: Any) -> Any:
    """A group of nothing but a chain that ends in a group has the result of that group, as in Celery."""
    return result[0] if len(result) == 1 and isinstance(result[0], GroupResult) else result


def replacement(canvas: Any, manager: Any, run: Run) -> str:
    """Return the works that take the place of a run's work, as JSON; the last of them takes its id.

    Source: Celery, ``Task.replace``. Raises UnsupportedOperation when ordinary tasks are among them.
    """
    compiler = Compiler(manager)
    canvas = _ending_in_one(maybe_signature(canvas, app=manager.app), manager.app)
    if not compiler.is_durable(canvas):
        raise UnsupportedOperation("expected a work to be replaced by Workers alone, got: other tasks among them")
    facts, claim = run.facts, run.claim
    place = {"task_id": claim.id, "group_id": facts.get("group"), "group_index": facts.get("group_index")}
    outcome = compiler.part(canvas, Outcome(), Given(options=place))
    for node in compiler.nodes:
        node.options["replaced_task_nesting"] = facts.get("nesting", 0) + 1
        if not node.aside:
            node.options["errbacks"] = list(unique(node.options.get("errbacks", ()), facts.get("errbacks", ())))
            node.options.setdefault("chord_bodies", facts.get("chord"))
    steps = [step for step in compiler.continuation(outcome).steps() if step.requests]
    for step in steps:
        manager.check(step.requests[0])
    return json.dumps([_entry(step, manager) for step in steps])


def _ending_in_one(canvas: Signature, app: Any) -> Signature:
    """A group ends in the list of its values, as in Celery."""
    if "chord" in canvas.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    steps = steps_of(canvas, app) if isinstance(canvas, _chain) else [Step(canvas)]
    if not steps:
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    last = steps[-1].signature
    if isinstance(last, group | chunks):
        # Not `chain(…)`, which unrolls a group of one.
        return canvas | app.signature(ACCUMULATE, kwargs={"index": 0})
    return canvas


def _entry(step: WorkContinuation, manager: Any) -> dict[str, Any]:
    (request,) = step.requests
    parents = list(dict.fromkeys(each for parent in step.parents for each in parent.last_ids))
    return {
        "worker": request.worker_name,
        "request": request_to_json(request),
        "queue": manager.queue_of(request),
        "parents": parents,
    }


def install() -> None:
    """Let canvases whose app has a WorkManager be enqueued as a whole; others stay as they are. Once in a process."""
    for kind in _CANVASES:
        if not hasattr(kind.apply_async, "__wrapped__"):
            kind.apply_async = _durably(kind.apply_async)
    ResultSet.supports_native_join = property(_supports_native_join)
    ResultSet.backend = property(_backend_of)


def _durably(apply_async: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(apply_async)
    def applying(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        manager = getattr(self.app, "workmanager", None)
        if manager is not None and not self.app.conf.task_always_eager:
            result = applied(self, manager, args or (), kwargs or {}, options)
            if result is not None:
                return result
        return apply_async(self, args, kwargs, **options)

    return applying


def _backend_of(results: ResultSet) -> Any:
    """Where results are that are all works': the store; others where Celery looks for them."""
    kept = [each.backend for each in results.results]
    if kept and all(isinstance(each, WorkManagerBackend) for each in kept):
        return kept[0]
    return results.app.backend


def _supports_native_join(results: ResultSet) -> bool:
    """Whether one backend has all of them; Celery asks the first alone, as if none were a work's."""
    return bool(results.results) and all(each.supports_native_join for each in results.results)
