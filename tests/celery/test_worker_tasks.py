"""Worker: what a task's code can do and see inside a run, and outside of one."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from celery.backends.base import DisabledBackend
from pydantic import BaseModel

from celery_workmanager.clock import SystemClock
from celery_workmanager.errors import DataTooLarge, NotInitialized, UnsupportedOperation
from celery_workmanager.outcome import Ending
from celery_workmanager.work import Result, StopReason, WorkError
from celery_workmanager.worker import Worker
from tests.celery.in_process import InProcess


@pytest.fixture
def here() -> InProcess:
    return InProcess()


def output_of(outcome: Any) -> Any:
    assert outcome.ending is Ending.SUCCEEDED, outcome.error
    return json.loads(outcome.output)


def error_of(outcome: Any) -> WorkError:
    assert outcome.error is not None
    return WorkError.from_json(outcome.error)


class TestInside:
    def test_a_run_knows_its_work(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> Any:
            return {
                "id": self.work_id == self.request.id, "tags": sorted(self.tags), "count": self.run_attempt_count,
                "generation": self.generation, "retries": self.request.retries, "stopped": self.is_stopped,
                "reason": self.stop_reason.name, "input": self.input_data.to_dict(),
            }  # fmt: skip

        facts = {"run_attempt_count": 2, "generation": 3, "options": {"tags": ["red"]}}
        assert output_of(here.run(worker, {"a": 1}, claim=facts)) == {
            "id": True, "tags": sorted(["red", worker.name]), "count": 2, "generation": 3, "retries": 2,
            "stopped": False, "reason": "NOT_STOPPED", "input": {"a": 1},
        }  # fmt: skip

    def test_input_of_a_call_is_its_keywords(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any, a: int) -> Any:
            return self.input_data.to_dict()

        assert output_of(here.call(worker, a=1)) == {"a": 1}

    def test_progress_is_in_the_slot(self, here: InProcess) -> None:
        seen = []

        @here.task(bind=True)
        def worker(self: Any) -> None:
            self.set_progress(percent=10)
            self.set_progress({"percent": 20}, more="ü")
            seen.append(here.slots.read_progress(here.slot))

        output_of(here.run(worker))
        assert json.loads(seen[0][1]) == {"percent": 20, "more": "ü"}  # type: ignore[index]

    def test_progress_has_the_limit_of_data(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> None:
            with pytest.raises(DataTooLarge):
                self.set_progress(text="x" * 1000)

        assert output_of(here.run(worker)) == {}

    def test_a_call_of_a_worker_inside_a_run_is_a_plain_call(self, here: InProcess) -> None:
        @here.task(bind=True)
        def inner(self: Any, a: int) -> Any:
            return a + 1

        @here.task(bind=True)
        def outer(self: Any, a: int = 0) -> Any:
            return a or {"inner": inner(1), "self": self(2)}

        assert output_of(here.run(outer)) == {"inner": 2, "self": 2}

    def test_a_class_worker(self, here: InProcess) -> None:
        class Cleanup(Worker):
            name = "images.cleanup"

            def do_work(self) -> Result:
                return Result.success(folder=self.input_data["folder"])

        worker = here.app.register_task(Cleanup())
        assert output_of(here.run(worker, {"folder": "x"})) == {"folder": "x"}
        assert output_of(here.call(worker, folder="y")) == {"folder": "y"}

    def test_a_class_that_does_nothing_says_what_it_lacks(self, here: InProcess) -> None:
        class Idle(Worker):
            name = "idle"

        outcome = here.run(here.app.register_task(Idle()))
        assert "expected worker 'idle' to override do_work()" in error_of(outcome).message


class TestOutside:
    def test_there_is_no_work(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> Any:
            return self.is_stopped, self.stop_reason

        assert worker() == (False, StopReason.NOT_STOPPED)
        for name in ("work_id", "input_data", "tags", "run_attempt_count", "generation"):
            with pytest.raises(UnsupportedOperation, match="expected to be inside a run"):
                getattr(worker, name)
        with pytest.raises(UnsupportedOperation):
            worker.set_progress(a=1)

    def test_a_plain_call_returns_what_the_function_returns(self, here: InProcess) -> None:
        @here.task()
        def worker(a: int) -> Any:
            return Result.success(a=a)

        @here.task()
        async def coroutine(a: int) -> int:
            return a

        assert worker(1) == Result.success(a=1)
        assert asyncio.run(coroutine(2)) == 2

    def test_eager_calls_are_celerys(self, here: InProcess) -> None:
        here.app.conf.task_always_eager = True

        @here.task(bind=True)
        def worker(self: Any, a: int) -> Any:
            return {"a": a, "eager": self.request.is_eager, "run": self.is_stopped}

        @here.task()
        async def coroutine(a: int) -> Any:
            return Result.success(a=a)

        assert worker.delay(1).get() == {"a": 1, "eager": True, "run": False}
        assert coroutine.apply((2,)).get() == {"a": 2}

    def test_without_a_manager_a_call_says_so(self, here: InProcess) -> None:
        @here.task()
        def worker() -> None: ...

        with pytest.raises(NotInitialized):
            worker.delay()


class TestStopping:
    def test_on_stopped_is_called_once_while_the_worker_goes_on(self, here: InProcess) -> None:
        told = threading.Event()
        calls: list[tuple[str, bool]] = []

        class Listener(Worker):
            def on_stopped(self) -> None:
                calls.append((self.work_id, self.is_stopped))
                told.set()

        @here.task(base=Listener)
        def worker() -> None:
            here.stop()
            assert told.wait(10)

        outcome = here.run(worker)
        assert (outcome.ending, outcome.reason) == (Ending.STOPPED, StopReason.CANCELLED_BY_APP)
        assert len(calls) == 1
        assert calls[0][1] is True

    def test_on_stopped_is_not_called_without_a_stop(self, here: InProcess) -> None:
        class Listener(Worker):
            def on_stopped(self) -> None:
                raise AssertionError

        @here.task(base=Listener)
        def worker() -> None: ...

        assert output_of(here.run(worker)) == {}


class TestCoroutines:
    def test_a_coroutine_runs_to_its_end(self, here: InProcess) -> None:
        @here.task(bind=True)
        async def worker(self: Any, a: int) -> Any:
            await asyncio.sleep(0)
            return {"a": a, "id": self.work_id == self.request.id}

        for _ in range(2):
            assert output_of(here.run(worker, {"a": 1})) == {"a": 1, "id": True}

    def test_each_run_is_itself_in_the_shared_loop(self, here: InProcess) -> None:
        @here.task(bind=True)
        async def worker(self: Any) -> Any:
            return {"inner": await asyncio.to_thread(lambda: self.work_id) == self.work_id, "id": self.work_id}

        first, second = output_of(here.run(worker)), output_of(here.run(worker))
        assert first["inner"] is second["inner"] is True
        assert first["id"] != second["id"]

    def test_a_class_worker_may_be_a_coroutine(self, here: InProcess) -> None:
        class Sync(Worker):
            name = "sync"

            async def do_work(self) -> Result:
                await asyncio.sleep(0)
                return Result.success(a=1)

        assert output_of(here.run(here.app.register_task(Sync()))) == {"a": 1}

    def test_a_stop_cancels_it_after_on_stopped(self, here: InProcess) -> None:
        order: list[str] = []

        class Listener(Worker):
            def on_stopped(self) -> None:
                order.append("on_stopped")

        @here.task(base=Listener)
        async def worker() -> None:
            here.stop(StopReason.PREEMPT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                order.append("cancelled")
                raise

        outcome = here.run(worker)
        assert order == ["on_stopped", "cancelled"]
        assert (outcome.ending, outcome.reason) == (Ending.STOPPED, StopReason.PREEMPT)

    def test_a_coroutine_that_cancels_itself_fails(self, here: InProcess) -> None:
        @here.task()
        async def worker() -> None:
            raise asyncio.CancelledError

        assert "it was cancelled" in error_of(here.run(worker)).message

    def test_what_it_leaves_behind_does_not_wake_up_in_the_next_run(self, here: InProcess) -> None:
        woken: list[str] = []

        @here.task()
        async def leaves() -> None:
            async def later() -> None:
                await asyncio.sleep(0.01)
                woken.append("x")

            asyncio.ensure_future(later())  # noqa: RUF006  # that is the point

        @here.task()
        async def follows() -> None:
            await asyncio.sleep(0.05)

        here.run(leaves)
        assert output_of(here.run(follows)) == {}
        assert not woken

    def test_autoretry_sees_its_exceptions(self, here: InProcess) -> None:
        @here.task(autoretry_for=(ValueError,))
        async def worker() -> None:
            raise ValueError

        assert here.run(worker).ending is Ending.RETRY


class TestRetry:
    @pytest.mark.parametrize(("options", "after"), [({}, None), ({"countdown": 5}, 5.0)])
    def test_retry_runs_the_same_work_again(self, here: InProcess, options: Any, after: float | None) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> None:
            raise self.retry(**options)

        outcome = here.run(worker)
        assert (outcome.ending, outcome.after) == (Ending.RETRY, after)

    def test_retry_cannot_change_input_data(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> None:
            self.retry(args=(1,))

        assert error_of(here.run(worker)).exc_type == "UnsupportedOperation"

    @pytest.mark.parametrize(
        ("changed", "next_kwargs"),
        [
            ({"args": (3,)}, {"x": 3, "y": 2}),
            ({"kwargs": {"y": 5}}, {"x": 1, "y": 5}),
            ({"args": (3,), "kwargs": {}}, {"x": 3}),
        ],
    )
    def test_retry_can_change_the_arguments_of_a_call(self, here: InProcess, changed: Any, next_kwargs: Any) -> None:
        @here.task(bind=True)
        def worker(self: Any, x: int, y: int = 0) -> None:
            raise self.retry(**changed)

        outcome = here.call(worker, x=1, y=2)
        assert outcome.ending is Ending.RETRY
        assert json.loads(outcome.output or "") == {"args": [], "kwargs": next_kwargs, "complete": True}

    def test_changed_arguments_of_any_number_stay_in_order(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any, *numbers: int, **named: int) -> None:
            raise self.retry(kwargs={"z": 9})

        outcome = here.call(worker, 1, 2, y=3)
        assert json.loads(outcome.output or "") == {"args": [1, 2], "kwargs": {"z": 9}, "complete": True}

    def test_changed_arguments_have_a_limit_too(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any, text: str) -> None:
            raise self.retry(args=("x" * 3000,))

        assert error_of(here.call(worker, text="")).exc_type == "DataTooLarge"

    def test_max_retries_ends_in_the_exception(self, here: InProcess) -> None:
        @here.task(bind=True, max_retries=2)
        def worker(self: Any, known: bool) -> None:
            self.retry(exc=ValueError("x") if known else None)

        def ended(known: bool, count: int) -> Any:
            return here.run(worker, {"known": known}, claim={"run_attempt_count": count})

        assert ended(True, 1).ending is Ending.RETRY
        assert error_of(ended(True, 2)).exc_type == "ValueError"
        assert error_of(ended(False, 2)).exc_type == "MaxRetriesExceededError"

    def test_autoretry_for_is_a_retry(self, here: InProcess) -> None:
        @here.task(autoretry_for=(KeyError,), retry_backoff=3, retry_jitter=False)
        def worker() -> None:
            raise KeyError

        outcome = here.run(worker, claim={"run_attempt_count": 1})
        assert (outcome.ending, outcome.after) == (Ending.RETRY, 6.0)


class Picture(BaseModel):
    path: str
    level: int = 1


class TestPydantic:
    def test_models_come_in_and_go_out(self, here: InProcess) -> None:
        @here.task()
        def worker(picture: Picture, other: Picture | None = None) -> Picture:
            assert isinstance(picture, Picture)
            return picture.model_copy(update={"level": picture.level + 1})

        assert output_of(here.run(worker, {"picture": {"path": "x"}})) == {"path": "x", "level": 2}
        assert output_of(here.call(worker, picture={"path": "x"}, other={"path": "y"})) == {"path": "x", "level": 2}

    def test_input_that_is_not_valid_fails_the_work(self, here: InProcess) -> None:
        @here.task()
        def worker(picture: Picture) -> None: ...

        outcome = here.run(worker, {"picture": {"level": "much"}})
        assert (outcome.ending, error_of(outcome).exc_type) == (Ending.FAILED, "ValidationError")
        assert outcome.started_at is None


class Manager:
    """What a worker asks of the manager."""

    def __init__(self, app: Any) -> None:
        self.completed: list[Any] = []
        self.enqueued: list[Any] = []
        self.result_backend = DisabledBackend(app)
        self.clock = SystemClock()

    def complete_run(self, *facts: Any) -> None:
        self.completed.append(facts)

    def enqueue_call(self, request: Any) -> None:
        self.enqueued.append(request)


class TestComplete:
    @pytest.mark.parametrize(
        ("result", "ending", "output"),
        [
            ({"a": 1}, Ending.SUCCEEDED, '{"a":1}'),
            (None, Ending.SUCCEEDED, "{}"),
            (Result.failure(b=1), Ending.FAILED, '{"b":1}'),
        ],
    )
    def test_the_run_ends_as_it_was_completed(self, here: InProcess, result: Any, ending: Ending, output: str) -> None:
        here.app.workmanager = manager = Manager(here.app)
        connection = object()

        @here.task(bind=True)
        def worker(self: Any) -> Any:
            self.complete(connection, result)
            return {"ignored": True}

        outcome = here.run(worker)
        assert (outcome.ending, outcome.output) == (ending, output)
        ((given, claim, completed),) = manager.completed
        assert given is connection
        assert (claim.worker, claim.queue, completed.ending, completed.output) == (worker.name, "q", ending, output)

    def test_an_exception_after_it_counts(self, here: InProcess) -> None:
        """It usually rolls the caller's transaction back; when it doesn't, the store has the completion already."""
        here.app.workmanager = Manager(here.app)

        @here.task(bind=True)
        def worker(self: Any) -> Any:
            self.complete(None)
            raise ValueError

        assert here.run(worker).ending is Ending.FAILED

    def test_a_retry_cannot_be_committed(self, here: InProcess) -> None:
        @here.task(bind=True)
        def worker(self: Any) -> Any:
            self.complete(None, Result.retry())

        assert error_of(here.run(worker)).exc_type == "UnsupportedOperation"


def test_a_call_is_enqueued_and_gives_its_async_result(here: InProcess) -> None:
    here.app.workmanager = manager = Manager(here.app)

    @here.task()
    def worker(a: int) -> None: ...

    result = worker.apply_async((1,), task_id="mine", countdown=5)
    assert result.id == "mine"
    assert manager.enqueued[0].id == "mine"
    assert manager.enqueued[0].initial_delay.total_seconds() == 5
