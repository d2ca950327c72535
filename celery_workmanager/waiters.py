"""Those who wait for a result where ordinary tasks leave theirs, while works keep theirs in the store.

Who has sent a message, maybe from a program that has never heard of works, looks into the app's result backend. A small
built-in work tells it there what became of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import states
from celery.app.task import Context
from celery.backends.base import DisabledBackend

from celery_workmanager.backend import WorkManagerBackend
from celery_workmanager.call import HIDDEN
from celery_workmanager.canvas_graph import PUBLISH_WORKER, REPORT_WORKER, Compiler
from celery_workmanager.canvas_parts import Node

__all__ = ("add_reports", "is_resumed", "look_elsewhere", "tell_refused")

#: Built-in works that nobody asks for a result; a map has one.
_UNSEEN = (PUBLISH_WORKER, REPORT_WORKER)


def look_elsewhere(app: Any) -> bool:
    """Whether results of ordinary tasks are kept, and not in the store."""
    return not isinstance(app.backend, WorkManagerBackend | DisabledBackend)


def tell_refused(app: Any, task_id: str, reply_to: str | None, error: Exception) -> None:
    """Tell the app's result backend of a call that will never run."""
    if look_elsewhere(app):
        request = Context(id=task_id, reply_to=reply_to, correlation_id=task_id)
        app.backend.store_result(task_id, error, states.FAILURE, request=request)


def is_resumed(app: Any, options: Mapping[str, Any]) -> bool:
    """Whether a call is made by Celery, after an ordinary task, as a later part of a canvas that somebody has sent.

    Its id was given by who sent it, and may be waited for by them.
    """
    around = app.current_worker_task
    if around is None or not options.get("task_id"):
        return False
    is_ordinary = not getattr(around, "is_durable_worker", False) or around.name.startswith(HIDDEN)
    return is_ordinary and look_elsewhere(app)


def add_reports(compiler: Compiler) -> None:
    """Let all works of a canvas whose results count tell the app's result backend."""
    for node in list(compiler.nodes):
        if _counts(node):
            compiler.report(node)


def _counts(node: Node) -> bool:
    told = any(
        entry.get("always", {}).get("report", {}).get("id") == node.id for entry in node.options.get("errbacks", ())
    )
    if told or node.aside or node.task.name in _UNSEEN:
        return False
    ignored = node.options.get("ignore_result")
    return not (node.task.ignore_result if ignored is None else ignored)
