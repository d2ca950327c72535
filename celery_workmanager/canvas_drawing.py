"""The other way round: a graph of works as Celery's canvas.

A canvas can say series and parallels and nothing else: what waits for ``a`` in one place and for ``a`` and ``b`` in
another can't be written down in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from celery.canvas import Signature, _chain, group, maybe_signature
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.call import Takes, errbacks_of
from celery_workmanager.canvas_graph import PUBLISH_WORKER
from celery_workmanager.continuation import WorkContinuation
from celery_workmanager.errors import UnsupportedOperation
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.wire import request_to_json

__all__ = ("canvas_of",)

#: Celery's names for what a request says too.
_CELERYS = {"id": "task_id", "initial_delay": "countdown"}


def canvas_of(continuation: WorkContinuation, app: Any) -> Signature:
    """Return the canvas of a continuation with all before it; its unique name is not part of it.

    Raises UnsupportedOperation for a graph that is not made of chains and groups.
    """
    drawing = _Drawing(app)
    ends = _real((continuation,))
    drawn = drawing.parts(ends, None)
    drawing.add_links(step for step in continuation.steps() if step.requests)
    return drawn[0] if len(drawn) == 1 else _chain(*drawn, app=app)


class _Drawing:
    def __init__(self, app: Any) -> None:
        self._app = app
        self._drawn: dict[WorkContinuation, Signature] = {}

    def parts(self, ends: list[WorkContinuation], stop: WorkContinuation | None) -> list[Signature]:
        """The parts of a chain after `stop`, up to the steps `ends`."""
        found: list[Signature] = []
        while ends and ends != [stop]:
            if len(ends) == 1:
                found.append(self._step(ends[0]))
                ends = _real(ends[0].parents)
                continue
            fork = _fork(ends, stop)
            branches = [self.parts([end], fork) for end in ends]
            if not all(branches):
                raise _not_series_parallel(ends)
            members = [branch[0] if len(branch) == 1 else _chain(*branch, app=self._app) for branch in branches]
            found.append(_group(members, [end.requests[-1] for end in ends], self._app))
            ends = [] if fork is None else [fork]
        return found[::-1]

    def _step(self, step: WorkContinuation) -> Signature:
        if step in self._drawn:
            raise _not_series_parallel([step])
        members = [self._signature(request) for request in step.requests]
        drawn = members[0] if len(members) == 1 else _group(members, step.requests, self._app)
        self._drawn[step] = drawn
        return drawn

    def add_links(self, steps: Iterable[WorkContinuation]) -> None:
        """Draw what stands aside as callbacks of the one work it waits for."""
        for step in steps:
            if step in self._drawn:
                continue
            (*_, parent) = _real(step.parents)
            if len(_real(step.parents)) != 1 or len(parent.requests) != 1 or parent not in self._drawn:
                raise _not_series_parallel([step])
            self._drawn[parent].link(self._step(step))

    def _signature(self, request: OneTimeWorkRequest) -> Signature:
        parts = request_to_json(request)
        call, data = parts.pop("call", None), parts.pop("input_data", {})
        options = {_CELERYS.get(name, name): value for name, value in parts.items()}
        if call is None:
            return Signature(request.worker_name, (), data, {**options, "as_data": True}, immutable=True, app=self._app)
        arguments = kombu_loads(call[0])
        if request.worker_name == PUBLISH_WORKER:
            return maybe_signature(arguments["kwargs"]["signature"], app=self._app)
        facts = json.loads(call[2])
        errbacks = errbacks_of(facts)
        options |= {"link_error": errbacks} if errbacks else {}
        options |= {"headers": facts["headers"]} if "headers" in facts else {}
        if "stamps" in facts:
            options |= {**facts["stamps"], "stamped_headers": list(facts["stamps"])}
        immutable = Takes(call[1]) is Takes.NOTHING
        args = tuple(arguments["args"])
        return Signature(request.worker_name, args, arguments["kwargs"], options, immutable=immutable, app=self._app)


def _real(steps: Iterable[WorkContinuation]) -> list[WorkContinuation]:
    """The steps with works that these stand for, each once."""
    found: dict[WorkContinuation, None] = {}
    for step in steps:
        found |= dict.fromkeys([step] if step.requests else _real(step.parents))
    return list(found)


def _fork(ends: list[WorkContinuation], stop: WorkContinuation | None) -> WorkContinuation | None:
    """The last step before all of `ends`; what follows it must not meet before they do."""
    before = [_ancestors(end, stop) for end in ends]
    shared = set.intersection(*before)
    meeting = any(one & other - shared for at, one in enumerate(before) for other in before[:at])
    last = [step for step in shared if shared <= _ancestors(step, stop)]
    if meeting or (shared and not last):
        raise _not_series_parallel(ends)
    return last[0] if last else stop


def _ancestors(step: WorkContinuation, stop: WorkContinuation | None) -> set[WorkContinuation]:
    """The step itself and all before it, as far as `stop`."""
    found: set[WorkContinuation] = set()
    fresh = [step]
    while fresh:
        each = fresh.pop()
        if each is not stop and each not in found:
            found.add(each)
            fresh += _real(each.parents)
    return found


def _group(members: list[Signature], requests: Iterable[OneTimeWorkRequest], app: Any) -> group:
    drawn = group(members, app=app)
    ids = {json.loads(request.call.facts).get("group") if request.call else None for request in requests}
    (group_id,) = ids if len(ids) == 1 else (None,)
    return drawn.set(task_id=group_id) if group_id else drawn


def _not_series_parallel(steps: Iterable[WorkContinuation]) -> UnsupportedOperation:
    names = ", ".join(request.worker_name for step in steps for request in step.requests)
    return UnsupportedOperation(f"expected a graph of chains and groups, got one that no canvas can say, at: {names}")
