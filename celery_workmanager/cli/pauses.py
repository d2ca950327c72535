"""``work pause`` and ``work resume``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option
from celery_workmanager.cli.screen import Screen, clean
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.operation import Operation
from celery_workmanager.pauses import PauseTarget


def _which(function: Callable[..., Any]) -> Callable[..., Any]:
    """The four options of which exactly one is given."""
    for name, help_ in (
        ("node", "This node: it takes no further work."),
        ("name", "Works of this unique name."),
        ("tag", "Works with this tag (a worker's name is one)."),
        ("queue", "Works of this queue."),
    ):
        function = option(f"--{name}", group="Which", metavar=name.upper(), help=help_)(function)
    return function


@command("pause")
@_which
def pause_command(screen: Screen, manager: WorkManager, **which: str | None) -> int:
    """Let works of a queue, with a tag or of a unique name not be started until they are resumed.

    Also those that are enqueued later. --node drains a node: it takes no further work, also when it is started anew,
    and others go on. What a node has taken already goes on. `work status` lists what is paused.
    """
    code = _change(screen, manager.pause, which, "is paused", "was paused already")
    node = which["node"]
    if node is not None and node not in (each.name for each in manager.store.nodes()):
        screen.warn(f"No node is called {clean(node)!r} now: see `work nodes`. It holds for one that will be.")
    return code


@command("resume")
@_which
def resume_command(screen: Screen, manager: WorkManager, **which: str | None) -> int:
    """Take back a pause of a queue, a tag, a unique name or a node.

    Works that another pause holds stay held.
    """
    return _change(screen, manager.resume, which, "is resumed", "was not paused")


def _change(
    screen: Screen, change: Callable[..., Operation], which: dict[str, str | None], done: str, not_done: str
) -> int:
    try:
        target = PauseTarget.of(**which)
    except InvalidRequest as error:
        if sum(value is not None for value in which.values()) != 1:
            raise click.UsageError("expected one of --queue, --tag, --name and --node") from error
        raise click.UsageError(str(error)) from error
    applied = change(**which).applied
    if screen.as_json:
        screen.json({"kind": target.kind.value, "label": target.label, "applied": applied})
    else:
        told = clean(str(target))
        screen.say(f"{told[0].upper()}{told[1:]} {done if applied else not_done}.")
    return FINE if applied else TROUBLE
