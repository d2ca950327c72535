"""Limits, revoking, and what happens when a process is lost."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from tests.compat.apps import task
from tests.compat.journal import note, notes
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, shown, until

rows = Group("Limits and revoking")


@task(bind=True)
def endless(self: Any) -> str:
    note(self.request.id, ["running", os.getpid()])
    for _ in range(1500):
        time.sleep(0.02)
    return "ran to the end"


@task(bind=True, soft_time_limit=0.5)
def soft_limited(self: Any, catch: bool) -> str:
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
        return "cleaned up"
    return "ran to the end"


@task(bind=True, time_limit=0.5)
def hard_limited(self: Any) -> str:
    time.sleep(20)
    return "ran to the end"


@task(bind=True, soft_time_limit=20, time_limit=10)
def wrongly_limited(self: Any) -> None: ...


@task(bind=True, rate_limit="2/s")
def rate_limited(self: Any, key: str) -> None:
    note(key, time.time())


@task(bind=True)
def rate_limited_later(self: Any, key: str) -> None:
    note(key, time.time())


@task(bind=True)
def dying(self: Any) -> str:
    """Lose its process, the first time."""
    note(self.request.id, "ran")
    if len(notes(self.request.id)) < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return "the second time"


@task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dying_late(self: Any) -> str:
    note(self.request.id, "ran")
    if len(notes(self.request.id)) < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return "the second time"


@task(acks_late=True)
def acked_late(x: int) -> int:
    return x


@task(acks_late=True)
def failing_late() -> None:
    raise ValueError("no")


@rows.row(
    "`soft_time_limit` of the task",
    plain="`SoftTimeLimitExceeded` is raised in it",
    expect=["cleaned up", "SoftTimeLimitExceeded"],
)
def soft_limit(side: Side) -> Any:
    caught, uncaught = side.soft_limited.delay(catch=True), side.soft_limited.delay(catch=False)
    return [side.get(caught), side.failure(uncaught).partition(":")[0]]


@rows.row(
    "`time_limit` of the task",
    plain="its process is killed; `TimeLimitExceeded`",
    expect="TimeLimitExceeded",
    postgresql=True,
)
def hard_limit(side: Side) -> Any:
    return side.failure(side.hard_limited.delay()).partition(":")[0]


@rows.row("`apply_async(soft_time_limit=…)`", plain="the limit of this call", expect="SoftTimeLimitExceeded")
def soft_limit_of_call(side: Side) -> Any:
    return side.failure(side.endless.apply_async(soft_time_limit=0.5)).partition(":")[0]


@rows.row("`apply_async(time_limit=…)`", plain="the limit of this call", expect="TimeLimitExceeded")
def hard_limit_of_call(side: Side) -> Any:
    return side.failure(side.endless.apply_async(time_limit=0.5)).partition(":")[0]


@rows.row("a soft limit above the hard one", plain="`ValueError` at the call", expect="ValueError")
def wrong_limits(side: Side) -> Any:
    try:
        side.wrongly_limited.delay()
    except ValueError as error:
        return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return "accepted"


def _spaced(side: Side, limited: Any) -> Any:
    key = side.new_id()
    for _ in range(7):
        limited.delay(key)
    moments = sorted(side.noted(key, 7))
    return moments[-1] - moments[0] >= 1.0  # three seconds, less what held up the first


@rows.row('`rate_limit="2/s"`', plain="at most so many starts on each worker", expect=True)
def rate_limit(side: Side) -> Any:
    return _spaced(side, side.rate_limited)


@rows.row("`control.rate_limit(…)`", plain="changes it from now on", expect=True)
def rate_limit_by_control(side: Side) -> Any:
    side.app.control.rate_limit("compat.rate_limited_later", "2/s", destination=[side.node], reply=True)
    return _spaced(side, side.rate_limited_later)


@rows.row("`revoke()` before it starts", plain="it never runs; `REVOKED`", expect=["REVOKED", "TaskRevokedError: revoked", []],
          note="Workers keep revoked ids in memory; a cancelled work is a row, and what waits for it is cancelled too.",
          postgresql=True)  # fmt: skip
def revoke(side: Side) -> Any:
    result = side.count_runs.apply_async(countdown=3)
    result.revoke()
    return [side.state(result), side.failure(result), side.notes(result)]


@rows.row("`control.revoke([id, …])`", plain="likewise, several", expect=["REVOKED", "REVOKED"])
def revoke_several(side: Side) -> Any:
    results = [side.count_runs.apply_async(countdown=3) for _ in range(2)]
    side.app.control.revoke([each.id for each in results])
    return [side.state(each) for each in results]


@rows.row(
    "`revoke()` of a running task", plain="it runs on, and its result counts", expect=["SUCCESS", "done"],
    differs=Differs(shows=["REVOKED", "TaskRevokedError: revoked"],
                    worker="it is cancelled: asked to stop (`self.is_stopped`), and its result doesn’t count",
                    because="A cancelled work is final, whatever its run still does."),
)  # fmt: skip
def revoke_running(side: Side) -> Any:
    result = side.wait_for.delay(key := side.new_id())
    side.noted(result)
    result.revoke(wait=True, timeout=5)
    side.note(key)
    side.ended(result)
    return [result.state, shown(result.result) if side.is_worker else result.result]


@rows.row(
    "`revoke(terminate=True)` of a running task",
    plain="its process is ended; `REVOKED`",
    expect=["REVOKED", "TaskRevokedError", True],
    postgresql=True,
)
def terminate(side: Side) -> Any:
    return _terminated(side, terminate=True)


@rows.row('`revoke(terminate=True, signal="SIGKILL")`', plain="likewise", expect=["REVOKED", "TaskRevokedError", True])
def kill(side: Side) -> Any:
    return _terminated(side, terminate=True, signal="SIGKILL")


def _terminated(side: Side, **options: Any) -> Any:
    result = side.endless.delay()
    [[_, pid]] = side.noted(result)
    result.revoke(**options)
    error = side.failure(result).partition(":")[0]
    until(lambda: not _alive(pid), "its process ends")
    return [result.state, error, True]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@rows.row("`control.terminate(id)`", plain="likewise", expect="REVOKED")
def control_terminate(side: Side) -> Any:
    result = side.endless.delay()
    side.noted(result)
    side.app.control.terminate(result.id)
    return side.state(result)


@rows.row("`control.revoke_by_stamped_headers({…})`", plain="revokes tasks with the stamp", expect="REVOKED")
def revoke_by_stamp(side: Side) -> Any:
    mark = side.new_id()
    result = side.count_runs.apply_async(countdown=3, stamped_headers=["mark"], mark=[mark])
    side.app.control.revoke_by_stamped_headers({"mark": [mark]})
    return side.state(result)


@rows.row("`get()` of a revoked task", plain="raises `TaskRevokedError`", expect="TaskRevokedError")
def get_revoked(side: Side) -> Any:
    result = side.count_runs.apply_async(countdown=3)
    result.revoke()
    side.ended(result)
    try:
        result.get(timeout=1)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return "returned"


@rows.row(
    "`acks_late`",
    plain="the message is acknowledged after the run",
    expect=[1, "ValueError: no"],
    note="Works behave so always: a run that is lost is repeated.",
)
def acks_late(side: Side) -> Any:
    return [side.get(side.acked_late.delay(1)), side.failure(side.failing_late.delay())]


@rows.row("its process is killed", plain="`WorkerLostError`, it doesn’t run again", expect=["WorkerLostError", 1],
          differs=Differs(shows=["the second time", 2], worker="runs again (up to `workmanager_max_interruptions` times)",
                          because="A work that was accepted runs to its end."), postgresql=True)  # fmt: skip
def lost(side: Side) -> Any:
    result = side.dying.delay()
    outcome = side.get(result) if side.is_worker else side.failure(result).partition(":")[0]
    return [outcome, len(side.notes(result))]


@rows.row("… with `acks_late` and `reject_on_worker_lost`", plain="runs again", expect=["the second time", 2])
def lost_late(side: Side) -> Any:
    result = side.dying_late.delay()
    return [side.get(result), len(side.notes(result))]
