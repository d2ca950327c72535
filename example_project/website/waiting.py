"""What waits, and why; in words for the visitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_workmanager import Reason, ReasonKind, State, WorkInfo
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


#: In the visitor's words; other kinds of reasons have the explanation's own.
_WORDS = {
    ReasonKind.BLOCKED: "the work before it is not done",
    ReasonKind.NO_NODE: "no worker is there at the moment",
    ReasonKind.CONSTRAINT: "no worker meets what it asks for",
    ReasonKind.BUSY: "all workers are busy",
    ReasonKind.READY: "nothing holds it up, a worker will take it now",
}


@dataclass(frozen=True)
class Why:
    """A reason in a sentence, and what it means on each worker."""

    text: str
    nodes: tuple[str, ...]


def reasons_of(info: WorkInfo) -> list[Why]:
    """Why a work hasn't begun, the true reason first."""
    return [
        Why(_sentence(_told(reason)), tuple(f"{node.name}: {node.text}" for node in reason.nodes))
        for reason in work_manager.explain(info.id).reasons
    ]


def obstacles_of(works: Sequence[WorkInfo]) -> list[str]:
    """What keeps works that are due from running, a sentence each."""
    first = {Step.of(info).title: work_manager.explain(info.id).first for info in works if info.state is State.ENQUEUED}
    obstacles = (ReasonKind.CONSTRAINT, ReasonKind.NO_NODE)
    return [f"{title} waits: {_told(reason)}." for title, reason in first.items() if reason.kind in obstacles]


def _told(reason: Reason) -> str:
    return _WORDS.get(reason.kind, reason.text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def situation(visitor: str) -> dict[str, Any]:
    """The visitor's waiting works by picture, and the periodic work of the house."""
    waiting: dict[str, list[tuple[Step, list[Why]]]] = {}
    for info in chains.waiting_works(visitor):
        waiting.setdefault(chains.picture_id_of(info), []).append((Step.of(info), reasons_of(info)))
    pictures = Picture.objects.filter(visitor=visitor, id__in=waiting)
    sweeps = work_manager.get_work_infos_for_unique_work(SWEEP)
    return {
        "waiting": [(picture, waiting[str(picture.id)]) for picture in pictures],
        "sweep": sweeps[-1] if sweeps else None,
        "runs": work_manager.get_runs(sweeps[-1].id)[-3:] if sweeps else [],
    }
