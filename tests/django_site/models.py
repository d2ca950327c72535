"""What the project is about."""

from __future__ import annotations

from django.db import models

from tests.django_site.celery import app as celery_app

__all__ = ["Order", "celery_app"]


class Order(models.Model):
    """Somebody's order."""

    title = models.CharField(max_length=100)

    def __str__(self) -> str:
        return str(self.title)
