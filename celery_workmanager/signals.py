"""Celery signals for what happens to works beside their runs, which Celery's own ``task_*`` signals tell of.

Each is sent once for a transaction, after it has committed, in the process that made the change, as
``signal.send(sender=work_manager, works=[WorkEvent, …])``. What a receiver raises is logged and harms nothing.
"""

from __future__ import annotations

from types import MappingProxyType

from celery.utils.dispatch import Signal

from celery_workmanager.events import Change, WorkEvent

__all__ = (
    "SIGNALS",
    "WorkEvent",
    "work_blocked",
    "work_cancelled",
    "work_enqueued",
    "work_expired",
    "work_healed",
    "work_pruned",
    "work_stopped",
    "work_unblocked",
)


def _signal(name: str) -> Signal:
    return Signal(name=name, providing_args={"works"})


#: New works that may run now, or as soon as their time has come. ``WorkEvent.request`` is what was enqueued.
work_enqueued = _signal("work_enqueued")
#: New works that wait for prerequisites. ``WorkEvent.request`` is what was enqueued.
work_blocked = _signal("work_blocked")
#: Works whose last prerequisite has succeeded.
work_unblocked = _signal("work_unblocked")
#: Works whose run was stopped by the system (shutdown …); they run again. ``WorkEvent.stop_reason`` says why.
work_stopped = _signal("work_stopped")
#: Works that were put back into the queue after their process or their node was lost.
work_healed = _signal("work_healed")
#: Works that became CANCELLED, whatever cancelled them. ``WorkEvent.stop_reason`` says whether they were running.
work_cancelled = _signal("work_cancelled")
#: Works that had to start by now and hadn't; what depended on them is told by ``work_cancelled``, as they are.
work_expired = _signal("work_expired")
#: Finished works that were deleted; ``WorkEvent.state`` is how they had ended.
work_pruned = _signal("work_pruned")

#: The signal of each change.
SIGNALS = MappingProxyType(
    {
        Change.ENQUEUED: work_enqueued,
        Change.BLOCKED: work_blocked,
        Change.UNBLOCKED: work_unblocked,
        Change.STOPPED: work_stopped,
        Change.HEALED: work_healed,
        Change.CANCELLED: work_cancelled,
        Change.EXPIRED: work_expired,
        Change.PRUNED: work_pruned,
    }
)
