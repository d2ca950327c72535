"""States, results, errors and the facts of a work; and that every error of ours can cross processes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from celery_workmanager import errors
from celery_workmanager.data import Data
from celery_workmanager.errors import DataNotStorable, InvalidRequest, WorkManagerError
from celery_workmanager.operation import Operation
from celery_workmanager.work import (
    MESSAGE_KEPT,
    TRACEBACK_KEPT,
    Result,
    ResultKind,
    State,
    StopReason,
    WorkError,
    WorkInfo,
)


def test_three_states_are_final():
    assert {state for state in State if state.is_finished} == {State.SUCCEEDED, State.FAILED, State.CANCELLED}
    assert [state.value for state in State] == [0, 1, 2, 3, 4, 5]


def test_stop_reasons_have_androids_numbers():
    assert StopReason(-256) is StopReason.NOT_STOPPED
    assert StopReason(-512) is StopReason.UNKNOWN
    assert StopReason(-128) is StopReason.FOREGROUND_SERVICE_TIMEOUT
    assert [reason.value for reason in StopReason if reason > 0] == list(range(1, 16))


def test_results_carry_output_given_as_a_mapping_or_as_keywords():
    assert Result.success() == Result.success({}) == Result(ResultKind.SUCCESS)
    assert Result.success({"a": 1}, b=2).output_data == {"a": 1, "b": 2}
    assert Result.success(data=1, cls=2).output_data == {"data": 1, "cls": 2}
    assert Result.failure(a=1) != Result.success(a=1)
    assert Result.success(a=1) != Result.success(a=True)
    with pytest.raises(DataNotStorable, match=r"output_data\['a'\]"):
        Result.failure(a=object())


def test_a_retry_may_say_when():
    assert Result.retry().after is None
    assert Result.retry(1.5) == Result.retry(timedelta(seconds=1.5))
    assert Result.retry(after=0).after == timedelta(0)
    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises(InvalidRequest, match="expected after to be "):
            Result.retry(wrong)  # type: ignore[arg-type]


class Awkward(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_becomes_text_that_goes_through_json():
    error = WorkError.from_exception(ValueError("no \ud800 picture"), "Traceback …")
    assert error == WorkError("ValueError", "no \\ud800 picture", "builtins", "Traceback …")
    assert str(error) == "ValueError: no \\ud800 picture"
    assert WorkError.from_json(error.to_json()) == error
    assert error.to_json().isascii()


def test_an_exceptions_arguments_are_kept_as_json():
    when = datetime(2030, 1, 1, tzinfo=UTC)
    error = WorkError.from_exception(LookupError(2, "no file", [1, (2,)], when))
    assert error.args == (2, "no file", [1, [2]], repr(when))
    assert WorkError.from_json(error.to_json()) == error
    assert WorkError.from_exception(KeyError("k")).args == ("k",)
    assert WorkError.from_exception(KeyError()).args == ()


def test_arguments_that_say_no_more_than_the_message_are_not_kept():
    assert WorkError.from_exception(ValueError("no")).args is None
    assert WorkError.from_exception(ValueError("x" * 20_000, 1)).args is None


def test_odd_and_endless_exceptions_become_text_too():
    assert "whose str() fails" in str(WorkError.from_exception(Awkward()))
    assert str(WorkError.from_exception(KeyError())) == "KeyError"
    long = WorkError.from_exception(ValueError("x" * 10**6), "first" + "y" * 10**6 + "last")
    assert len(long.message) == MESSAGE_KEPT
    assert len(long.traceback) == TRACEBACK_KEPT
    assert long.traceback.endswith("last")


def test_a_work_info_as_a_dict_is_json():
    info = WorkInfo(
        id="1",
        state=State.RUNNING,
        worker_name="shop.blur",
        tags=frozenset({"b", "a"}),
        progress=Data(percent=10),
        initial_delay=timedelta(seconds=90),
        next_schedule_time=datetime(2024, 1, 2, tzinfo=UTC),
        prerequisites=("0",),
        error=WorkError("ValueError", "text"),
    )
    told = info.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert list(told) == [one.name for one in dataclasses.fields(WorkInfo)]
    assert told["state"] == "RUNNING"
    assert told["tags"] == ["a", "b"]
    assert told["progress"] == {"percent": 10}
    assert told["initial_delay"] == 90.0
    assert told["next_schedule_time"] == "2024-01-02T00:00:00+00:00"
    assert told["stop_reason"] == "NOT_STOPPED"
    assert told["prerequisites"] == ["0"]
    assert told["error"] == {
        "exc_type": "ValueError",
        "message": "text",
        "module": "builtins",
        "traceback": "",
    }
    assert told["node"] is None


def test_work_infos_are_equal_by_their_facts():
    one = WorkInfo(id="1", state=State.ENQUEUED, worker_name="w", progress=Data(a=1))
    assert one == WorkInfo(id="1", state=State.ENQUEUED, worker_name="w", progress=Data(a=1))
    assert one != dataclasses.replace(one, progress=Data(a=True))
    assert pickle.loads(pickle.dumps(one)) == one


async def _awaited(operation: Operation) -> Operation:
    return await operation


def test_an_operation_can_be_awaited_and_knows_its_first_work():
    operation = Operation(applied=True, ids=("a", "b"))
    with pytest.raises(StopIteration) as stop:
        _awaited(operation).send(None)
    assert stop.value.value is operation
    assert operation.id == "a"
    assert Operation(applied=False, skipped_ids=("c",)).id == "c"
    with pytest.raises(LookupError):
        _ = Operation(applied=False).id


FACTS = {
    "InvalidRequest": ("delay", "zero or more", -1),
    "DataNotStorable": ("data['a']", object()),
    "DataTooLarge": ("data", 11, 10),
    "DuplicateWorkId": ("1",),
    "CyclicChain": (["a", "b", "a"],),
    "UnknownWorker": ("shop.blurr", ["shop.blur", "shop.save"]),
    "WorkNotFound": ("1",),
    "UniqueNameBusy": ("sync", 5.0),
    "ConfigurationError": ("a sentence",),
    "UnknownSetting": ("workmanager_leese", ["workmanager_lease"]),
    "InvalidSetting": ("workmanager_lease", "a number", "x"),
    "UnknownConstraint": ("queue_shrt", ["queue_short"]),
    "AlreadyInitialized": ("shop",),
    "NotInitialized": ("shop",),
    "StoreNotMigrated": ("postgresql://db/shop", None, "0001", "celery -A proj work migrate"),
    "StoreTooNew": ("postgresql://db/shop", "0009", "0008", "0006"),
    "StoreUnavailable": ("postgresql://db/shop", OSError("refused")),
    "StoreForbidden": ("postgresql://db/shop", "permission denied for table workmanager_work"),
    "StoreBusy": ("sqlite:///works.sqlite3", 5.0),
    "StatementTooLarge": ("mariadb://db/shop", 11, 10),
    "PauseIncomplete": ("tag 'red'", 5.0),
    "UnsupportedOperation": ("a sentence",),
    "MergeError": ("key", "int", "str"),
    "WorkerLost": ("1", 10),
    "AttemptsExhausted": ("1", 3),
    "NoSchedules": ("no module",),
}
ABSTRACT = {"WorkManagerError", "StoreError"}


def test_every_error_is_in_the_table_below():
    classes = {
        name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, WorkManagerError)
    }
    assert classes == set(FACTS) | ABSTRACT


@pytest.mark.parametrize("name", FACTS)
def test_an_error_keeps_its_sentence_and_facts_across_processes(name):
    error = getattr(errors, name)(*FACTS[name])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert error.args == (str(error),)


def test_errors_word_themselves():
    def said(name: str) -> str:
        return str(getattr(errors, name)(*FACTS[name]))

    assert said("InvalidRequest") == "expected delay to be zero or more, got: -1"
    assert said("UnknownWorker").endswith("got: 'shop.blurr'; did you mean 'shop.blur'?")
    assert said("UnknownSetting").endswith("did you mean 'workmanager_lease'?")
    assert "celery -A proj work migrate" in said("StoreNotMigrated")
    assert said("CyclicChain") == "expected the chain to be free of cycles, got: a -> b -> a"
    assert len(str(errors.CyclicChain([str(i) for i in range(10_000)]))) < 200
    assert len(str(InvalidRequest("x", "short", "y" * 10**6))) < 200
