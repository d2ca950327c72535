from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("work/", include("celery_workmanager.django.urls"))]
