"""Where the views are."""

from __future__ import annotations

from django.urls import path

from tests.django_site import views

urlpatterns = [
    path("order/<str:title>/", views.order),
    path("order-async/<str:title>/", views.order_async),
]
