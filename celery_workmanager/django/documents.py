"""A work as pages show it: nothing that could give away more than that it runs, and how far it is."""

from __future__ import annotations

from celery_workmanager.jsontypes import JSON
from celery_workmanager.work import State, WorkInfo

#: Fields of `WorkInfo.to_dict` that pages get. Input, output, messages, tracebacks and nodes are not among them.
FIELDS = (
    "id",
    "state",
    "version",
    "worker_name",
    "tags",
    "unique_names",
    "progress",
    "run_attempt_count",
    "generation",
    "next_schedule_time",
    "stop_reason",
    "enqueued_at",
    "started_at",
    "finished_at",
    "retry_of",
    "period_count",
    "paused",
)


def document_of(info: WorkInfo) -> dict[str, JSON]:
    """A work in JSON types: `FIELDS`, whether it is finished, how far it is, and the class of its error."""
    facts = info.to_dict()
    return {
        **{name: facts[name] for name in FIELDS},
        "is_finished": info.state.is_finished,
        "percent": percent_of(info),
        "error": None if info.error is None else info.error.exc_type,
    }


def percent_of(info: WorkInfo) -> float | None:
    """0 to 100: what the worker told as ``set_progress(percent=…)``, all of it once it succeeded, else ``None``."""
    if info.state is State.SUCCEEDED:
        return 100
    told = info.progress.get("percent")
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        return None
    return min(100, max(0, told))
