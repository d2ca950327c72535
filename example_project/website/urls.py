"""The addresses."""

from __future__ import annotations

from django.urls import include, path

from example_project.website import views

urlpatterns = [
    path("", views.home, name="home"),
    path("pictures/<uuid:id>/", views.picture, name="picture"),
    path("pictures/<uuid:id>/cancel", views.cancel, name="cancel"),
    path("pictures/<uuid:id>/preview", views.preview, name="preview"),
    path("pictures/<uuid:id>/file", views.blurred, name="file"),
    path("history/", views.history, name="history"),
    path("history/<str:label>/", views.history, name="history-of"),
    path("why/", views.why, name="why"),
    path("works/", include("celery_workmanager.django.urls")),
]
handler404 = views.not_found
