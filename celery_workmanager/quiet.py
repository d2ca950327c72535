"""Pooled connections are looked at before they are used, not asked: a question costs as much as what follows."""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError


def look_after(engine: Engine, socket: Callable[[Any], Any], ask: Callable[[Any], bool]) -> None:
    """Have connections replaced that the server has closed, before anything is said on them.

    Who closes a connection, or vanishes (the kernel asks), leaves something to be read on its `socket`; only then the
    server is asked: a connection that can't `ask`, or gets no answer, is lost.
    """

    def look(dbapi: Any, _record: Any, _proxy: Any) -> None:
        if is_quiet(dbapi, socket):
            return
        with suppress(Exception):
            if ask(dbapi):
                return
        raise DisconnectionError

    event.listen(engine, "checkout", look)
    event.listen(engine, "handle_error", _keep_others)


def _keep_others(context: ExceptionContext) -> None:
    # Each is looked at before it is used. The pool would tell them by this machine's clock from those that were opened
    # later; where that was set back meanwhile, each use would need a new connection until the clock has caught up.
    context.invalidate_pool_on_disconnect = False


def is_quiet(dbapi: Any, socket: Callable[[Any], Any]) -> bool:
    """Whether there is nothing to be read."""
    try:
        poll = select.poll()
        poll.register(socket(dbapi), select.POLLIN)
        return not poll.poll(0)
    except Exception:  # noqa: BLE001 - whatever the driver raises for a connection that is closed
        return False
