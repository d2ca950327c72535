"""Works whose worker has become an ordinary task: they are announced, and can be brought over to the broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import signals
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.call import facts_of
from celery_workmanager.canvas_graph import REPORT_WORKER
from celery_workmanager.checks import check_text
from celery_workmanager.errors import InvalidRequest, StoreError
from celery_workmanager.messages import RELEASED
from celery_workmanager.operation import Operation
from celery_workmanager.outage import brief
from celery_workmanager.store import passage
from celery_workmanager.timing import as_datetime
from celery_workmanager.worker import Worker

__all__ = ("install", "leftovers", "release")

logger = logging.getLogger(__name__)

#: Messages sent between two commits.
CHUNK = 100
#: More leftovers than this aren't counted.
MOST = 10_000


def install() -> None:
    """Let workers that start say which works they leave behind."""
    signals.worker_ready.connect(_look, weak=False, dispatch_uid="celery_workmanager.leftovers")


def _look(sender: Any, **_: Any) -> None:
    manager = getattr(sender.app, "workmanager", None)
    if manager is not None:
        # The consumer must not wait for a database.
        threading.Thread(target=_warn, args=(manager,), name="workmanager-leftovers", daemon=True).start()


def _warn(manager: Any) -> None:
    try:
        found = leftovers(manager)
    except StoreError as error:
        logger.debug("Leftovers not looked for: %s", brief(error))
        return
    if found:
        counted = ", ".join(f"{name} ({'over ' * (many > MOST)}{min(many, MOST)})" for name, many in found.items())
        logger.warning(
            "Works wait for names that are ordinary tasks here, so no worker like this one will run them: %s."
            " Make them Workers again, or send the works to the broker with WorkManager.release(name).",
            counted,
        )


def leftovers(manager: Any) -> dict[str, int]:
    """How many unfinished works there are for each name that is an ordinary task of the manager's app.

    At most one more than `MOST` is counted for each. Raises StoreError.
    """
    tasks, store = manager.app.tasks, manager.engine_store
    plain = [name for name in passage.worker_names(store) if name in tasks and not _is_worker(tasks[name])]
    counts = {name: len(passage.unfinished(store, name, MOST + 1)) for name in plain}
    return {name: many for name, many in counts.items() if many}


def _is_worker(task: Any) -> bool:
    return isinstance(task, Worker)


def release(manager: Any, worker: str) -> Operation:
    """Send the works of a former worker that wait to the broker, as messages with their ids, and delete them.

    Each message is sent before its work is deleted: if this process dies in between, the work is sent again by the next
    call, and runs at least once. Works that run now and members of chains stay, as ``skipped_ids``.
    Raises InvalidRequest when the app still has a Worker of that name; StoreError; what the broker's client raises.
    """
    name, app = check_text("worker name", worker), manager.app
    if _is_worker(app.tasks.get(name)):
        raise InvalidRequest(f"worker {name!r}", "an ordinary task, or unknown, in this app", "a Worker")
    gone: list[str] = []
    after = ""
    with _producer(app) as producer:
        while some := passage.leavers(manager.store, name, after, CHUNK):
            after = some[-1].id
            waiting = passage.followers(manager.store, [leaver.id for leaver in some])
            # A message can't be waited for. But what tells the app's result backend is Celery's own affair now.
            some = [leaver for leaver in some if set(waiting[leaver.id].values()) <= {REPORT_WORKER}]
            for leaver in some:
                _send(app, name, leaver, producer)
            gone += passage.depart(manager.store, name, some, REPORT_WORKER)
    left = passage.unfinished(manager.store, name, MOST)
    return Operation(applied=bool(gone), ids=tuple(gone), skipped_ids=tuple(left))


@contextmanager
def _producer(app: Any) -> Iterator[Any]:
    with app.connection_for_write() as connection:
        if connection.transport.driver_type == "amqp":
            # The work may only go once the broker says that it has the message.
            connection.transport_options = {**connection.transport_options, "confirm_publish": True}
        with app.amqp.Producer(connection, auto_declare=False) as producer:
            yield producer


def _send(app: Any, name: str, leaver: passage.Leaver, producer: Any) -> None:
    call = kombu_loads(leaver.input)
    if "call" not in leaver.options:
        call = {"args": (), "kwargs": call}
    options = _options(leaver, has_priorities=producer.connection.transport.driver_type == "amqp")
    app.send_task(name, call["args"], call["kwargs"], producer=producer, **options)


def _options(leaver: passage.Leaver, *, has_priorities: bool) -> dict[str, Any]:
    """What the message of a work says beside its arguments, as ``send_task`` takes it."""
    stored, facts = leaver.options, facts_of(leaver.options)
    stamps = facts.get("stamps", {})
    told: list[dict[str, Any]] = facts.get("errbacks", [])
    report: dict[str, Any] = next((each["always"]["report"] for each in told if "report" in each.get("always", {})), {})
    options = {
        "task_id": leaver.id,
        "queue": leaver.queue,
        "eta": as_datetime(leaver.due_at),
        "expires": as_datetime(leaver.expires_at),
        "retries": leaver.run_attempt_count,
        "time_limit": stored.get("time_limit"),
        "soft_time_limit": stored.get("soft_time_limit"),
        # Elsewhere (Redis) the numbers of priorities mean the opposite.
        "priority": stored.get("priority") if has_priorities else None,
        "link_error": [each["errback"] for each in told if "errback" in each],
        "chord": report.get("chord"),
        "root_id": facts.get("root"),
        "parent_id": facts.get("parent"),
        "group_id": facts.get("group"),
        "group_index": facts.get("group_index"),
        "shadow": facts.get("shadow"),
        "stamped_headers": list(stamps) or None,
    }
    options = {option: value for option, value in options.items() if value is not None}
    headers = {**facts.get("headers", {}), RELEASED: True}
    return {**options, **stamps, "headers": headers, "serializer": "json", "add_to_parent": False}
