"""Celery's signals of publishing, for works too: what traces calls across processes hangs on them.

A work is not published, but whoever listens wants to know of the call and to add headers to it (as Celery's own
documentation of ``before_task_publish`` invites to), which the run shows in ``self.request``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import signals
from celery.utils.saferepr import saferepr

from celery_workmanager.calls import stamps_of
from celery_workmanager.ids import new_id

__all__ = ("announce", "announced")


def announce(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
    """Send ``before_task_publish``, if anybody listens; headers that listeners add become options of the call."""
    if not signals.before_task_publish.receivers:
        return
    message = _message(task, args, kwargs, options)
    known = set(message["headers"])
    signals.before_task_publish.send(sender=task.name, declare=[], retry_policy=None, **message)
    added = {name: value for name, value in message["headers"].items() if name not in known}
    if added:
        options["headers"] = {**(options.get("headers") or {}), **added}


def announced(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
    """Send ``after_task_publish``, if anybody listens: the work is enqueued."""
    if signals.after_task_publish.receivers:
        message = _message(task, args, kwargs, dict(options))
        del message["properties"]
        signals.after_task_publish.send(sender=task.name, **message)
    if signals.task_sent.receivers:  # deprecated, and gone with Celery 6
        facts = {"eta": options.get("eta"), "taskset": options.get("group_id"), "task_id": options["task_id"]}
        signals.task_sent.send(sender=task.name, task=task.name, args=args or (), kwargs=kwargs or {}, **facts)


def _message(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What Celery's message (protocol 2) would have been."""
    options["task_id"] = options.get("task_id") or new_id()
    args, kwargs = args or (), kwargs or {}
    stamps = stamps_of(options)
    headers = {
        "lang": "py",
        "task": task.name,
        "id": options["task_id"],
        "shadow": options.get("shadow"),
        "eta": options.get("eta"),
        "expires": options.get("expires"),
        "group": options.get("group_id"),
        "group_index": options.get("group_index"),
        "retries": options.get("retries", 0),
        "timelimit": [
            options.get("time_limit") or task.time_limit,
            options.get("soft_time_limit") or task.soft_time_limit,
        ],
        "root_id": options.get("root_id") or options["task_id"],
        "parent_id": options.get("parent_id"),
        "argsrepr": options.get("argsrepr") or saferepr(args),
        "kwargsrepr": options.get("kwargsrepr") or saferepr(kwargs),
        "ignore_result": bool(options.get("ignore_result")),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": list(stamps),
        "stamps": stamps,
        **(options.get("headers") or {}),
    }
    queue = options.get("queue")
    return {
        "body": (args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
        "exchange": "",
        "routing_key": str(getattr(queue, "name", queue) or task.app.conf.task_default_queue),
        "headers": headers,
        "properties": {"correlation_id": options["task_id"], "reply_to": ""},
    }
