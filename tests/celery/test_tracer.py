"""What a run's return value, exception or input means for its work."""

from __future__ import annotations

import gc
import json
import logging
import sys
import uuid
import weakref
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from celery import signals
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_workmanager.data import Data
from celery_workmanager.mergers import ArrayCreatingInputMerger, merger_path
from celery_workmanager.outcome import Ending
from celery_workmanager.work import Result, StopReason, WorkError
from celery_workmanager.worker import Worker
from tests.celery.in_process import InProcess, receiving


@pytest.fixture
def here() -> InProcess:
    return InProcess()


def returning(here: InProcess, value: Any) -> Any:
    @here.task(name=f"returns-{uuid.uuid4()}")
    def worker() -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return worker


class Heavy(Exception):
    made: ClassVar[list[weakref.ref[Exception]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(weakref.ref(self))


def error_of(outcome: Any) -> WorkError:
    assert outcome.error is not None
    return WorkError.from_json(outcome.error)


class TestReturnValues:
    @pytest.mark.parametrize(
        ("value", "output"),
        [
            (None, {}),
            ({"a": 1}, {"a": 1}),
            (Data(a=[1, 2]), {"a": [1, 2]}),
            (5, {"result": 5}),
            ([1, "x"], {"result": [1, "x"]}),
            (False, {"result": False}),
            (Result.success(), {}),
            (Result.success(a="ü"), {"a": "ü"}),
        ],
    )
    def test_a_success(self, here: InProcess, value: Any, output: Any) -> None:
        outcome = here.run(returning(here, value))
        assert outcome.ending is Ending.SUCCEEDED
        assert json.loads(outcome.output or "") == output
        assert outcome.started_at is not None
        assert outcome.error is None

    def test_a_failure_has_output_and_no_error(self, here: InProcess) -> None:
        outcome = here.run(returning(here, Result.failure(why="no")))
        assert (outcome.ending, outcome.output, outcome.error) == (Ending.FAILED, '{"why":"no"}', None)

    @pytest.mark.parametrize(("after", "seconds"), [(None, None), (timedelta(minutes=1), 60.0), (0, 0.0)])
    def test_a_retry(self, here: InProcess, after: Any, seconds: float | None) -> None:
        outcome = here.run(returning(here, Result.retry(after)))
        assert (outcome.ending, outcome.after) == (Ending.RETRY, seconds)

    def test_what_is_not_json_fails_the_work(self, here: InProcess) -> None:
        outcome = here.run(returning(here, {"at": datetime(2020, 1, 1, tzinfo=UTC)}))
        assert outcome.ending is Ending.FAILED
        assert error_of(outcome).exc_type == "DataNotStorable"
        assert "output_data" in error_of(outcome).message

    def test_what_is_too_large_fails_the_work(self, here: InProcess) -> None:
        outcome = here.run(returning(here, {"a": "x" * 1000}))
        assert outcome.ending is Ending.FAILED
        assert error_of(outcome).exc_type == "DataTooLarge"

    def test_a_large_output_travels_beside_the_slot(self) -> None:
        here = InProcess(data_max_bytes=100_000)
        outcome = here.run(returning(here, {"a": "x" * 50_000}))
        assert outcome.ending is Ending.SUCCEEDED
        assert len(outcome.output or "") > 50_000


class TestExceptions:
    def test_an_exception_fails_the_work_with_its_traceback(self, here: InProcess) -> None:
        outcome = here.run(returning(here, ValueError("no such cat")))
        assert outcome.ending is Ending.FAILED
        error = error_of(outcome)
        assert str(error) == "ValueError: no such cat"
        assert "in worker" in error.traceback

    @pytest.mark.parametrize("cause", [None, KeyError("cause")])
    def test_an_exception_is_gone_with_its_run_and_need_not_be_collected(
        self, here: InProcess, caplog: pytest.LogCaptureFixture, cause: Any
    ) -> None:
        @here.task(name=f"heavy-{cause}")
        def worker() -> None:
            raise Heavy from cause

        caplog.set_level(logging.CRITICAL)  # what is logged is kept, with its exception
        Heavy.made.clear()
        gc.disable()
        try:
            assert here.run(worker).ending is Ending.FAILED
            assert [each() for each in Heavy.made] == [None] * len(Heavy.made)
        finally:
            gc.enable()
        assert Heavy.made

    def test_an_exception_that_cannot_be_pickled_fails_the_work(self, here: InProcess) -> None:
        class Local(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("not me")

        outcome = here.run(returning(here, Local("x")))
        assert outcome.ending is Ending.FAILED
        assert "Local" in error_of(outcome).exc_type

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
    def test_what_is_no_ordinary_exception_fails_the_work_too(self, here: InProcess, error: BaseException) -> None:
        outcome = here.run(returning(here, error))
        assert outcome.ending is Ending.FAILED
        assert error_of(outcome).exc_type == type(error).__name__

    def test_a_soft_time_limit_that_nobody_catches_fails_the_work(self, here: InProcess) -> None:
        outcome = here.run(returning(here, SoftTimeLimitExceeded()))
        assert (outcome.ending, error_of(outcome).exc_type) == (Ending.FAILED, "SoftTimeLimitExceeded")

    def test_celerys_own_exceptions(self, here: InProcess) -> None:
        assert here.run(returning(here, Ignore())).ending is Ending.SUCCEEDED
        assert here.run(returning(here, Reject("busy", requeue=True))).ending is Ending.RETRY
        rejected = here.run(returning(here, Reject("bad", requeue=False)))
        assert (rejected.ending, error_of(rejected).exc_type) == (Ending.FAILED, "Reject")
        assert here.run(returning(here, Retry(when=7))).after == 7
        until = here.run(returning(here, Retry(when=datetime.now(UTC) + timedelta(seconds=60)))).after
        assert until is not None
        assert 50 < until <= 60

    def test_hooks_of_the_task_are_celerys(self, here: InProcess) -> None:
        seen: list[str] = []

        class Hooked(Worker):
            def on_failure(self, exc: Any, *_: Any) -> None:
                seen.append(f"failure {exc}")

            def on_success(self, retval: Any, *_: Any) -> None:
                seen.append(f"success {retval}")

            def on_retry(self, *_: Any) -> None:
                seen.append("retry")

        @here.task(base=Hooked)
        def hooked(what: str) -> Any:
            if what == "fail":
                raise ValueError("x")
            return {"ok": Result.success(a=1), "retry": Result.retry(), "failure": Result.failure()}[what]

        for what in ("ok", "fail", "retry", "failure"):
            here.run(hooked, {"what": what})
        assert seen == ["success {'a': 1}", "failure x", "retry", "failure the worker returned a failure"]

    def test_signals_agree_with_the_outcome(self, here: InProcess) -> None:
        worker = returning(here, object())
        with receiving(signals.task_success) as succeeded, receiving(signals.task_failure) as failed:
            assert here.run(worker).ending is Ending.FAILED
        assert not succeeded, "it could not be stored, so nobody is told that it succeeded"
        assert len(failed) == 1


class TestInputs:
    def test_a_function_gets_the_keys_it_takes(self, here: InProcess) -> None:
        @here.task(bind=True)
        def takes(self: Any, a: int, *, b: int = 2) -> Any:
            return {"a": a, "b": b, "all": self.input_data.to_dict()}

        outcome = here.run(takes, {"a": 1, "c": 3})
        assert json.loads(outcome.output or "") == {"a": 1, "b": 2, "all": {"a": 1, "c": 3}}

    def test_a_function_with_any_keywords_gets_them_all(self, here: InProcess) -> None:
        @here.task()
        def takes(**values: int) -> Any:
            return values

        assert json.loads(here.run(takes, {"a": 1, "c": 3}).output or "") == {"a": 1, "c": 3}

    def test_a_missing_argument_fails_the_work(self, here: InProcess) -> None:
        @here.task()
        def takes(a: int) -> None: ...

        outcome = here.run(takes)
        assert (outcome.ending, error_of(outcome).exc_type) == (Ending.FAILED, "TypeError")
        assert "'a'" in error_of(outcome).message

    def test_outputs_of_prerequisites_replace_the_own_input(self, here: InProcess) -> None:
        @here.task()
        def takes(**values: int) -> Any:
            return values

        outcome = here.run(takes, {"a": 1, "b": 1}, {"b": 2}, {"c": 3})
        assert json.loads(outcome.output or "") == {"a": 1, "b": 2, "c": 3}

    def test_a_merger_is_used(self, here: InProcess) -> None:
        @here.task()
        def takes(**values: int) -> Any:
            return values

        options = {"merger": merger_path(ArrayCreatingInputMerger)}
        outcome = here.run(takes, {}, {"a": 1}, {"a": 2}, claim={"options": options})
        assert json.loads(outcome.output or "") == {"a": [1, 2]}

    @pytest.mark.parametrize(
        ("inputs", "options", "error"),
        [
            (({"a": 1}, {"a": "x"}), {"merger": "array"}, "MergeError"),
            (({}, {}), {"merger": "no.such.module:Merger"}, "InvalidRequest"),
            (({"a": "x" * 600}, {"b": "x" * 600}), {}, "DataTooLarge"),
        ],
    )
    def test_inputs_that_cannot_be_merged_fail_the_work_before_it_starts(
        self, here: InProcess, inputs: Any, options: Any, error: str
    ) -> None:
        outcome = here.run(returning(here, None), *inputs, claim={"options": options})
        assert (outcome.ending, error_of(outcome).exc_type) == (Ending.FAILED, error)
        assert outcome.started_at is None

    def test_an_unknown_worker_fails_the_work(self, here: InProcess) -> None:
        outcome = here.run("nobody")
        assert (outcome.ending, error_of(outcome).exc_type) == (Ending.FAILED, "UnknownWorker")
        assert outcome.started_at is None


class TestCalls:
    def test_arguments_and_value_keep_celerys_types(self, here: InProcess) -> None:
        from kombu.utils.json import loads

        @here.task()
        def add(a: Any, b: Any = 1, *, c: Any = 0) -> Any:
            return {"sum": a + b + c, "price": Decimal("1.5"), "id": uuid.UUID(int=1)}

        outcome = here.call(add, 1, 2, c=3)
        assert loads(outcome.output) == {"sum": 6, "price": Decimal("1.5"), "id": uuid.UUID(int=1)}

    @pytest.mark.parametrize(
        ("value", "output"), [(None, None), (5, 5), (Result.success(a=1), {"a": 1}), (Result.success(), {})]
    )
    def test_the_bare_value_is_the_output(self, here: InProcess, value: Any, output: Any) -> None:
        assert json.loads(here.call(returning(here, value)).output or "") == output

    def test_a_value_that_is_too_large_or_not_json_fails_the_work(self, here: InProcess) -> None:
        large, odd = here.call(returning(here, "x" * 3000)), here.call(returning(here, object()))
        assert large.ending is odd.ending is Ending.FAILED
        assert error_of(large).exc_type == "DataTooLarge"
        assert error_of(odd).exc_type == "DataNotStorable"


class TestStops:
    def test_a_withdrawn_work_never_starts(self, here: InProcess) -> None:
        here.before = here.slots.withdraw
        outcome = here.run(returning(here, None))
        assert (outcome.ending, outcome.started_at) == (Ending.GIVEN_BACK, None)

    @pytest.mark.parametrize("value", [None, Result.failure(), Result.retry(), ValueError(), 5, SystemExit()])
    def test_a_stopped_run_is_stopped_whatever_it_returns(self, here: InProcess, value: Any) -> None:
        @here.task()
        def worker() -> Any:
            here.stop(StopReason.QUOTA)
            if isinstance(value, BaseException):
                raise value
            return value

        with receiving(signals.task_success) as succeeded:
            outcome = here.run(worker)
        if isinstance(value, SystemExit):
            return
        assert (outcome.ending, outcome.reason, outcome.output) == (Ending.STOPPED, StopReason.QUOTA, None)
        assert not succeeded


class TestBatches:
    def test_a_run_that_began_elsewhere_does_not_begin_again(self, here: InProcess) -> None:
        """The pool may hand a job out twice when the first process dies early."""
        from celery_workmanager import tracer
        from celery_workmanager.outcome import Claim

        slot = here.slots.open()
        assert slot is not None
        assert here.slots.stamp_start(slot, 1.0, 1)
        claim = Claim("id", returning(here, None).name, "q", 1, "n", 0, 0, 0, ["{}"])
        tracer.install(here.runtime)
        try:
            assert tracer.run_batch(False, [tracer.member_of(claim, slot, here.slots.run_of(slot))]) == [None]
        finally:
            tracer.install(None)
        assert here.slots.read_outcome(slot) is None
        assert here.slots.ended(slot) is None

    def test_one_bad_member_spoils_no_other(self, here: InProcess) -> None:
        good, bad = returning(here, {"a": 1}), returning(here, ValueError())
        outcomes = here.run_batch([(good, ["{}"], {}), (bad, ["{}"], {}), ("nobody", ["{}"], {}), (good, ["{}"], {})])
        assert [outcome.ending for outcome in outcomes] == [
            Ending.SUCCEEDED, Ending.FAILED, Ending.FAILED, Ending.SUCCEEDED
        ]  # fmt: skip

    def test_a_process_without_a_runtime_gives_everything_back(self) -> None:
        from celery_workmanager import tracer

        answers = tracer.run_batch(False, [(0, 1, "id"), (1, 2, "id")])
        assert [tracer.outcome_of(answer).ending for answer in answers if answer] == [Ending.GIVEN_BACK] * 2


def test_a_deep_recursion_fails_the_work(here: InProcess) -> None:
    @here.task()
    def deep() -> Any:
        def down() -> Any:
            return down()

        return down()

    assert error_of(here.run(deep)).exc_type == "RecursionError"
    assert sys.getrecursionlimit() > 0
