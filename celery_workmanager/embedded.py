"""The broker that needs no server: Kombu's filesystem transport, whose reader may meet a message before it is written.

Kombu makes a message's file and writes into it afterwards. A reader that comes in between takes an empty file away,
fails on it, and that ends a worker (kombu 5.5 to 5.7). Works don't travel this way, but remote control does.
"""

from __future__ import annotations

from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem

__all__ = ("Channel", "Transport", "install")

_SCHEME = "filesystem"


class Channel(filesystem.Channel):
    """Leaves a message alone until something stands in it."""

    def _get(self, queue: str, *args: Any, **options: Any) -> Any:
        waiting = (
            each for each in Path(self.data_folder_in).iterdir() if each.name.partition(".")[2] == f"{queue}.msg"
        )
        first = min(waiting, default=None)
        if first is None or not _is_written(first):
            raise Empty
        take: Any = super()._get
        return take(queue, *args, **options)


def _is_written(message: Path) -> bool:
    try:
        return message.stat().st_size > 0
    except OSError:  # another reader was quicker
        return False


class Transport(filesystem.Transport):
    """``filesystem://`` with that channel."""

    Channel = Channel


def install() -> None:
    """Let ``filesystem://`` mean this transport in this process, unless somebody gave it a meaning of their own."""
    if TRANSPORT_ALIASES[_SCHEME] == f"{filesystem.__name__}:Transport":
        TRANSPORT_ALIASES[_SCHEME] = f"{__name__}:Transport"
