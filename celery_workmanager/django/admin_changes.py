"""What the admin may change: the same calls as anybody's, each with a permission of its own and an entry in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.transaction import atomic
from django.http import HttpRequest

from celery_workmanager.app import WorkManager
from celery_workmanager.django.aliases import store_alias
from celery_workmanager.django.models import Pause, Work
from celery_workmanager.errors import WorkManagerError
from celery_workmanager.operation import Operation
from celery_workmanager.pauses import PauseTarget

#: Works that one action changes.
MOST_CHANGED = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """An action on works."""

    #: The last part of the permission: ``celery_workmanager.<permission>_work``.
    permission: str
    title: str
    call: Callable[[WorkManager, str], Operation]
    #: What the log says of one that was changed.
    tell: Callable[[Operation], str]


CHANGES = {
    "cancel": Change(
        "cancel",
        "Cancel, with all that depends on it",
        lambda manager, work_id: manager.cancel_work_by_id(work_id),
        lambda done: "Cancelled." if len(done.ids) == 1 else f"Cancelled, with works that depend on it: {_some(done)}.",
    ),
    "retry": Change(
        "retry",
        "Run again, as a new work",
        lambda manager, work_id: manager.retry(work_id),
        lambda done: f"Enqueued again as {done.id}.",
    ),
    "run_now": Change(
        "run",
        "Run now, without waiting for its time",
        lambda manager, work_id: manager.run_now(work_id),
        lambda _: "Set to run now.",
    ),
}


def _some(done: Operation) -> str:
    return ", ".join(done.ids[:10]) + (", …" if len(done.ids) > 10 else "")  # noqa: PLR2004 - enough for a log


@dataclass
class Outcome:
    """What came of an action on several works."""

    changed: int
    #: Works in which there was nothing to change.
    left: int
    errors: list[str]


def change(request: HttpRequest, model_admin: Any, name: str, ids: Iterable[str]) -> Outcome:
    """Change works one by one, each together with its entry in the log; an error in one keeps none of the others."""
    manager, what = WorkManager.get_instance(), CHANGES[name]
    outcome = Outcome(0, 0, [])
    for work_id in ids:
        try:
            with atomic(using=store_alias()):
                done = what.call(manager, work_id)
                if done.applied:
                    model_admin.log_change(request, Work(id=work_id), what.tell(done))
        except WorkManagerError as error:
            outcome.errors.append(f"{work_id}: {error}")
            continue
        outcome.changed += done.applied
        outcome.left += not done.applied
    return outcome


def set_pause(request: HttpRequest, kind: str, label: str, *, paused: bool) -> Operation:
    """Pause or resume a queue, a tag or a unique name. Raises InvalidRequest, PauseIncomplete."""
    which = {kind: label} if kind in ("queue", "tag", "name") else {}
    target = PauseTarget.of(**which)
    manager = WorkManager.get_instance()
    done = manager.pause(**which) if paused else manager.resume(**which)
    LogEntry.objects.create(
        user_id=request.user.pk,
        content_type=ContentType.objects.get_for_model(Pause),
        object_id=f"{target.kind}:{target.label}",
        object_repr=str(target)[:200],
        action_flag=CHANGE,
        change_message="Paused." if paused else "Resumed.",
    )
    return done
