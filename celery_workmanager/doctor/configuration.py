"""The app's configuration: our settings, and those of Celery that decide what works can rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_workmanager import pools
from celery_workmanager.app import WorkManager
from celery_workmanager.doctor.finding import Finding, error, warning
from celery_workmanager.errors import ConfigurationError
from celery_workmanager.settings import Settings

_PICKLE = {"pickle", "application/x-python-serialize"}


def examine(manager: WorkManager) -> Iterator[Finding]:
    """Everything that can be told without asking anybody."""
    for mistake in mistakes(manager):
        yield error(
            "setting",
            mistake,
            "Nothing works before this is right: a worker with such a setting doesn't start.",
            "docs/settings.md lists all settings with their defaults.",
        )
    yield from _content(manager.app.conf)
    if manager.app.conf.task_always_eager:
        yield warning(
            "eager",
            "task_always_eager is on.",
            "`delay` and `apply_async` run the worker at once in the calling process: nothing is stored.",
            "Leave it to tests; the testing kit (celery_workmanager.testing) runs works as a worker does.",
        )
    yield from _pool(manager.app.conf)


def mistakes(manager: WorkManager) -> list[str]:
    """What is wrong with our settings, each by itself."""
    found = []
    for name, value in manager.given_settings.items():
        try:
            Settings.from_mapping({name: value})
        except ConfigurationError as mistake:
            found.append(str(mistake))
    return found


def _content(conf: Any) -> Iterator[Finding]:
    for name in ("accept_content", "result_accept_content", "event_serializer"):
        value = conf.get(name) or ()
        if _PICKLE & set([value] if isinstance(value, str) else value):
            yield warning(
                "pickle",
                f"{name} accepts pickled content.",
                "Whoever can write to the broker (or the result backend) can run any code in your processes. "
                "Works are never pickled.",
                f"Take pickle out of {name}, once no task sends it any more.",
            )


def _pool(conf: Any) -> Iterator[Finding]:
    try:
        reason = pools.refusal(conf.worker_pool, conf.get("worker_pool_start_method"))
    except ImportError as missing:
        reason = str(missing)
    if reason is not None:
        yield warning(
            "pool-setting",
            f"worker_pool: {reason}.",
            "Workers that are started without --pool run ordinary tasks and no works.",
            "Set worker_pool to one that runs works, or start workers for works with --pool.",
        )
