"""The answer of an enqueue."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """What an enqueue did (WorkManager semantics: Operation); ``await operation`` gives it too."""

    #: Whether anything was stored or changed (KEEP may leave all as it was).
    applied: bool
    #: The works stored now, in order.
    ids: tuple[str, ...] = ()
    #: The works that were asked for and not stored.
    skipped_ids: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The first work that was asked for; raises LookupError when there was none."""
        if self.ids or self.skipped_ids:
            return self.ids[0] if self.ids else self.skipped_ids[0]
        raise LookupError("expected an operation on at least one work, got: none")

    def __await__(self) -> Generator[Any, None, Operation]:
        yield from ()
        return self
