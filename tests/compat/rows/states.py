"""Custom states, Ignore, Reject, abortable tasks."""

from __future__ import annotations

import time
from typing import Any

from celery.contrib.abortable import AbortableTask
from celery.exceptions import Ignore, Reject

from tests.compat.apps import task
from tests.compat.journal import note, notes
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, shown, until

rows = Group("States")


def _wait(key: str) -> None:
    """Run until somebody leaves a note under a key."""
    end = time.monotonic() + 15
    while not notes(key) and time.monotonic() < end:
        time.sleep(0.02)


@task(bind=True)
def progressing(self: Any, key: str, meta: Any) -> str:
    self.update_state(state="PROGRESS", meta=meta)
    note(self.request.id, "told")
    _wait(key)
    return "done"


@task(bind=True, track_started=True)
def tracked(self: Any, key: str) -> str:
    note(self.request.id, "running")
    _wait(key)
    return "done"


@task(bind=True)
def ignoring(self: Any) -> None:
    note(self.request.id, "ran")
    raise Ignore


@task(bind=True)
def ignoring_with_state(self: Any) -> None:
    self.update_state(state="CUSTOM", meta={"why": "because"})
    note(self.request.id, "ran")
    raise Ignore


@task(bind=True)
def failing_by_state(self: Any) -> None:
    self.update_state(state="FAILURE", meta={"exc_type": "Strange", "exc_message": "my own words"})
    raise Ignore


@task(bind=True, acks_late=True)
def rejecting(self: Any) -> None:
    note(self.request.id, "ran")
    raise Reject("no", requeue=False)


@task(bind=True, acks_late=True)
def requeueing(self: Any) -> str:
    note(self.request.id, "ran")
    if len(notes(self.request.id)) < 3:
        raise Reject("later", requeue=True)
    return "in the end"


@task(bind=True, acks_late=True)
def requeueing_once(self: Any) -> str:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("later", requeue=True)
    return "redelivered"


@task(bind=True, acks_late=True)
def requeueing_and_retrying(self: Any) -> list[bool]:
    note(self.request.id, self.request.delivery_info["redelivered"])
    if len(notes(self.request.id)) == 1:
        raise Reject("later", requeue=True)
    if len(notes(self.request.id)) == 2:
        raise self.retry(countdown=0)
    return notes(self.request.id)


@task(bind=True, mixin=AbortableTask)
def abortable(self: Any) -> str:
    note(self.request.id, "running")
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if self.is_aborted():
            return "aborted"
        time.sleep(0.03)
    return "ran to the end"


@task(bind=True)
def inform(self: Any, other: str) -> None:
    """Tell a state of another task."""
    self.update_state(task_id=other, state="TOLD", meta={"by": "another"})


def _shown_while_running(side: Side, meta: Any) -> Any:
    result = side.progressing.delay(key := side.new_id(), meta)
    until(lambda: result.state == "PROGRESS", "the state is there")
    seen = [result.state, result.info, result.ready()]
    side.note(key)
    return [*seen, side.get(result), result.state]


@rows.row(
    "`self.update_state(state=…, meta={…})`", plain="state and `info` of the result, until the end",
    expect=["PROGRESS", {"current": 5, "total": 10}, False, "done", "SUCCESS"], postgresql=True,
    note="The `progress` of a work’s `WorkInfo`.",
)  # fmt: skip
def update_state(side: Side) -> Any:
    return _shown_while_running(side, {"current": 5, "total": 10})


@rows.row("… `meta` that is no dict", plain="likewise", expect=["PROGRESS", [5, 10], False, "done", "SUCCESS"])
def update_state_list(side: Side) -> Any:
    return _shown_while_running(side, [5, 10])


@rows.row("… without `meta`", plain="`info` is `None`", expect=["PROGRESS", None, False, "done", "SUCCESS"])
def update_state_bare(side: Side) -> Any:
    return _shown_while_running(side, None)


