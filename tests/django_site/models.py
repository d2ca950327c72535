"""What the project is about."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """Somebody's order."""

    title = models.CharField(max_length=100)

    def __str__(self) -> str:
        return str(self.title)
