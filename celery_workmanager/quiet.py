"""Pooled connections are looked at before they are used, not asked: a question costs as much as what follows."""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import InvalidatePoolError


def look_after(dbapi: Any, socket: Callable[[Any], Any], ask: Callable[[Any], object]) -> None:
    """Have a connection replaced that the server has closed, before anything is said on it.

    Who closes a connection, or vanishes (the kernel asks), leaves something to be read on its `socket`; only then the
    server is asked: what fails to `ask` it has lost it.
    """
    if is_quiet(dbapi, socket):
        return
    with suppress(Exception):
        ask(dbapi)
        return
    raise InvalidatePoolError


def is_quiet(dbapi: Any, socket: Callable[[Any], Any]) -> bool:
    """Whether there is nothing to be read."""
    try:
        poll = select.poll()
        poll.register(socket(dbapi), select.POLLIN)
        return not poll.poll(0)
    except Exception:  # noqa: BLE001 - whatever the driver raises for a connection that is closed
        return False
