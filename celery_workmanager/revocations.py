"""What operators revoked, on its way into the store: kept while that is away, and waiting for nobody's rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.store.graph import HeldByOthers
from celery_workmanager.work import State, StopReason

#: How many works are revoked in one transaction.
CHUNK = 500
_UNFINISHED = (State.ENQUEUED, State.RUNNING, State.BLOCKED)


class Revocations:
    """Works to cancel, by their ids or tags. Any thread may add; one thread writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._todo: deque[tuple[Sequence[str], StopReason]] = deque()
        self._tags: deque[tuple[str, StopReason]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether everything has been written."""
        return not self._todo and not self._tags

    def add(self, ids: Sequence[str], reason: StopReason) -> None:
        """Cancel the unfinished works among `ids`; those that run are stopped because of `reason`."""
        for start in range(0, len(ids), CHUNK):
            self._todo.append((ids[start : start + CHUNK], reason))

    def add_tags(self, tags: Iterable[str], reason: StopReason) -> None:
        """Cancel the unfinished works that carry any of `tags` by the time of writing."""
        self._tags.extend((tag, reason) for tag in tags)

    def write(self) -> None:
        """Write what can be written now; the rest is tried at the next call. Raises while the store is away."""
        while self._tags:
            tag, reason = self._tags[0]
            self._find(tag, reason)
            self._tags.popleft()
        for _ in range(len(self._todo)):
            ids, reason = self._todo[0]
            held = self._revoke(ids, reason)
            self._todo.popleft()
            if held:
                self._todo.append((held, reason))

    def _find(self, tag: str, reason: StopReason) -> None:
        after = None
        while page := self._store.versions(WorkQuery(tags=[tag], states=_UNFINISHED, limit=CHUNK, after=after)):
            self.add(list(page), reason)
            after = max(page)

    def _revoke(self, ids: Sequence[str], reason: StopReason) -> list[str]:
        """Cancel these, and return those that others hold."""
        try:
            self._store.revoke(ids, reason, wait=False)
        except HeldByOthers:
            if len(ids) == 1:
                return list(ids)
            middle = len(ids) // 2
            return self._revoke(ids[:middle], reason) + self._revoke(ids[middle:], reason)
        return []
