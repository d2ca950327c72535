"""``celery -A proj work …``: the command line.

Every `celery` command imports this module, so it knows its own commands by name only.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
from celery.bin.base import handle_preload_options
from click_didyoumean import DYMGroup

#: Each command with the room it lives in, in the order of the help.
_COMMANDS = {
    "status": "status",
    "list": "works",
    "show": "works",
    "why": "why",
    "tree": "tree",
    "watch": "watch",
    "nodes": "status",
    "periodic": "periodic",
    "cancel": "changes",
    "retry": "changes",
    "run-now": "changes",
    "pause": "pauses",
    "resume": "pauses",
    "prune": "changes",
    "import-schedules": "schedules",
    "migrate": "migrate",
    "grants": "grants",
    "doctor": "doctor",
}


class _Commands(DYMGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        room = import_module(f"{__name__}.{_COMMANDS[cmd_name]}")
        found: click.Command = getattr(room, cmd_name.replace("-", "_") + "_command")
        return found


@click.group(name="work", cls=_Commands)
@click.pass_context
@handle_preload_options
def work(ctx: click.Context, **_: Any) -> None:
    """Durable works (celery-workmanager)."""
    del ctx
