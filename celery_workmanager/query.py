"""Which works to look at."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from celery_workmanager.checks import check_text, check_whole
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.ids import check_id
from celery_workmanager.work import State

#: The largest limit that every database takes.
MOST = 2**63 - 1


@dataclass(frozen=True, slots=True, init=False)
class WorkQuery:
    """Works that match every field given, each by any of its values (WorkManager semantics: WorkQuery).

    Without any field it matches all. ``nodes`` are names of nodes (of workers) or ids of their incarnations. Rows come
    in the order of their ids, which is that of their making, or with ``newest_first`` the other way round; ``after`` is
    the last id of the page before. ``periodic``: only periodic works, or (``False``) only one-time works.
    """

    ids: tuple[str, ...]
    unique_names: tuple[str, ...]
    tags: tuple[str, ...]
    states: tuple[State, ...]
    queues: tuple[str, ...]
    workers: tuple[str, ...]
    nodes: tuple[str, ...]
    limit: int | None
    after: str | None
    newest_first: bool
    periodic: bool | None

    def __init__(
        self,
        ids: Iterable[str | uuid.UUID] = (),
        unique_names: Iterable[str] = (),
        tags: Iterable[str] = (),
        states: Iterable[State] = (),
        limit: int | None = None,
        after: str | uuid.UUID | None = None,
        *,
        queues: Iterable[str] = (),
        workers: Iterable[str] = (),
        nodes: Iterable[str] = (),
        newest_first: bool = False,
        periodic: bool | None = None,
    ) -> None:
        write = object.__setattr__
        write(self, "ids", _several("ids", ids, check_id))
        write(self, "unique_names", _several("unique_names", unique_names, _unique_name))
        write(self, "tags", _several("tags", tags, _tag))
        write(self, "states", _several("states", states, _state))
        write(self, "queues", _several("queues", queues, _queue))
        write(self, "workers", _several("workers", workers, _worker))
        write(self, "nodes", _several("nodes", nodes, _node))
        write(self, "limit", None if limit is None else check_whole("limit", limit, 1, MOST))
        write(self, "after", None if after is None else check_id(after))
        write(self, "newest_first", bool(newest_first))
        write(self, "periodic", None if periodic is None else bool(periodic))

    @classmethod
    def from_ids(cls, *ids: str | uuid.UUID) -> WorkQuery:
        """Works with any of these ids."""
        return cls(ids=ids)

    @classmethod
    def from_states(cls, *states: State) -> WorkQuery:
        """Works in any of these states."""
        return cls(states=states)

    @classmethod
    def from_tags(cls, *tags: str) -> WorkQuery:
        """Works with any of these tags."""
        return cls(tags=tags)

    @classmethod
    def from_unique_names(cls, *names: str) -> WorkQuery:
        """Works with any of these unique names."""
        return cls(unique_names=names)


def _several(what: str, values: Any, check: Callable[[Any], Any]) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidRequest(what, "a collection", values)
    return tuple(dict.fromkeys(check(value) for value in values))


def _text(what: str) -> Callable[[Any], str]:
    return lambda value: check_text(what, value)


_unique_name, _tag, _queue, _worker, _node = map(_text, ("unique name", "tag", "queue", "worker name", "node"))


def _state(value: Any) -> State:
    if isinstance(value, State):
        return value
    raise InvalidRequest("state", "a State", value)
