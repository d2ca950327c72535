"""The store in Django's admin: what there is, why it is so, and the few things that may be done about it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.screen import LOOKS
from celery_workmanager.django import admin_filters as by
from celery_workmanager.django.admin_changes import CHANGES, MOST_CHANGED, Outcome, change, set_pause
from celery_workmanager.django.admin_detail import address_of, detail_of, possible
from celery_workmanager.django.admin_list import MOST, CappedPaginator, WorkList
from celery_workmanager.django.models import Work
from celery_workmanager.errors import InvalidRequest, WorkManagerError
from celery_workmanager.work import WorkInfo

#: Errors that are told one by one.
_MOST_ERRORS = 5
_PAUSES = "admin:celery_workmanager_work_pauses"


@admin.register(Work)
class WorkAdmin(admin.ModelAdmin):
    """Works: read only, but for actions that have permissions of their own."""

    list_display = ("state_shown", "worker_shown", "when", "note", "names", "tags", "queue_shown", "id")
    list_display_links = ("worker_shown", "id")
    list_filter = (
        by.StateFilter, by.TagFilter, by.NameFilter, by.WorkerFilter, by.QueueFilter, by.NodeFilter, by.KindFilter,
    )  # fmt: skip
    list_per_page = 50
    list_max_show_all = 0
    list_select_related = False
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    ordering = ("-id",)
    sortable_by = ()
    paginator = CappedPaginator
    search_fields = ("id",)
    search_help_text = "An id or its beginning, a unique name or its beginning, or a tag"
    actions = ("cancel", "retry", "run_now")
    change_list_template = "admin/celery_workmanager/work/list.html"

    class Media:
        css = {"all": ("celery_workmanager/admin.css",)}  # noqa: RUF012 - Django's way

    # -- who may do what --------------------------------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Works are enqueued, not added."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A row that is saved passes by every rule."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Works are pruned, not deleted."""
        return False

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether the user may cancel works."""
        return _may(request, "cancel")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whether the user may run finished works again."""
        return _may(request, "retry")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Whether the user may run works before their time."""
        return _may(request, "run")

    def has_pause_permission(self, request: HttpRequest) -> bool:
        """Whether the user may pause and resume queues, tags and names."""
        return _may(request, "pause")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Only the filters: a lookup of any column would read the whole table."""
        return lookup in {each.parameter_name for each in self.list_filter}

    # -- the list ---------------------------------------------------------------------------------------------------

    def get_changelist(self, request: HttpRequest, **_: Any) -> type[WorkList]:
        """The list."""
        return WorkList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Work]:
        """Ids only: the rest is read as `WorkInfo`, of the works that are shown."""
        found: QuerySet[Work] = super().get_queryset(request).only("id")
        return found

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[QuerySet[Work], bool]:
        """The works that a search means."""
        term = search_term.strip()
        return (queryset.filter(id__in=by.searched(term)) if term else queryset), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with what it leaves out."""
        more = {"most": MOST, "looked_through": by.LOOKED_THROUGH, "pauses_url": reverse(_PAUSES)}
        response: HttpResponse = super().changelist_view(request, more | (extra_context or {}))
        return response

    @admin.display(description="state")
    def state_shown(self, row: Any) -> SafeString:
        """Its state."""
        return badge(row.info)

    @admin.display(description="worker")
    def worker_shown(self, row: Any) -> str:
        """Its worker."""
        return str(row.info.worker_name)

    @admin.display(description="when")
    def when(self, row: Any) -> str:
        """Since when, or when next."""
        return words.when(row.info, WorkManager.get_instance().clock.now())

    @admin.display(description="note")
    def note(self, row: Any) -> str:
        """What there is to say beyond the state."""
        return words.note(row.info)

    @admin.display(description="unique names")
    def names(self, row: Any) -> str:
        """Its unique names."""
        return words.labels(row.info.unique_names)

    @admin.display(description="tags")
    def tags(self, row: Any) -> str:
        """Its tags but for its worker's name."""
        return words.labels(row.info.tags - {row.info.worker_name})

    @admin.display(description="queue")
    def queue_shown(self, row: Any) -> str:
        """Its queue."""
        return str(row.info.queue)

    # -- actions ----------------------------------------------------------------------------------------------------

    @admin.action(permissions=["cancel"], description="Cancel, with all that depends on them")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Work]) -> None:
        """Cancel works."""
        self._change_all(request, "cancel", queryset)

    @admin.action(permissions=["retry"], description="Run finished works again")
    def retry(self, request: HttpRequest, queryset: QuerySet[Work]) -> None:
        """Enqueue finished works again."""
        self._change_all(request, "retry", queryset)

    @admin.action(permissions=["run"], description="Run now, without waiting for their time")
    def run_now(self, request: HttpRequest, queryset: QuerySet[Work]) -> None:
        """Let works wait no longer."""
        self._change_all(request, "run_now", queryset)

    def _change_all(self, request: HttpRequest, name: str, queryset: QuerySet[Work]) -> None:
        ids = list(queryset.values_list("id", flat=True)[: MOST_CHANGED + 1])
        _tell(request, change(request, self, name, ids[:MOST_CHANGED]))
        if len(ids) > MOST_CHANGED:
            messages.warning(request, f"Only the first {MOST_CHANGED:,} were looked at: there are more.")

    # -- pages of our own ---------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The pages."""
        wrap = self.admin_site.admin_view
        own = [
            path("pauses/", wrap(self.pauses_view), name="celery_workmanager_work_pauses"),
            path(
                "<path:object_id>/do/<str:name>/", wrap(require_POST(self.do_view)), name="celery_workmanager_work_do"
            ),
        ]
        return own + list(super().get_urls())

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """All that is known of a work."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        work_id, manager = unquote(object_id), WorkManager.get_instance()
        info = _known(manager, work_id)
        if info is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, work_id)
            return missing
        means = possible(info)
        context = {
            **detail_of(manager, info),
            "title": f"{info.worker_name} {info.id}",
            "badge": badge(info),
            "actions": [(n, c.title) for n, c in CHANGES.items() if n in means and _may(request, c.permission)],
            "pauses_url": reverse(_PAUSES),
            "may_pause": self.has_pause_permission(request),
        }
        return self._page(request, "detail", context | (extra_context or {}))

    def do_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Carry out an action on one work."""
        work_id = unquote(object_id)
        if name not in CHANGES or not _may(request, CHANGES[name].permission):
            raise PermissionDenied
        _tell(request, change(request, self, name, [work_id]))
        return HttpResponseRedirect(address_of(work_id))

    def pauses_view(self, request: HttpRequest) -> HttpResponse:
        """What is paused; pausing and resuming."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._pause(request)
        context = {
            "title": "Pauses",
            "pauses": WorkManager.get_instance().paused(),
            "may_pause": self.has_pause_permission(request),
            "kind": request.GET.get("kind", "queue"),
            "label": request.GET.get("label", ""),
        }
        return self._page(request, "pauses", context)

    def _pause(self, request: HttpRequest) -> HttpResponse:
        if not self.has_pause_permission(request):
            raise PermissionDenied
        paused, kind, label = "pause" in request.POST, request.POST.get("kind", ""), request.POST.get("label", "")
        try:
            done = set_pause(request, kind, label, paused=paused)
        except WorkManagerError as error:
            messages.error(request, str(error))
        else:
            told = f"{kind} {label}: {'paused' if paused else 'resumed'}."
            messages.success(request, told if done.applied else f"{kind} {label}: it was so before.")
        return HttpResponseRedirect(reverse(_PAUSES))

    def _page(self, request: HttpRequest, page: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name
        around = {**self.admin_site.each_context(request), "opts": self.opts, "media": self.media}
        return TemplateResponse(request, f"admin/celery_workmanager/work/{page}.html", around | context)


def badge(info: WorkInfo) -> SafeString:
    """A state with its sign."""
    sign, _ = LOOKS[info.state]
    paused = " (paused)" if info.paused else ""
    return format_html(
        '<span class="work-badge work-{}">{} {}{}</span>', info.state.name.lower(), sign, info.state.name, paused
    )


def _may(request: HttpRequest, permission: str) -> bool:
    return bool(request.user.has_perm(f"celery_workmanager.{permission}_work"))


def _known(manager: WorkManager, work_id: str) -> WorkInfo | None:
    try:
        return manager.get_work_info_by_id(work_id)
    except InvalidRequest:
        return None


def _tell(request: HttpRequest, outcome: Outcome) -> None:
    if outcome.changed:
        messages.success(request, f"{outcome.changed:,} changed.")
    if outcome.left:
        messages.info(request, f"Nothing to change in {outcome.left:,}.")
    for error in outcome.errors[:_MOST_ERRORS]:
        messages.error(request, error)
    if len(outcome.errors) > _MOST_ERRORS:
        messages.error(request, f"… and {len(outcome.errors) - _MOST_ERRORS:,} more errors.")
