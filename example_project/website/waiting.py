"""What waits, and why; in words for the visitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_workmanager import State, WorkInfo
from example_project.website import chains
from example_project.website.celery import SWEEP, work_manager
from example_project.website.models import Picture

#: What each worker does, by the last word of its name.
STEPS = {
    "cleanup": ("Clean up", "Clears the workbench of what earlier pictures left there."),
    "blur": ("Blur", "Softens the picture, strip by strip."),
    "save": ("Save", "Puts the result into the album, without the camera’s notes."),
}


@dataclass(frozen=True)
class Step:
    """A work as the pages show it."""

    info: WorkInfo
    title: str
    text: str

    @classmethod
    def of(cls, info: WorkInfo) -> Step:
        """The step that a work is."""
        return cls(info, *STEPS[info.worker_name.rsplit(".", 1)[-1]])


def trouble_of(works: Sequence[WorkInfo]) -> str:
    """Why the chain failed, as the work said it that failed first; empty when it didn't."""
    for info in works:
        if info.state is State.FAILED:
            return info.output_data.get_string("reason") or str(info.error or "")
    return ""


def reasons_of(info: WorkInfo) -> list[str]:
    """Why a work hasn't begun, the true reason first."""
    if info.state is State.BLOCKED:
        return [f"Waits for {len(info.prerequisites)} work before it."]
    if info.paused:
        return ["It is paused."]
    return ["Waits for a worker to take it."]


def situation(visitor: str) -> dict[str, Any]:
    """The visitor's waiting works by picture, and the periodic work of the house."""
    waiting: dict[str, list[tuple[Step, list[str]]]] = {}
    for info in chains.waiting_works(visitor):
        waiting.setdefault(chains.picture_id_of(info), []).append((Step.of(info), reasons_of(info)))
    pictures = Picture.objects.filter(visitor=visitor, id__in=waiting)
    sweeps = work_manager.get_work_infos_for_unique_work(SWEEP)
    return {
        "waiting": [(picture, waiting[str(picture.id)]) for picture in pictures],
        "sweep": sweeps[-1] if sweeps else None,
        "runs": work_manager.get_runs(sweeps[-1].id)[-3:] if sweeps else [],
    }
