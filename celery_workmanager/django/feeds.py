"""What a page that watches works is sent: server-sent events (HTML Living Standard, section 9.2).

``work``: a work as `document_of` tells it, at first and after each change; ``gone``: one that was deleted; ``end``: all
that was asked for is finished. Each event's id holds the versions that the client has by then, so that one that comes
back is told only what it missed. A connection lives for `LIFETIME`, then the client comes back, and is asked for
its rights again.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from urllib.parse import parse_qsl, urlencode

from asgiref.sync import sync_to_async
from django.db import connections

from celery_workmanager.django.documents import document_of
from celery_workmanager.errors import StoreError
from celery_workmanager.jsontypes import JSON
from celery_workmanager.observe import INTERVAL, watch_list
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.work import WorkInfo

#: Seconds of a connection: fewer than a usual worker of a WSGI server may take for a request (30).
LIFETIME = 25.0
#: Seconds of silence after which a comment is sent, by which proxies and servers see whether the other end is there.
HEARTBEAT = 10.0
#: Milliseconds after which a browser comes back by itself.
RETRY = 1000

_VERSION = re.compile("[0-9]{1,18}")


class Feed:
    """One connection's view of the works that `query` matches and `may_see` lets through.

    `seen`: the versions that the client has. Each work is judged once in a connection.
    """

    def __init__(
        self, store: Store, query: WorkQuery, may_see: Callable[[WorkInfo], bool], seen: Mapping[str, int]
    ) -> None:
        self._look = watch_list(store, query)
        self._query = query
        self._may_see = may_see
        self._judged: dict[str, bool] = {}
        self._versions: dict[str, int] | None = None
        self._told = dict(seen)
        self._documents: dict[str, dict[str, JSON]] = {}
        self._pending: list[WorkInfo] | None = None
        self._ends_at = time.monotonic() + LIFETIME
        self._spoke_at = time.monotonic()
        self.is_over = False

    def open(self) -> list[WorkInfo]:
        """The works that the visitor sees now; the first `chunk` tells of them."""
        self._pending = self._visible()
        return self._pending or []

    def chunk(self) -> str:
        """What is to be sent now: events, a sign of life, or nothing."""
        now = time.monotonic()
        try:
            visible, self._pending = self._pending or self._visible(), None
        except StoreError:
            self.is_over = True  # the client comes back, and is told then
            return ""
        text = "" if visible is None else self._events(visible)
        self.is_over = self.is_over or now >= self._ends_at
        if not text and now - self._spoke_at >= HEARTBEAT:
            text = ":\n\n"
        if text:
            self._spoke_at = now
        return text

    def _visible(self) -> list[WorkInfo] | None:
        """The visitor's works, or ``None`` when nothing has changed."""
        if (found := self._look(self._versions)) is None:
            return None
        self._versions, infos = found
        return [info for info in infos if self._sees(info)]

    def _sees(self, info: WorkInfo) -> bool:
        if info.id not in self._judged:
            self._judged[info.id] = self._may_see(info)
        return self._judged[info.id]

    def _events(self, visible: list[WorkInfo]) -> str:
        events = [self._change_of(info) for info in visible if self._told.get(info.id) != info.version]
        for each in self._told.keys() - {info.id for info in visible}:
            del self._told[each]
            self._documents.pop(each, None)
            events.append(self._event("gone", {"id": each}))
        if self._query.ids and all(info.state.is_finished for info in visible):
            self.is_over = True
            events.append(self._event("end", {}))
        return "".join(events)

    def _change_of(self, info: WorkInfo) -> str:
        """The event of a new version; none if it looks like the one before."""
        document = document_of(info)
        self._told[info.id] = info.version
        before = self._documents.get(info.id, {})
        self._documents[info.id] = document
        return "" if {**before, "version": info.version} == document else self._event("work", document)

    def _event(self, kind: str, document: dict[str, JSON]) -> str:
        return f"id: {self._event_id()}\nevent: {kind}\ndata: {json.dumps(document)}\n\n"

    def _event_id(self) -> str:
        """The versions that the client has: that of the one work, or those of several under their ids."""
        if len(self._query.ids) == 1:
            return str(self._told.get(self._query.ids[0], ""))
        return urlencode(self._told)


def stream(feed: Feed) -> Iterator[str]:
    """A feed under WSGI: a thread of the server's for each connection."""
    yield f"retry: {RETRY}\n\n"
    while not feed.is_over:
        if text := _chunk(feed):
            yield text
        if not feed.is_over:
            time.sleep(INTERVAL)


async def astream(feed: Feed) -> AsyncIterator[str]:
    """A feed under ASGI: the event loop waits, the looks run where Django runs synchronous code of this request."""
    yield f"retry: {RETRY}\n\n"
    look = sync_to_async(_chunk)
    while not feed.is_over:
        if text := await look(feed):
            yield text
        if not feed.is_over:
            await asyncio.sleep(INTERVAL)


def _chunk(feed: Feed) -> str:
    """The feed's next chunk; a page may watch for long, so Django's connections of this thread are given back."""
    text = feed.chunk()
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
    return text


def versions_in(event_id: str, query: WorkQuery) -> dict[str, int]:
    """The versions that the id of an event holds, as far as it makes sense."""
    pairs = [(query.ids[0], event_id)] if len(query.ids) == 1 else parse_qsl(event_id)
    # No more than a client can have seen of this query: each that is unknown costs an event with the ids of all.
    return {each: int(version) for each, version in pairs[: query.limit] if _VERSION.fullmatch(version)}
