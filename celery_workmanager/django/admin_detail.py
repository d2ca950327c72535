"""All that the admin shows of one work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.safestring import SafeString

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.common import read
from celery_workmanager.cli.works import facts
from celery_workmanager.django.graph_svg import drawing_of
from celery_workmanager.django.models import Stop
from celery_workmanager.overview import family
from celery_workmanager.timing import as_datetime
from celery_workmanager.work import State, StopReason, WorkInfo

#: Works of a chain that are drawn: the nearest.
MOST_DRAWN = 60
#: Stops and coming runs that are told.
_MOST_TOLD = 20


def detail_of(manager: WorkManager, info: WorkInfo) -> dict[str, Any]:
    """The facts of a work for its page."""
    graph, is_cut = _graph(manager, info)
    is_periodic = info.periodicity_info is not None
    return {
        "info": info,
        "facts": [(title, value) for title, value in facts(info, manager.clock.now()) if value],
        "note": words.note(info),
        "blocks": list(_blocks(info)),
        "retry_of": info.retry_of and address_of(info.retry_of),
        "graph": graph,
        "graph_is_cut": is_cut,
        "most_drawn": MOST_DRAWN,
        "stops": list(_stops(info.id)),
        "runs": manager.get_runs(info.id) if is_periodic else [],
        "coming": manager.next_run_times(info.id, 5) if is_periodic else [],
        "pauses": [("queue", info.queue), *(("name", name) for name in info.unique_names)]
        + [("tag", tag) for tag in sorted(info.tags)],
    }


def address_of(work_id: str) -> str:
    """The page of a work."""
    return str(reverse("admin:celery_workmanager_work_change", args=(quote(work_id),)))


def possible(info: WorkInfo) -> set[str]:
    """The actions that mean something to a work as it is."""
    if info.state.is_finished:
        return {"retry"}
    return {"cancel"} if info.state is State.RUNNING else {"cancel", "run_now"}


def _blocks(info: WorkInfo) -> Iterator[tuple[str, str]]:
    if info.error is not None:
        yield "Error", "\n".join(filter(None, (str(info.error), info.error.traceback.rstrip())))
    for title, data in (("Input", info.input_data), ("Progress", info.progress), ("Output", info.output_data)):
        if data:
            yield title, words.indented(data.to_dict())


def _graph(manager: WorkManager, info: WorkInfo) -> tuple[SafeString | None, bool]:
    """The drawing of its chain; none of a work that stands alone."""
    related, is_cut = read(manager.store, lambda connection: family(connection, [info.id], MOST_DRAWN))
    works = {each.id: each for each in manager.infos_of(list(related))}
    children = {each: [child for child in related[each] if child in works] for each in works}
    if len(works) <= 1:
        return None, False
    return drawing_of(children, works, info.id, address_of), is_cut


def _stops(work_id: str) -> Iterator[dict[str, Any]]:
    for row in Stop.objects.filter(work=work_id).order_by("-number")[:_MOST_TOLD]:
        yield {
            "number": row.number,
            "reason": StopReason(row.reason).name,
            "at": as_datetime(row.at),
            "started_at": as_datetime(row.started_at),
            "node": row.node or "",
        }
