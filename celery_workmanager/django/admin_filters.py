"""How the admin's list of works is narrowed down: by what has an index first, then by looking through the newest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from celery_workmanager.django.models import Member, Name, Node, Tag, Work
from celery_workmanager.work import State

#: Works that are looked through, one by one, for what has no index.
LOOKED_THROUGH = 100_000
#: Ids, names and tagged works that a search goes by.
MOST_FOUND = 200


def newest(found: QuerySet[Any], key: str = "id") -> QuerySet[Any]:
    """The newest `LOOKED_THROUGH` of `found`, whose ids are in column `key`."""
    beyond = _beyond(found, key)
    return found if beyond is None else found.filter(**{f"{key}__gt": beyond})


def _beyond(found: QuerySet[Any], key: str) -> str | None:
    """The id of the newest work that is too old.

    By an offset in an index and a statement of its own: not every database takes a LIMIT in a part of one.
    """
    ids = found.order_by(f"-{key}").values_list(key, flat=True)
    return next(iter(ids[LOOKED_THROUGH : LOOKED_THROUGH + 1]), None)


def among(works: QuerySet[Work], rows: QuerySet[Any], key: str = "work") -> QuerySet[Work]:
    """Those of `works` that are among the newest `rows`."""
    beyond = _beyond(rows, key)
    if beyond is not None:
        # Said of both: whichever side a planner begins with, it reads that part of it only.
        works, rows = works.filter(id__gt=beyond), rows.filter(**{f"{key}__gt": beyond})
    return works.filter(id__in=rows.values(key))


def searched(term: str) -> list[str]:
    """Ids of works that a search means: an id or its beginning, a unique name or its beginning, or a tag."""
    # Ranges of an index, which hold whatever begins with the term under any collation; LIKE might have no index.
    ids = Work.objects.filter(id__gte=term).order_by("id").values_list("id", flat=True)[:MOST_FOUND]
    names = Name.objects.filter(name__gte=term).order_by("name").values_list("name", flat=True)[:MOST_FOUND]
    named = Member.objects.filter(name__in=[each for each in names if each.startswith(term)])
    tagged = Tag.objects.filter(tag=term)
    works = [rows.order_by("-work").values_list("work", flat=True)[:MOST_FOUND] for rows in (named, tagged)]
    return [each for each in ids if each.startswith(term)] + [each for found in works for each in found]


class TextFilter(admin.SimpleListFilter):
    """A field to type in: the tags of a million works are no list of links."""

    template = "admin/celery_workmanager/text_filter.html"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        # Another narrowing begins at the first page.
        others = ((key, value) for key, values in request.GET.lists() for value in values)
        self.others = [(key, value) for key, value in others if key not in (self.parameter_name, "p", "e")]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Nothing to choose from; Django hides filters without."""
        return [("", "")]

    def value(self) -> str:
        """What was typed in; NUL is no text to PostgreSQL."""
        return (super().value() or "").replace("\x00", "")

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        """The one way back."""
        yield {"query_string": changelist.get_query_string(remove=[self.parameter_name])}


class TagFilter(TextFilter):
    """Works with a tag; a worker's name is one of all its works."""

    title = "tag"
    parameter_name = "tag"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """The works with the tag."""
        if not (label := self.value()):
            return None
        tagged, of_worker = Tag.objects.filter(tag=label), Work.objects.filter(worker=label)
        if not of_worker.exists():
            return among(queryset, tagged)
        if not tagged.exists():
            return queryset.filter(worker=label)
        both = newest(tagged, "work").values("work").union(newest(of_worker).values("id"), all=True)
        return queryset.filter(id__in=both)


class NameFilter(TextFilter):
    """Works of a unique name."""

    title = "unique name"
    parameter_name = "name"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """The works of the name."""
        if not (label := self.value()):
            return None
        return among(queryset, Member.objects.filter(name=label))


class WorkerFilter(TextFilter):
    """Works for a worker: the name of a task."""

    title = "worker"
    parameter_name = "worker"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """The works for the worker."""
        return queryset.filter(worker=self.value()) if self.value() else None


class NodeFilter(TextFilter):
    """Works that a node has in hand, by its name or the id of one of its incarnations."""

    title = "node"
    parameter_name = "node"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """The works in the node's hands."""
        if not (label := self.value()):
            return None
        incarnations = Node.objects.filter(name=label).values_list("id", flat=True)
        return queryset.filter(node__in=[label, *incarnations])


class KindFilter(admin.SimpleListFilter):
    """Periodic works."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """What has an index."""
        return [("periodic", "Periodic")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """The periodic works."""
        return queryset.filter(period_at__isnull=False) if self.value() == "periodic" else None


class LookedThrough:
    """A filter without an index: `WorkList` applies its `condition` to the newest works that all others leave."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """Nothing yet."""

    def condition(self) -> Q | None:
        """Which works pass."""
        raise NotImplementedError


class StateFilter(LookedThrough, admin.SimpleListFilter):
    """Works in a state. What runs or is blocked has a small index; other states are looked for."""

    title = "state"
    parameter_name = "state"

    _INDEXED: ClassVar = {State.RUNNING: {"node__isnull": False}, State.BLOCKED: {"waits_for__isnull": False}}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The states."""
        return [(state.name, state.name.capitalize()) for state in State]

    @property
    def _state(self) -> State | None:
        return State.__members__.get(self.value() or "")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Work]) -> QuerySet[Work] | None:
        """What an index says of the state."""
        return None if self._state is None else queryset.filter(**self._INDEXED.get(self._state, {}))

    def condition(self) -> Q | None:
        """Which works are in the state."""
        return None if self._state is None else Q(state=int(self._state))


class QueueFilter(LookedThrough, TextFilter):
    """Works of a queue."""

    title = "queue"
    parameter_name = "queue"

    def condition(self) -> Q | None:
        """Which works are in the queue."""
        return Q(queue=self.value()) if self.value() else None
