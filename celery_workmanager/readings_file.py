"""The file in which readings are declared: for trying by hand what a node does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from celery_workmanager.declared import declared_facts
from celery_workmanager.errors import InvalidRequest

__all__ = ("ReadingsFile",)

_LARGEST = 1024 * 1024


class ReadingsFile:
    """Reads the words of a JSON file again when it has changed; without a file there are none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, ...] | None = None
        self._words: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """The ``words``. Raises InvalidRequest for others than there are, and for what isn't JSON."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return {"words": {}}
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen != self._seen:
            self._words = self._read(state.st_size)
            self._seen = seen
        return {"words": self._words}

    def _read(self, size: int) -> dict[str, Any]:
        if size > _LARGEST:
            raise InvalidRequest(str(self._path), f"at most {_LARGEST} bytes", size)
        try:
            words = json.loads(self._path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(str(self._path), 'JSON such as {"charging": false}', str(error)) from None
        declared_facts(str(self._path), words)
        return dict(words)
