"""PostgreSQL: how connections of ours are opened, what they ask of the planner, and how one is seen to be alive."""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError

#: How soon a server that doesn't answer is given up, and one that has vanished is noticed: the kernel asks it.
_REACH = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "tcp_user_timeout": 10_000}


def open_engine(url: URL, *, relaxed: bool, idle: int) -> Engine:
    """An engine for transactions; `idle`: seconds after which the server ends one in which nothing happens.

    `relaxed`: commits don't wait for the disk.
    """
    engine = create_engine(
        url,
        # Our statements lock and look again; a server whose default is stricter would only refuse them.
        isolation_level="READ COMMITTED",
        pool_size=5,
        max_overflow=10,
        hide_parameters=True,
        connect_args={key: value for key, value in _REACH.items() if key not in url.query},
    )
    event.listen(engine, "connect", lambda dbapi, _: _prepare(dbapi, relaxed=relaxed, idle=idle))
    event.listen(engine, "checkout", _look_after)
    return engine


def _prepare(dbapi: Any, *, relaxed: bool, idle: int) -> None:
    was = dbapi.autocommit
    dbapi.autocommit = True
    # Before a table has statistics (a minute in the life of a store, or after a bulk load) the planner would read all
    # of it to find a few rows by their keys, and sort all that is claimable to find the head of a lane.
    dbapi.execute("SET enable_seqscan TO off")
    # Our statements read few rows, but the planner fears many: beside a million works it compiled each look for lanes,
    # which took ten milliseconds.
    dbapi.execute("SET jit TO off")
    # A process that is frozen inside a transaction must not keep its rows from those who take over.
    dbapi.execute(f"SET idle_in_transaction_session_timeout TO '{idle}s'")
    if relaxed:
        dbapi.execute("SET enable_bitmapscan TO off")
        dbapi.execute("SET synchronous_commit TO off")
    dbapi.autocommit = was


def _look_after(dbapi: Any, _record: Any, _proxy: Any) -> None:
    """Have a connection replaced that the server has closed, before anything is said on it.

    A question to the server would cost as much as the statement that follows. Who closes a connection, or vanishes (the
    kernel asks, see `_REACH`), leaves something to be read; only then the server is asked.
    """
    if _is_quiet(dbapi):
        return
    with suppress(Exception):
        dbapi.execute("SELECT 1")
        dbapi.rollback()
        return
    raise InvalidatePoolError


def _is_quiet(dbapi: Any) -> bool:
    try:
        poll = select.poll()
        poll.register(dbapi.fileno(), select.POLLIN)
        return not poll.poll(0)
    except Exception:  # noqa: BLE001 - whatever the driver raises for a connection that is closed
        return False
