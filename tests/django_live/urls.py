"""The package's own URLs, and a page that watches works."""

from __future__ import annotations

from pathlib import Path

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.urls import include, path
from django.views.static import serve

import celery_workmanager.django
from celery_workmanager import WorkManager

STATIC = Path(celery_workmanager.django.__path__[0]) / "static"

_PAGE = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/static/celery_workmanager/work-progress.css">
<style>:root { color-scheme: light dark }</style>
<script>
  window.told = [];
  for (const kind of ["workchange", "workfinish", "workgone"])
    addEventListener(kind, ({ target, detail }) => told.push([kind, target.dataset.work, detail && detail.state]));
</script>
<script src="/static/celery_workmanager/work-progress.js" defer></script>
{% load workmanager %}{% for info in infos %}{% work_progress info label="a picture" poll=poll %}{% endfor %}
{% for id in bare %}<work-progress data-work="{{ id }}" data-url="/works/"></work-progress>{% endfor %}
"""


def page(request: HttpRequest) -> HttpResponse:
    bare = request.GET.getlist("bare")
    infos = WorkManager.get_instance().infos_of(request.GET.getlist("id"))
    return HttpResponse(Template(_PAGE).render(Context({"infos": infos, "bare": bare, "poll": "poll" in request.GET})))


urlpatterns = [
    path("works/", include("celery_workmanager.django.urls")),
    path("page/", page),
    path("admin/", admin.site.urls),
    path("static/<path:path>", serve, {"document_root": str(STATIC)}),
]
