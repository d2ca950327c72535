"""The tasks of the workers in containers."""

from __future__ import annotations

from celery import shared_task

from celery_workmanager import Worker


@shared_task(base=Worker)
def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y
