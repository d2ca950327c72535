"""Watching works: the present value first, then each change, no equal repeats.

There is no global sequence to follow (a transaction that commits late would leave a gap), so the versions of the
watched works are compared, each with itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from celery_workmanager.bell import listen
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.work import WorkInfo

T = TypeVar("T")
_NOTHING = object()

#: Seconds between two looks when nothing rings.
INTERVAL = 0.2

Watch = Callable[["dict[str, int] | None"], "tuple[dict[str, int], Any] | None"]


def watch_list(store: Store, query: WorkQuery) -> Watch:
    """A look at all works of `query`: their versions, and their infos if any of these differ from the ones before."""

    def look(seen: dict[str, int] | None) -> tuple[dict[str, int], list[WorkInfo]] | None:
        if seen is not None and store.versions(query) == seen:
            return None
        infos = store.work_infos(query)
        versions = {info.id: info.version for info in infos}
        return None if versions == seen else (versions, infos)

    return look


def watch_one(store: Store, work_id: str) -> Watch:
    """A look at one work: its info, or ``None`` while there is no such work."""
    several = watch_list(store, WorkQuery(ids=(work_id,)))

    def look(seen: dict[str, int] | None) -> tuple[dict[str, int], WorkInfo | None] | None:
        found = several(seen)
        return None if found is None else (found[0], found[1][0] if found[1] else None)

    return look


def changes(store: Store, look: Watch, after: Mapping[str, int] | None, interval: float = INTERVAL) -> Iterator[Any]:
    """What `look` sees, and again after each change; `after` are versions that have been seen before."""
    changed = threading.Event()
    ear = listen(store.database, changed.set)
    ear.start()
    seen = None if after is None else dict(after)
    shown: Any = _NOTHING
    try:
        while True:
            changed.clear()
            found = look(seen)
            if found is None:
                changed.wait(interval)
                continue
            seen, value = found
            if (plain := _without_versions(value)) != shown:
                shown = plain
                yield value
    finally:
        ear.stop()


async def async_changes(
    store: Store, look: Watch, after: Mapping[str, int] | None, interval: float = INTERVAL
) -> AsyncIterator[Any]:
    """`changes` for asyncio: each look runs in a thread, so the event loop never waits for the database."""
    seen = None if after is None else dict(after)
    shown: Any = _NOTHING
    while True:
        found = await store.database.in_thread(look, seen)
        if found is None:
            await asyncio.sleep(interval)
            continue
        seen, value = found
        if (plain := _without_versions(value)) != shown:
            shown = plain
            yield value


def _without_versions(value: Any) -> Any:
    """What makes a value an equal repeat of another: a claim that was given back is told by its version only."""
    if isinstance(value, list):
        return [_without_versions(each) for each in value]
    return None if value is None else replace(value, version=0, node=None)
