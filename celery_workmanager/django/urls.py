"""``path("works/", include("celery_workmanager.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from celery_workmanager.django import views

app_name = "celery_workmanager"

urlpatterns = [
    path("", views.works, name="works"),
    path("events", views.events, name="works-events"),
    path("<str:work_id>/", views.work, name="work"),
    path("<str:work_id>/events", views.events, name="work-events"),
]
