"""Works for pages: as JSON, and as server-sent events.

Both are asked for one work, or for several: ``?id=…`` (also repeated), ``?name=…`` or ``?tag=…``. What the project's
rule (setting ``page_access``) doesn't let through is as if it weren't there, and nothing at all is "not found".
"""

from __future__ import annotations

from collections.abc import Sequence

from django.core.handlers.asgi import ASGIRequest
from django.db.transaction import non_atomic_requests
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.views.decorators.http import require_GET

from celery_workmanager.app import WorkManager
from celery_workmanager.django.access import access_of
from celery_workmanager.django.aliases import store_alias
from celery_workmanager.django.documents import document_of
from celery_workmanager.django.feeds import Feed, astream, stream, versions_in
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.jsontypes import JSON
from celery_workmanager.query import WorkQuery
from celery_workmanager.work import WorkInfo

#: Outside ``ATOMIC_REQUESTS``, whose snapshot would hide every change from who watches.
_as_committed = non_atomic_requests(using=store_alias())

#: Works that one request may ask for; of a name or tag the newest.
MOST = 50


@require_GET
@_as_committed
def work(request: HttpRequest, work_id: str) -> HttpResponseBase:
    """One work as JSON; 404 for an unknown one and for one that the visitor may not see."""
    infos = _feed_of(request, _query_of([work_id])).open()
    return _json(document_of(_found(infos)[0]))


@require_GET
@_as_committed
def works(request: HttpRequest) -> HttpResponseBase:
    """Several works as JSON, ``{"works": […]}``; 404 without any."""
    infos = _feed_of(request, _asked(request)).open()
    return _json({"works": [document_of(info) for info in _found(infos)]})


@require_GET
@_as_committed
def events(request: HttpRequest, work_id: str | None = None) -> HttpResponseBase:
    """The same as a stream of events; ``Last-Event-ID`` or ``?after=`` says what the client has."""
    query = _asked(request) if work_id is None else _query_of([work_id])
    feed = _feed_of(request, query)
    _found(feed.open())
    response = StreamingHttpResponse(
        astream(feed) if isinstance(request, ASGIRequest) else stream(feed), content_type="text/event-stream"
    )
    response["Cache-Control"] = "no-store, no-transform"
    response["X-Accel-Buffering"] = "no"
    response["Content-Encoding"] = "identity"  # else GZipMiddleware would hold back what it can't compress yet
    return response


def _asked(request: HttpRequest) -> WorkQuery:
    return _query_of(*map(request.GET.getlist, ("id", "name", "tag")))


def _query_of(ids: list[str], names: Sequence[str] = (), tags: Sequence[str] = ()) -> WorkQuery:
    if not (ids or names or tags):
        raise Http404
    try:
        return WorkQuery(ids, names, tags, limit=MOST, newest_first=True)
    except InvalidRequest:
        raise Http404 from None


def _feed_of(request: HttpRequest, query: WorkQuery) -> Feed:
    manager = WorkManager.get_instance()
    rule = access_of(manager)
    seen = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    # Who watches holds no connection of Django's; inside a transaction (of a test) only that one has all works.
    store = manager.store if manager.store.database.is_joined else manager.engine_store
    return Feed(store, query, lambda info: rule(request, info) is True, versions_in(seen, query))


def _found(infos: list[WorkInfo]) -> list[WorkInfo]:
    if not infos:
        raise Http404
    return infos


def _json(document: dict[str, JSON]) -> JsonResponse:
    return JsonResponse(document, headers={"Cache-Control": "no-store"})
