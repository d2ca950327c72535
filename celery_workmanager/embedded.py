"""The broker that needs no server: Kombu's filesystem transport, whose reader may meet a message before it is written.

Kombu makes a message's file, locks it, and writes into it. A reader that comes in between takes an empty file away,
fails on it, and that ends a worker (kombu 5.5 to 5.7). Works don't travel this way, but remote control does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from queue import Empty
from typing import Any

from kombu import transport as kombu_transports
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import loads

__all__ = ("Channel", "Transport", "install")

_SCHEME = "filesystem"


class Channel(filesystem.Channel):
    """Leaves each message alone until it is written, and takes those that are."""

    def _get(self, queue: str, *_: Any, **__: Any) -> Any:
        folder = self.processed_folder if self.store_processed else tempfile.gettempdir()
        for message in sorted(Path(self.data_folder_in).iterdir()):
            if message.name.partition(".")[2] != f"{queue}.msg" or not _is_written(message):
                continue
            try:
                taken = Path(shutil.move(message, folder))
            except OSError:  # another reader was quicker
                continue
            return loads(self._read(taken))
        raise Empty

    def _read(self, taken: Path) -> str:
        try:
            text = taken.read_text(encoding="utf-8")
            if not self.store_processed:
                taken.unlink()
        except OSError as error:
            raise ChannelError(f"expected a message that can be read, got: {error}") from error
        return text


def _is_written(message: Path) -> bool:
    try:
        with message.open("rb") as file:
            # Whoever writes holds the lock until all of it stands there; before that, nothing does.
            filesystem.lock(file, filesystem.LOCK_SH)
            try:
                return os.fstat(file.fileno()).st_size > 0
            finally:
                filesystem.unlock(file)
    except OSError:
        return False


class Transport(filesystem.Transport):
    """``filesystem://`` with that channel."""

    Channel = Channel


def install() -> None:
    """Let ``filesystem://`` mean this transport in this process, unless somebody gave it a meaning of their own."""
    if TRANSPORT_ALIASES[_SCHEME] == f"{filesystem.__name__}:Transport":
        TRANSPORT_ALIASES[_SCHEME] = f"{__name__}:Transport"
        # What it meant is remembered from the first connection on, which another app may have made before.
        kombu_transports._transport_cache.pop(_SCHEME, None)  # noqa: SLF001 - Kombu has no public word for it
