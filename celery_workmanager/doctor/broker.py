"""The broker: whether it answers, what it does to ordinary tasks, and which workers are heard over it.

Works don't travel through it, so most of this is about the tasks beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_workmanager.doctor.finding import Finding, note, several, warning
from celery_workmanager.worker import Worker

#: Seconds after which these transports deliver again what nobody acknowledged, unless they are told otherwise.
_VISIBILITY = {"redis": 3600, "sqs": 1800}
#: RabbitMQ's default ``consumer_timeout``, in seconds.
_RABBITMQ_PATIENCE = 1800
#: Transports that no other process hears.
_PRIVATE = {"memory"}
_CONNECT_WITHIN = 3.0


def examine(app: Any, patience: float) -> tuple[dict[str, Any], Iterator[Finding]]:
    """What the workers answered (by name: registered tasks and pool), and the findings."""
    with app.connection_for_write() as connection:
        kind = str(connection.transport.driver_type)
        trouble = "" if kind in _PRIVATE else _reach(connection)
        address = str(connection.as_uri())
    heard = {} if trouble or kind in _PRIVATE else _ask(app, patience)
    return heard, _findings(app, kind, address, trouble)


def _reach(connection: Any) -> str:
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_WITHIN)
    except Exception as problem:  # noqa: BLE001 - each transport has errors of its own
        return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return ""


def _ask(app: Any, patience: float) -> dict[str, Any]:
    inspect = app.control.inspect(timeout=patience)
    stats = inspect.stats() or {}
    registered = inspect.registered() or {} if stats else {}
    return {
        name: {"tasks": [each.split(" ")[0] for each in registered.get(name) or ()], "pool": _pool_of(told)}
        for name, told in stats.items()
    }


def _pool_of(stats: Any) -> str:
    return str((stats.get("pool") or {}).get("implementation", "unknown"))


def _findings(app: Any, kind: str, address: str, trouble: str) -> Iterator[Finding]:
    ordinary = [
        task for name, task in app.tasks.items() if not isinstance(task, Worker) and not name.startswith("celery.")
    ]
    if trouble:
        default = "" if app.conf.broker_url else " (no broker_url is set: this is Celery's default)"
        yield warning(
            "broker-away",
            f"The broker {address} doesn't answer{default}: {trouble}",
            "Works go on without it. Ordinary tasks, remote control, events and Flower need it.",
            "Start it, or set broker_url right.",
        )
    if kind in _PRIVATE and ordinary:
        yield warning(
            "broker-private",
            f"The broker is {address}: a queue in the memory of each process.",
            f"An ordinary task that another process sends never arrives ({several([task.name for task in ordinary])}).",
            "Use a broker that all processes reach, or make these tasks workers (base=Worker).",
        )
    yield from _retries(app.conf)
    yield from _redelivery(app, kind, ordinary)


def _retries(conf: Any) -> Iterator[Finding]:
    if not conf.broker_connection_retry or conf.broker_connection_retry_on_startup is False:
        yield warning(
            "broker-retry",
            "broker_connection_retry or broker_connection_retry_on_startup is off.",
            "A worker ends when the broker is away, and with it the node that runs works.",
            "Set both to True.",
        )
    elif conf.broker_connection_max_retries:
        yield note(
            "broker-max-retries",
            f"broker_connection_max_retries is {conf.broker_connection_max_retries}.",
            "Works need no broker, but a worker that has failed to reach it so often ends, and its node with it.",
            "Set it to None to have workers go on for as long as the broker is away.",
        )


def _redelivery(app: Any, kind: str, ordinary: list[Any]) -> Iterator[Finding]:
    """An unacknowledged message comes again while the first delivery still runs, or still waits for its eta."""
    if kind in _VISIBILITY and ordinary:
        yield from _visibility(app, kind, ordinary)
    if kind == "amqp":
        late = [task.name for task in ordinary if task.acks_late and _longest(app, task) > _RABBITMQ_PATIENCE]
        if late:
            yield note(
                "consumer-timeout",
                f"Ordinary tasks with acks_late and no time limit below 30 minutes: {several(late)}.",
                "RabbitMQ gives up a consumer that is silent for 30 minutes (consumer_timeout), and delivers "
                "its tasks again.",
                "Give them a time limit, raise consumer_timeout, or make them workers (base=Worker).",
            )


def _visibility(app: Any, kind: str, ordinary: list[Any]) -> Iterator[Finding]:
    timeout = (app.conf.broker_transport_options or {}).get("visibility_timeout", _VISIBILITY[kind])
    late = [task for task in ordinary if task.acks_late]
    certain = [task.name for task in late if timeout < _longest(app, task) < float("inf")]
    if certain:
        yield warning(
            "visibility-timeout",
            f"Ordinary tasks with acks_late may outlast the visibility timeout of {timeout} s: {several(certain)}.",
            "They are delivered again, and run twice at once, before the first run has ended.",
            "Raise broker_transport_options['visibility_timeout'] above their time limit, or make them workers "
            "(base=Worker).",
        )
        return
    endless = [task.name for task in late if _longest(app, task) == float("inf")]
    runs = f" Such without a time limit that run longer: {several(endless)}." if endless else ""
    yield note(
        "visibility-timeout",
        f"Ordinary tasks are delivered again after {timeout} s without an acknowledgement (visibility timeout).{runs}",
        "A countdown or eta beyond that, and a run with acks_late beyond that, happen twice. Works are not concerned.",
        "Delay and run long what matters as a worker (base=Worker).",
    )


def _longest(app: Any, task: Any) -> float:
    """Seconds that a run of the task may last."""
    limit = task.time_limit or app.conf.task_time_limit
    return float(limit) if limit else float("inf")
