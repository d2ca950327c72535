"""Celery's remote control, acting on works as on tasks.

Celery keeps revoked ids in the memory of the workers that heard of them. A work that is revoked is CANCELLED in the
store: by the process that asks, and by the workers that hear it asked by somebody who doesn't know of us.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, NamedTuple

from celery.utils.functional import maybe_list
from celery.worker.control import Panel
from kombu.exceptions import OperationalError
from kombu.utils.imports import symbol_by_name

from celery_workmanager.calls import tags_of
from celery_workmanager.checks import check_text
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.ids import check_id
from celery_workmanager.query import WorkQuery
from celery_workmanager.revocations import CHUNK
from celery_workmanager.work import StopReason

__all__ = ("WorkControl", "install", "listen")

logger = logging.getLogger(__name__)

_BY_ID = ("revoke", "terminate")
_BY_STAMP = "revoke_by_stamped_headers"


class _Revoked(NamedTuple):
    """What a command revokes."""

    ids: list[str]
    tags: list[str]
    reason: StopReason

    @classmethod
    def by(cls, command: str, arguments: Mapping[str, Any]) -> _Revoked | None:
        """What this command with these arguments revokes; ``None`` when it doesn't revoke."""
        terminates = command == "terminate" or bool(arguments.get("terminate"))
        reason = StopReason.USER if terminates else StopReason.CANCELLED_BY_APP
        if command in _BY_ID:
            return cls(_valid(check_id, maybe_list(arguments.get("task_id")) or ()), [], reason)
        if command == _BY_STAMP:
            return cls([], _valid(_check_tag, tags_of(_stamps(arguments.get("headers")))), reason)
        return None


def _valid(check: Callable[[Any], str], values: Any) -> list[str]:
    """Those of `values` that a work can have; any other is no work's, and Celery's business."""
    found: dict[str, None] = {}
    for value in values:
        try:
            found[check(value)] = None
        except InvalidRequest:
            continue
    return list(found)


def _check_tag(value: Any) -> str:
    return check_text("tag", value)


def _stamps(headers: Any) -> dict[str, list[Any]]:
    if isinstance(headers, Mapping):
        return {str(name): maybe_list(values) or [] for name, values in headers.items()}
    # As the command line has them, and as Celery reads them: the last of a name counts.
    pairs = (str(each).partition("=") for each in maybe_list(headers) or ())
    return {name: [value] for name, _, value in pairs}


# -- asking -----------------------------------------------------------------------------------------------------------


class WorkControl:
    """The part of ``app.control`` that makes revoking durable; the rest is Celery's."""

    app: Any

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        connection: Any = None,
        reply: bool = False,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Send a command to the workers, as Celery does; one that revokes cancels works in the store before.

        Works are cancelled wherever they are, also with a `destination`. Raises StoreUnavailable after the command
        was sent. Without the broker, kombu's OperationalError is raised unless all ids are works and no reply is
        asked for.
        """
        send: Any = super().broadcast  # type: ignore[misc]
        manager = getattr(self.app, "workmanager", None)
        revoked = _Revoked.by(command, {**(arguments or {}), **options})
        if manager is None or revoked is None:
            return send(command, arguments, destination, connection, reply, *args, **options)
        try:
            _cancel(manager, revoked)
        finally:
            try:
                answer = send(command, arguments, destination, connection, reply, *args, **options)
            except OperationalError as error:
                if reply or not _are_works(manager, revoked.ids):
                    raise
                # The nodes hear of it by the store.
                logger.warning("The works are cancelled; the workers were not told by the broker: %s", error)
                answer = None
        return answer


def _cancel(manager: Any, revoked: _Revoked) -> None:
    store, connection = manager.store, manager.join(None)
    for start in range(0, len(revoked.ids), CHUNK):
        store.revoke(revoked.ids[start : start + CHUNK], revoked.reason, connection)
    for tag in revoked.tags:
        store.cancel_matching(tag=tag, reason=revoked.reason, connection=connection)


def _are_works(manager: Any, ids: list[str]) -> bool:
    pieces = (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
    return bool(ids) and all(len(manager.store.versions(WorkQuery(ids=some))) == len(some) for some in pieces)


@dataclass(frozen=True)
class _ControlOf:
    """Makes an app's control, when it is needed; can be pickled with the app."""

    base: Any

    def __call__(self, app: Any) -> Any:
        return _with_works(symbol_by_name(self.base))(app)


@cache
def _with_works(base: Any) -> Any:
    return type(base.__name__, (WorkControl, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def install(app: Any) -> None:
    """Make ``app.control`` reach works, whatever class it has and whether it was used before or not."""
    app.control_cls = _ControlOf(app.control_cls)
    made = vars(app).get("control")
    if made is not None:
        made.__class__ = _with_works(made.__class__)


# -- hearing ----------------------------------------------------------------------------------------------------------


def listen() -> None:
    """Let the remote control of this process's workers reach works, where a worker runs some."""
    for name in (*_BY_ID, _BY_STAMP):
        _wrap(name, _revoking)
    _wrap("add_consumer", _selecting)


def _wrap(name: str, wrapped: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    command = Panel.data[name]
    if not getattr(command, "reaches_works", False):
        command = wrapped(name, command)
        command.reaches_works = True  # type: ignore[attr-defined]
        Panel.data[name] = command


def _node_of(state: Any) -> Any:
    step = getattr(state.consumer.controller, "workmanager_step", None)
    return None if step is None else step.node


def _revoking(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def heard(state: Any, **arguments: Any) -> Any:
        answer = command(state, **arguments)
        node, revoked = _node_of(state), _Revoked.by(name, arguments)
        if node is not None and revoked is not None:
            node.revoke(*revoked)
        return answer

    return heard


def _selecting(_name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def heard(state: Any, queue: str, **options: Any) -> Any:
        answer = command(state, queue=queue, **options)
        if _node_of(state) is not None:
            state.consumer.call_soon(_select, state.app.amqp.queues, queue)
        return answer

    return heard


def _select(queues: Any, name: str) -> None:
    # Celery before 5.7 takes a cancelled queue up again, but doesn't list it among those that it consumes from.
    if name in queues and name not in queues.consume_from:
        queues.select_add(queues[name])
