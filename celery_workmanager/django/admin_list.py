"""The admin's list of works: as fast over a million works as over a hundred."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from celery_workmanager.app import WorkManager
from celery_workmanager.django.admin_filters import LookedThrough, newest
from celery_workmanager.django.models import Work

#: Nothing is counted, and no page lies, further than this.
MOST = 10_000


class CappedPaginator(Paginator):
    """Pages of the newest `MOST` works: what comes after them isn't even counted."""

    @cached_property
    def found(self) -> int:
        """How many there are, up to one more than `MOST`."""
        return int(self.object_list[: MOST + 1].count())

    @cached_property
    def count(self) -> int:
        """How many can be turned to."""
        return min(self.found, MOST)


class WorkList(ChangeList):
    """The list: what has no index is looked for among the newest works, and shown works are read as `WorkInfo`."""

    is_looked_through = False
    result_list: list[Any]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Work]:
        """The works that all filters leave."""
        found = super().get_queryset(request, exclude_parameters)
        asked = [each.condition() for each in self.filter_specs if isinstance(each, LookedThrough)]
        conditions = [condition for condition in asked if condition is not None]
        if not conditions:
            return found
        some = newest(found)
        self.is_looked_through = some is not found
        return some.filter(*conditions)

    def get_results(self, request: HttpRequest) -> None:
        """Read the works of the page; what was pruned a moment ago is left out."""
        super().get_results(request)
        self.is_capped = self.paginator.found > MOST
        rows = {row.id: row for row in self.result_list}
        infos = WorkManager.get_instance().infos_of(list(rows))
        for info in infos:
            rows[info.id].info = info
        self.result_list = [rows[info.id] for info in infos]