@rows.row("… of another task (`task_id=…`)", plain="likewise", expect=["TOLD", {"by": "another"}])
def update_other(side: Side) -> Any:
    result = side.add.apply_async((1, 2), countdown=30)
    side.get(side.inform.delay(result.id))
    seen = [result.state, result.info]
    result.revoke()
    return seen


@rows.row(
    "`track_started=True`", plain="`STARTED`, with process and host as `info`", expect=["STARTED", ["hostname", "pid"]],
    differs=Differs(shows=["STARTED", "RUNNING"], worker="`STARTED` without asking; `info` is the `WorkInfo` as a dict",
                    because="The start of a work is written anyway, and more is known."),
)  # fmt: skip
def track_started(side: Side) -> Any:
    result = side.tracked.delay(key := side.new_id())
    until(lambda: result.state == "STARTED", "it is shown as started")
    info = result.info["state"] if side.is_worker else sorted(result.info)
    side.note(key)
    side.get(result)
    return ["STARTED", info]


@rows.row(
    "`raise Ignore()`", plain="no state is stored: `PENDING` for ever", expect=["ran", "PENDING"],
    differs=Differs(shows=["ran", "SUCCESS"], worker="succeeds, with nothing as its result",
                    because="Every work ends in a state, so that what waits for it can go on."),
)  # fmt: skip
def ignore(side: Side) -> Any:
    result = side.ignoring.delay()
    [ran] = side.noted(result)
    if side.is_worker:
        side.ended(result)
    return [ran, result.state]


@rows.row(
    "`update_state(…)`, then `raise Ignore()`", plain="the state stays", expect=["CUSTOM", {"why": "because"}],
    differs=Differs(shows=["SUCCESS", None], worker="succeeds, with nothing as its result", because="As above."),
)  # fmt: skip
def ignore_with_state(side: Side) -> Any:
    result = side.ignoring_with_state.delay()
    side.noted(result)
    until(lambda: result.state not in ("PENDING", "STARTED"), "a state is there")
    if side.is_worker:
        side.ended(result)
    return [result.state, result.info]


@rows.row(
    '`update_state(FAILURE, {"exc_type": …})`, then `raise Ignore()`', plain="fails with that exception",
    expect=["FAILURE", "Strange: my own words"],
)  # fmt: skip
def fail_by_state(side: Side) -> Any:
    result = side.failing_by_state.delay()
    return [side.state(result), shown(result.result)]


@rows.row(
    "`raise Reject(requeue=False)`, with `acks_late`", plain="fails, and the message goes to the dead letters",
    expect=["ran", "FAILURE", "Reject"], note="A state is stored since Celery 5.7.",
)  # fmt: skip
def reject(side: Side) -> Any:
    result = side.rejecting.delay()
    side.ended(result)
    return [*side.notes(result), result.state, shown(result.result).partition(":")[0]]


@rows.row(
    "`raise Reject(requeue=True)`, with `acks_late`",
    plain="runs again at once",
    expect=[["ran", "ran", "ran"], "in the end"],
)
def requeue(side: Side) -> Any:
    result = side.requeueing.delay()
    value = side.get(result)
    return [side.notes(result), value]


@rows.row(
    "… the run that follows",
    plain="sees `redelivered` in `request.delivery_info`; a retry after it doesn’t",
    expect=["redelivered", [False, True, False]],
)
def redelivered(side: Side) -> Any:
    return [side.get(side.requeueing_once.delay()), side.get(side.requeueing_and_retrying.delay())]


@rows.row(
    "`AbortableTask`: `abort()`, `is_aborted()`",
    plain="the task sees it and ends",
    expect=["AbortableAsyncResult", "aborted", "SUCCESS"],
)
def abort(side: Side) -> Any:
    result = side.abortable.delay()
    side.noted(result)
    result.abort()
    return [type(result).__name__, side.get(result), result.state]


@rows.row("`backend.store_result(id, …)`", plain="stores a state", expect=["MINE", {"x": 1}])
def store_result(side: Side) -> Any:
    mine = side.new_id()
    side.add.backend.store_result(mine, {"x": 1}, "MINE")
    result = side.add.AsyncResult(mine)
    return [result.state, result.info]
