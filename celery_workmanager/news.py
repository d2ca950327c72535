"""News of a transaction: collected while it runs, told once it has committed, forgotten when it is rolled back.

Statements `note` what they changed. Of our own transactions `News` is told by `Database.run`; of a caller's, by its
connection's dialect: SQLAlchemy tells of a commit before it is made (``ConnectionEvents.commit``), never afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import groupby
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Dialect

from celery_workmanager.events import Change, Listener, WorkEvent

logger = logging.getLogger(__name__)

_KEY = "workmanager_news"


class News:
    """What one transaction has changed so far, in order."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._items: list[tuple[Change, WorkEvent]] = []
        #: How much there was when a savepoint was set.
        self._savepoints: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._items)

    def add(self, change: Change, works: Iterable[WorkEvent]) -> None:
        """Take works that were changed; not looked at when nobody wants to hear of it."""
        if self._listener.wants(change):
            self._items += [(change, each) for each in works]

    def mark(self, savepoint: str) -> None:
        """Remember where `savepoint` was set."""
        self._savepoints[savepoint] = len(self._items)

    def go_back(self, savepoint: str) -> None:
        """Forget what was changed since `savepoint`; one that isn't known is older than all of it."""
        del self._items[self._savepoints.get(savepoint, 0) :]

    def tell(self) -> None:
        """Tell all of it; never raises."""
        try:
            for change, some in groupby(self._items, key=lambda item: item[0]):
                self._listener.heard(change, [work for _, work in some])
        except Exception:  # the change is made: whoever made it must not fail because of a listener
            logger.exception("Error in telling of changed works")


def note(connection: Connection, change: Change, works: Iterable[WorkEvent]) -> None:
    """Tell of `works` when the transaction on `connection` has committed; give a generator: it may not be needed."""
    news: News | None = connection.info.get(_KEY)
    if news is not None:
        news.add(change, works)


@contextmanager
def collected(connection: Connection, listener: Listener) -> Iterator[News]:
    """The news of a transaction of our own, which are noted inside the block."""
    # Kept here: a connection that was lost meanwhile can't be asked for it any more.
    info = connection.info
    news = info[_KEY] = News(listener)
    try:
        yield news
    finally:
        info.pop(_KEY, None)


def join(connection: Connection, listener: Listener) -> None:
    """Collect news of a caller's transaction, until it commits or is rolled back."""
    if _KEY not in connection.info:
        _watch(connection.dialect)
        connection.info[_KEY] = News(listener)


# -- a caller's transaction -----------------------------------------------------------------------------------

_watched: WeakSet[Dialect] = WeakSet()


def _watch(dialect: Dialect) -> None:
    if dialect in _watched:
        return
    _watched.add(dialect)
    for name, watch in _MOMENTS.items():
        setattr(dialect, name, watch(getattr(dialect, name)))


def _commit(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def commit(connection: Any) -> None:
        # Taken first: a commit that fails is a rollback.
        news = _taken(connection)
        original(connection)
        if news is not None:
            news.tell()

    return commit


def _rollback(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def rollback(connection: Any) -> None:
        _taken(connection)
        original(connection)

    return rollback


def _savepoint(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def savepoint(connection: Connection, name: str) -> None:
        original(connection, name)
        if (news := connection.info.get(_KEY)) is not None:
            news.mark(name)

    return savepoint


def _rollback_to_savepoint(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def rollback_to_savepoint(connection: Connection, name: str) -> None:
        if (news := connection.info.get(_KEY)) is not None:
            news.go_back(name)
        original(connection, name)

    return rollback_to_savepoint


#: How SQLAlchemy asks a dialect to end a transaction, and a part of one.
_MOMENTS: dict[str, Callable[[Callable[..., None]], Callable[..., None]]] = {
    "do_commit": _commit,
    "do_rollback": _rollback,
    "do_savepoint": _savepoint,
    "do_rollback_to_savepoint": _rollback_to_savepoint,
}


def _taken(connection: Any) -> News | None:
    info = getattr(connection, "info", None)
    # A bare connection of a driver may have an `info` of its own.
    return info.pop(_KEY, None) if isinstance(info, dict) else None
