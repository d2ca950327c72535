"""``{% load workmanager %}{% work_progress info %}``."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse

from celery_workmanager.django.documents import percent_of
from celery_workmanager.work import State, WorkInfo

register = template.Library()

#: How the states are told; the same words as in ``work-progress.js``.
WORDS = {
    State.ENQUEUED: "Waiting",
    State.RUNNING: "Running",
    State.SUCCEEDED: "Done",
    State.FAILED: "Failed",
    State.BLOCKED: "Waiting for other work",
    State.CANCELLED: "Cancelled",
}


@register.inclusion_tag("celery_workmanager/work_progress.html")
def work_progress(info: WorkInfo | None, label: str = "", **words: str) -> dict[str, Any]:
    """A work's state and progress, which ``work-progress.js`` keeps up to date; nothing for ``None``.

    `label`: what the work is to the reader (default: its worker's name). `words`: other words for states, such as
    ``running="läuft"``.
    """
    if info is None:
        return {}
    percent = percent_of(info)
    return {
        "work": info,
        "label": label or info.worker_name,
        "url": _url(),
        "percent": None if percent is None else f"{percent:g}",
        "shown": "" if percent is None or info.state is not State.RUNNING else f"{percent:.0f} %",
        "word": words.get(info.state.name.lower(), WORDS[info.state]),
        "words": words,
    }


def _url() -> str | None:
    """Where the views are; a project that doesn't include them has still what the server shows."""
    try:
        return reverse("celery_workmanager:works")
    except NoReverseMatch:
        return None
