"""The unique chain cleanup → blur → save of a visitor, and how to find its works again."""

from __future__ import annotations

from typing import Any

from celery_workmanager import (
    Constraints,
    ExistingWorkPolicy,
    OneTimeWorkRequest,
    Operation,
    State,
    WorkInfo,
    WorkQuery,
)
from example_project.blur_o_matic.tasks import blur, cleanup, save
from example_project.website.celery import work_manager
from example_project.website.models import ALBUM, WORKBENCHES, Picture
from example_project.website.visitors import tag_of

#: What a second picture does to the one that is under way.
POLICIES = {
    "replace": ExistingWorkPolicy.REPLACE,
    "keep": ExistingWorkPolicy.KEEP,
    "append": ExistingWorkPolicy.APPEND_OR_REPLACE,
}


def start(picture: Picture, policy: ExistingWorkPolicy, *, charging: bool) -> Operation:
    """Enqueue the chain under the visitor's unique name; part of Django's transaction, where one is open."""
    tags = {tag_of(picture.visitor), _tag_of(picture)}
    if picture.label:
        tags.add(_label_tag(picture.visitor, picture.label))
    constraints = Constraints(requires_storage_not_low=True, requires_charging=charging)
    common: dict[str, Any] = {"tags": tags, "constraints": constraints}
    workbench = str(WORKBENCHES / picture.visitor)
    first = OneTimeWorkRequest(cleanup, {"image": str(picture.upload), "workbench": workbench}, **common)
    return (
        work_manager.begin_unique_work(_name_of(picture.visitor), policy, first)
        .then(OneTimeWorkRequest(blur, {"level": picture.level, "keep_exif": False}, **common))
        .then(OneTimeWorkRequest(save, {"album": str(ALBUM)}, **common))
        .enqueue()
    )


def works_of(picture: Picture) -> list[WorkInfo]:
    """Its three works in their order; none when they have been pruned."""
    return work_manager.get_work_infos_by_tag(_tag_of(picture))


def cancel(picture: Picture) -> None:
    """Cancel what is unfinished of its chain."""
    work_manager.cancel_all_work_by_tag(_tag_of(picture))


def waiting_works(visitor: str) -> list[WorkInfo]:
    """Works of the visitor that have not begun."""
    return work_manager.get_work_infos(
        WorkQuery(tags=[tag_of(visitor)], states=[State.ENQUEUED, State.BLOCKED], limit=60)
    )


def history(visitor: str, label: str = "", limit: int = 60) -> list[tuple[Picture, State]]:
    """The visitor's latest pictures, or those with a label, by the tags of their works; each with its chain's end."""
    tag = _label_tag(visitor, label) if label else tag_of(visitor)
    saves = work_manager.get_work_infos(WorkQuery(tags=[tag], workers=[save.name], newest_first=True, limit=limit))
    states = {picture_id_of(info): info.state for info in saves}
    pictures = {str(picture.id): picture for picture in Picture.objects.filter(visitor=visitor, id__in=states)}
    return [(pictures[key], state) for key, state in states.items() if key in pictures]


def labels_of(visitor: str) -> list[str]:
    """The labels that the visitor has used."""
    used = Picture.objects.filter(visitor=visitor).exclude(label="")
    return sorted(used.order_by().values_list("label", flat=True).distinct())


_PICTURE = "picture:"


def picture_id_of(info: WorkInfo) -> str:
    """The picture that a work is for."""
    return next(tag.removeprefix(_PICTURE) for tag in info.tags if tag.startswith(_PICTURE))


def _tag_of(picture: Picture) -> str:
    return f"{_PICTURE}{picture.id}"


def _label_tag(visitor: str, label: str) -> str:
    """The tag of the visitor's works with a label."""
    return f"{tag_of(visitor)}:{label}"


def _name_of(visitor: str) -> str:
    return f"blur-o-matic of {visitor}"
