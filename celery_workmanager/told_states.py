"""States that a run tells of itself (Celery, "Custom states"): they are its progress, under a name.

``update_state(state="PROGRESS", meta={"current": 5})`` is the progress ``{"current": 5, "celery_state": "PROGRESS"}``.
"""

from __future__ import annotations

import json
from typing import Any

from celery import states
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.data import Data
from celery_workmanager.foreground import taken_apart
from celery_workmanager.work import WorkError

__all__ = ("as_progress", "is_own", "told_failure", "told_in")

_STATE, _META = "celery_state", "celery_meta"
#: What the store says of a work by itself.
_OWN = states.READY_STATES | {states.PENDING, states.RECEIVED, states.STARTED, states.RETRY}


def is_own(state: str) -> bool:
    """Whether a state is one of a project's own."""
    return state not in _OWN


def as_progress(state: str, meta: Any) -> Data:
    """Return state and meta (JSON in Celery's sense) as progress. Raises DataNotStorable."""
    plain = json.loads(kombu_dumps(meta))
    facts = plain if isinstance(meta, dict) else {_META: plain}
    return Data({**facts, _STATE: state})


def told_in(progress: str | None) -> tuple[str, Any] | None:
    """Return state and meta that the progress (JSON text) of a work holds, if any."""
    if progress is None or f'"{_STATE}"' not in progress:
        return None
    facts = kombu_loads(taken_apart(progress)[0])
    state = facts.pop(_STATE)
    return state, facts.get(_META) if _META in facts else facts


def told_failure(meta: Any) -> WorkError:
    """Return the error that a told FAILURE stands for; its meta names an exception, as Celery's backends need it."""
    if not isinstance(meta, dict) or "exc_type" not in meta:
        return WorkError("Ignored", str(meta), "")
    message = meta.get("exc_message", "")
    return WorkError(str(meta["exc_type"]), str(message), str(meta.get("exc_module") or ""))
