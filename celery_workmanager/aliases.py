"""Workers that were renamed: their old names stay in Celery's registry, so that both are claimed and consumed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery_workmanager.checks import check_text
from celery_workmanager.errors import ConfigurationError

__all__ = ("install", "register")

_INSTALLED = "_workmanager_aliases"


def install(app: Any) -> None:
    """Enter the aliases of an app's workers as soon as all its tasks are known."""
    if app.finalized:
        _enter_all(sender=app)
    else:
        app.on_after_finalize.connect(_enter_all, weak=False)


def register(app: Any, worker: Any) -> None:
    """Check the aliases of a worker class that is being registered, and enter them when the app's others are there.

    Raises ConfigurationError for one that another task goes by.
    """
    if not worker.aliases:
        return
    task = next((task for task in app._tasks.values() if type(task) is worker), None)  # noqa: SLF001
    if task is None:
        return  # not registered under its name yet
    for alias in _checked(task.name, worker.aliases):
        owner = _owner(app, alias, task)
        if owner is not None:
            raise ConfigurationError(
                f"expected alias {alias!r} of worker {task.name!r} to be free, got: task {owner!r} has it"
            )
    if getattr(app, _INSTALLED, False):
        _enter(app, task)


def _checked(name: str, aliases: Any) -> tuple[str, ...]:
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        raise ConfigurationError(f"expected aliases of worker {name!r} to be names in a tuple, got: {aliases!r}")
    return tuple(check_text("alias", alias) for alias in aliases)


def _owner(app: Any, alias: str, task: Any) -> str | None:
    for name, other in app._tasks.items():  # noqa: SLF001  # `tasks` would finalize the app
        if other is not task and (name == alias or alias in getattr(other, "aliases", ())):
            return str(other.name)
    return None


def _enter_all(sender: Any = None, **_: Any) -> None:
    setattr(sender, _INSTALLED, True)
    for task in list(sender._tasks.values()):  # noqa: SLF001
        _enter(sender, task)


def _enter(app: Any, task: Any) -> None:
    tasks = app._tasks  # noqa: SLF001
    fresh = [alias for alias in getattr(task, "aliases", ()) if alias not in tasks]
    for alias in fresh:
        tasks[alias] = task
    if fresh:
        # Celery walks through its registry and gives each task the name it found it under last.
        tasks[task.name] = tasks.pop(task.name)
