"""self.retry and autoretry_for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from celery.exceptions import Retry
from celery.signals import task_retry

from tests.compat.apps import task
from tests.compat.journal import note
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, outcome, until

rows = Group("Retries")


def _noted(self: Any) -> int:
    """Note this attempt, and return how many there were before."""
    retries = int(self.request.retries)
    note(self.request.id, [retries, time.time()])
    return retries


@task_retry.connect
def note_retry(request: Any, reason: Retry, **_: Any) -> None:
    """Note the delay that a retry asks for."""
    if request.task.startswith("compat."):
        note(f"{request.id}-retry", reason.when if isinstance(reason.when, int | float) else str(reason.when))


def _attempts(side: Side, result: Any) -> list[int]:
    return [attempt for attempt, _ in side.notes(result)]


def _delays(side: Side, result: Any, count: int = 1) -> list[Any]:
    """The delays (seconds) that the retries asked for."""
    return side.noted(f"{result}-retry", count)


@task(bind=True)
def retry_twice(self: Any) -> int:
    if _noted(self) < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@task(bind=True)
def retry_later(self: Any, seconds: float) -> int:
    if _noted(self) < 1:
        raise self.retry(countdown=seconds)
    return 1


@task(bind=True)
def retry_at(self: Any, seconds: float) -> int:
    if _noted(self) < 1:
        raise self.retry(eta=datetime.now(UTC) + timedelta(seconds=seconds))
    return 1


@task(bind=True)
def retry_by_default(self: Any) -> None:
    _noted(self)
    raise self.retry()


@task(bind=True, default_retry_delay=40)
def retry_after_own_delay(self: Any) -> None:
    _noted(self)
    raise self.retry()


@task(bind=True, max_retries=2)
def give_up(self: Any, with_exc: bool = False) -> None:
    _noted(self)
    raise self.retry(countdown=0, exc=ValueError("cause") if with_exc else None)


@task(bind=True)
def give_up_by_call(self: Any) -> None:
    _noted(self)
    raise self.retry(countdown=0, max_retries=1)


@task(bind=True)
def give_up_after_three(self: Any) -> None:
    _noted(self)
    raise self.retry(countdown=0)


@task(bind=True)
def retry_because(self: Any) -> int:
    try:
        if _noted(self) < 1:
            raise ValueError("cause")
    except ValueError as cause:
        raise self.retry(countdown=0.5, exc=cause) from cause
    return 1


@task(bind=True)
def retry_without_throwing(self: Any) -> str:
    if _noted(self) < 1:
        reason = self.retry(countdown=0, throw=False)
        return type(reason).__name__
    return "second"


@task(bind=True)
def retry_changed(self: Any, x: int, y: int = 0) -> list[int]:
    if _noted(self) < 1:
        raise self.retry(args=(x + 1,), kwargs={"y": 5}, countdown=0)
    return [x, y]


@task(bind=True)
def retry_partly(self: Any, x: int, y: int = 0, change: Any = None) -> list[int]:
    if _noted(self) < 1:
        raise self.retry(**change, countdown=0)
    return [x, y]


@task(bind=True)
def raise_retry(self: Any) -> int:
    if _noted(self) < 1:
        raise self.retry(countdown=0)
    return 1


@task(bind=True, autoretry_for=(ValueError,), retry_kwargs={"countdown": 0, "max_retries": 2})
def auto(self: Any, times: int) -> int:
    if _noted(self) < times:
        raise ValueError("again")
    return int(self.request.retries)


@task(bind=True, autoretry_for=(ValueError,), retry_backoff=True, retry_jitter=False, max_retries=2)
def auto_backoff(self: Any) -> None:
    _noted(self)
    raise ValueError("again")


@task(bind=True, autoretry_for=(ValueError,), retry_backoff=60, retry_backoff_max=30, retry_jitter=False)
def auto_backoff_max(self: Any) -> None:
    raise ValueError("again")


@task(bind=True, autoretry_for=(ValueError,), retry_backoff=600, retry_jitter=True)
def auto_jitter(self: Any) -> None:
    raise ValueError("again")


@task(
    bind=True,
    autoretry_for=(Exception,),
    dont_autoretry_for=(KeyError,),
    retry_kwargs={"countdown": 0, "max_retries": 1},
)
def auto_but(self: Any) -> None:
    _noted(self)
    raise KeyError("no")


@task(bind=True, autoretry_for=(ValueError,), default_retry_delay=40)
def auto_without_backoff(self: Any) -> None:
    raise ValueError("again")


@rows.row("`self.retry()`", plain="runs again; `request.retries` counts", expect=[2, [0, 1, 2]], postgresql=True)
def retry(side: Side) -> Any:
    result = side.retry_twice.delay()
    return [side.get(result), _attempts(side, result)]


@rows.row("`retry(countdown=…)`", plain="after that many seconds", expect=[1, True])
def retry_countdown(side: Side) -> Any:
    result = side.retry_later.delay(0.5)
    value = side.get(result)
    (_, first), (_, second) = side.notes(result)
    return [value, 0.45 <= second - first < 10]


@rows.row("`retry(eta=…)`", plain="at that moment", expect=[1, True])
def retry_eta(side: Side) -> Any:
    result = side.retry_at.delay(0.5)
    value = side.get(result)
    (_, first), (_, second) = side.notes(result)
    return [value, 0.45 <= second - first < 10]


@rows.row(
    "`retry()` without a delay", plain="after `default_retry_delay` (180 seconds)", expect=[180],
    differs=Differs(shows=["None"], worker="after the request’s backoff: 30 seconds, then twice as long each time",
                    because="WorkManager’s default; `default_retry_delay` of a task is heeded when it is set."),
)  # fmt: skip
def retry_default(side: Side) -> Any:
    result = side.retry_by_default.delay()
    delays = _delays(side, result)
    result.revoke()
    return delays


@rows.row("`default_retry_delay`", plain="the delay of `retry()`", expect=[40])
def default_retry_delay(side: Side) -> Any:
    result = side.retry_after_own_delay.delay()
    delays = _delays(side, result)
    result.revoke()
    return delays


@rows.row(
    "`max_retries` of the task", plain="then `MaxRetriesExceededError`", expect=["MaxRetriesExceededError", [0, 1, 2]]
)
def max_retries(side: Side) -> Any:
    result = side.give_up.delay()
    return [side.failure(result).partition(":")[0], _attempts(side, result)]


@rows.row("… with `exc`", plain="then that exception", expect=["ValueError: cause", [0, 1, 2]])
def max_retries_exc(side: Side) -> Any:
    result = side.give_up.delay(with_exc=True)
    return [side.failure(result), _attempts(side, result)]


@rows.row("`retry(max_retries=…)`", plain="the limit of this call", expect=["MaxRetriesExceededError", [0, 1]])
def max_retries_of_call(side: Side) -> Any:
    result = side.give_up_by_call.delay()
    return [side.failure(result).partition(":")[0], _attempts(side, result)]


@rows.row(
    "`max_retries` unset", plain="3", expect=["FAILURE", 4],
    differs=Differs(shows=["PENDING", 5], worker="unlimited", because="As on Android; set `max_retries` where you want an end."),
)  # fmt: skip
def max_retries_unset(side: Side) -> Any:
    result = side.give_up_after_three.delay()
    if not side.is_worker:
        return [side.state(result), len(side.notes(result))]
    side.noted(result, 5)
    result.revoke()
    return ["PENDING", 5]


@rows.row(
    "`retry(exc=…)`", plain="`RETRY` meanwhile, with the exception as `info`", expect=["RETRY", "ValueError: cause", 1]
)
def retry_exc(side: Side) -> Any:
    result = side.retry_because.delay()
    until(lambda: result.state == "RETRY", "it waits for its retry")
    info = f"{type(result.info).__name__}: {result.info}"
    return ["RETRY", info, side.get(result)]


@rows.row(
    "`retry(throw=False)`", plain="returns the `Retry`; the task goes on, and runs again besides", expect=2,
    differs=Differs(shows=1, worker="returns the `Retry`; the run goes on and what it returns is the result",
                    because="One work has one outcome: raise the `Retry` for another run."),
)  # fmt: skip
def retry_throw(side: Side) -> Any:
    result = side.retry_without_throwing.delay()
    if side.is_worker:
        assert side.get(result) == "Retry"
        return len(side.notes(result))
    return len(side.noted(result, 2))


@rows.row("`retry(args=…, kwargs=…)`", plain="runs again with these", expect=[[2, 5], [4, 5]], postgresql=True)
def retry_with_other_arguments(side: Side) -> Any:
    alone = side.get(side.retry_changed.delay(1))
    return [alone, side.get((side.add.s(1, 2) | side.retry_changed.s()).apply_async())]


@rows.row("… one of them", plain="what isn’t given stays", expect=[[2, 7], [1, 8]], note="Celery 5.7.")
def retry_with_one_other_argument(side: Side) -> Any:
    first = side.get(side.retry_partly.delay(1, y=7, change={"args": [2]}))
    return [first, side.get(side.retry_partly.delay(1, y=7, change={"kwargs": {"y": 8, "change": None}}))]


@rows.row("`retry()` of a direct call", plain="raises the exception, or `Retry`", expect="raises Retry")
def retry_direct(side: Side) -> Any:
    return outcome(side.raise_retry)


@rows.row("`autoretry_for`", plain="retries on these exceptions", expect=[2, [0, 1, 2]], postgresql=True)
def autoretry(side: Side) -> Any:
    result = side.auto.delay(2)
    return [side.get(result), _attempts(side, result)]


@rows.row(
    '… `retry_kwargs={"max_retries": …}`', plain="then the exception itself", expect=["ValueError: again", [0, 1, 2]]
)
def autoretry_exhausted(side: Side) -> Any:
    result = side.auto.delay(9)
    return [side.failure(result), _attempts(side, result)]


@rows.row("… `retry_backoff`", plain="1, 2, 4 … seconds", expect=[[1, 2], [True, True]])
def backoff(side: Side) -> Any:
    result = side.auto_backoff.delay()
    side.ended(result)
    moments = [moment for _, moment in side.notes(result)]
    waited = [later - earlier for earlier, later in pairwise(moments)]
    delays = _delays(side, result, 2)
    return [delays, [delay - 0.05 <= each < delay + 10 for delay, each in zip(delays, waited, strict=True)]]


@rows.row("… `retry_backoff_max`", plain="at most so many seconds", expect=[30])
def backoff_max(side: Side) -> Any:
    result = side.auto_backoff_max.delay()
    delays = _delays(side, result)
    result.revoke()
    return delays


@rows.row("… `retry_jitter`", plain="a random part of the delay", expect=[True])
def jitter(side: Side) -> Any:
    result = side.auto_jitter.delay()
    delays = _delays(side, result)
    result.revoke()
    return [0 <= delay <= 600 for delay in delays]


@rows.row("… without `retry_backoff`", plain="after `default_retry_delay`", expect=[40])
def autoretry_default(side: Side) -> Any:
    result = side.auto_without_backoff.delay()
    delays = _delays(side, result)
    result.revoke()
    return delays


@rows.row("… `dont_autoretry_for`", plain="fails at once on these", expect=["KeyError: 'no'", [0]])
def dont_autoretry(side: Side) -> Any:
    result = side.auto_but.delay()
    return [side.failure(result), _attempts(side, result)]
