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
def work_progress(info: WorkInfo | None, label: str = "", *, poll: bool = False, **words: str) -> dict[str, Any]:
    """A work's state and progress, which ``work-progress.js`` keeps up to date; nothing for ``None``.

    `label`: what the work is to the reader (default: its worker's name). `poll`: ask every two seconds instead of
    holding a stream open. `words`: other words for states, such as ``running="läuft"``.
    """
    if info is None:
        return {}
    if unknown := words.keys() - {state.name.lower() for state in State}:
        raise template.TemplateSyntaxError(f"expected words for states, got: {', '.join(sorted(unknown))}")
    return {
        "work": info,
        "label": label or info.worker_name,
        "url": _url(),
        "poll": poll,
        "value": _value(info),
        "note": _note(info),
        "word": words.get(info.state.name.lower(), WORDS[info.state]),
        "words": words,
    }


def _value(info: WorkInfo) -> str | None:
    """Of the bar; ``None``: it runs, and nobody knows how far it is."""
    percent = percent_of(info)
    if percent is None:
        return None if info.state is State.RUNNING else "0"
    return f"{percent:g}"


def _note(info: WorkInfo) -> str:
    percent = percent_of(info)
    if info.paused:
        return "paused"
    if info.state is State.FAILED:
        return info.error.exc_type if info.error else ""
    return f"{percent:.0f} %" if info.state is State.RUNNING and percent is not None else ""


def _url() -> str | None:
    """Where the views are; a project that doesn't include them has still what the server shows."""
    try:
        return str(reverse("celery_workmanager:works"))
    except NoReverseMatch:
        return None
