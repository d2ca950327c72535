"""Requests and their builder: defaults, checks, reuse."""

from __future__ import annotations

import dataclasses
import math
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from celery_workmanager import (
    ArrayCreatingInputMerger,
    BackoffPolicy,
    Data,
    OneTimeWorkRequest,
    OneTimeWorkRequestBuilder,
    OutOfQuotaPolicy,
    OverwritingInputMerger,
    WorkManagerError,
)
from tests.conformance.workers import CleanupWorker, blur


def test_a_request_has_androids_defaults():
    request = OneTimeWorkRequest(blur)
    assert request.worker_name == "blur"
    assert request.input_data == Data.EMPTY
    assert request.tags == {"blur"}
    assert request.initial_delay == timedelta(0)
    assert (request.backoff_policy, request.backoff_delay) == (BackoffPolicy.EXPONENTIAL, timedelta(seconds=30))
    assert request.input_merger is OverwritingInputMerger
    assert request.expedited is None
    assert request.keep_results_for_at_least == timedelta(0)
    assert uuid.UUID(request.id).version == 7
    assert (request.queue, request.priority, request.expires, request.max_attempts) == (None, 0, None, None)


def test_a_request_is_frozen_and_its_worker_may_be_a_task_a_class_or_a_name():
    request = OneTimeWorkRequest(CleanupWorker, {"folder": "x"})
    assert request.worker_name == "images.cleanup"
    assert OneTimeWorkRequest("images.cleanup").worker_name == "images.cleanup"
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.queue = "q"  # type: ignore[misc]


def test_every_builder_method_has_its_keyword():
    work_id = uuid.uuid4()
    built = (
        OneTimeWorkRequestBuilder(blur)
        .set_id(work_id)
        .set_input_data(image="cat.png")
        .set_input_merger(ArrayCreatingInputMerger)
        .set_initial_delay(seconds=60)
        .set_backoff_criteria(BackoffPolicy.LINEAR, timedelta(minutes=1))
        .add_tag("image")
        .add_tag("cat")
        .keep_results_for_at_least(timedelta(days=1))
        .set_trace_tag("trace")
        .build()
    )
    direct = OneTimeWorkRequest(
        blur,
        {"image": "cat.png"},
        id=work_id,
        input_merger=ArrayCreatingInputMerger,
        initial_delay=60,
        backoff_policy=BackoffPolicy.LINEAR,
        backoff_delay=timedelta(minutes=1),
        tags={"image", "cat"},
        keep_results_for_at_least=timedelta(days=1),
        trace_tag="trace",
    )
    assert built == direct
    assert built.id == str(work_id)
    assert built.tags == {"blur", "image", "cat"}


def test_a_builder_can_be_used_again_and_each_request_gets_its_own_id():
    builder = OneTimeWorkRequestBuilder(blur).add_tag("x")
    first, second = builder.build(), builder.build()
    assert first.id != second.id
    assert first.tags == second.tags


def test_expedited_work_has_no_initial_delay():
    policy = OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST
    assert OneTimeWorkRequestBuilder(blur).set_expedited(policy).build().expedited is policy
    with pytest.raises(ValueError, match="without an initial delay"):
        OneTimeWorkRequestBuilder(blur).set_expedited(policy).set_initial_delay(seconds=1).build()


def test_a_trace_tag_is_cut_at_127_characters():
    assert OneTimeWorkRequest(blur, trace_tag="x" * 200).trace_tag == "x" * 127


@pytest.mark.parametrize(
    "options",
    [
        {"initial_delay": -1},
        {"initial_delay": timedelta(seconds=-1)},
        {"initial_delay": math.nan},
        {"initial_delay": math.inf},
        {"initial_delay": "60"},
        {"initial_delay": True},
        {"initial_delay": timedelta.max},
        {"initial_delay": 2**63},
        {"backoff_delay": -1},
        {"backoff_policy": "LINEAR"},
        {"keep_results_for_at_least": -1},
        {"expires": datetime(2030, 1, 1)},  # noqa: DTZ001
        {"expires": -1},
        {"tags": "image"},
        {"tags": [""]},
        {"tags": [1]},
        {"id": ""},
        {"id": 5},
        {"queue": ""},
        {"priority": -1},
        {"priority": 256},
        {"priority": 1.5},
        {"time_limit": 0},
        {"max_attempts": 0},
        {"input_merger": dict},
        {"input_merger": ArrayCreatingInputMerger()},
        {"expedited": True},
        {"trace_tag": 1},
    ],
)
def test_what_cannot_be_is_refused_at_once_with_what_was_expected(options):
    with pytest.raises(ValueError, match="expected .*, got: ") as caught:
        OneTimeWorkRequest(blur, **options)
    assert isinstance(caught.value, WorkManagerError)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"a": object()}, r"input_data\['a'\]"),
        ({"a": [1, {"b": {1, 2}}]}, r"input_data\['a'\]\[1\]\['b'\]"),
        ({"a": b"x"}, "bytes"),
        ({"a": datetime.now(UTC)}, "datetime"),
        ({"a": math.nan}, "nan"),
        ({"a": math.inf}, "inf"),
        ({1: "a"}, "int"),
    ],
)
def test_input_that_is_not_json_is_refused_and_the_place_is_named(data, place):
    with pytest.raises(TypeError, match=place) as caught:
        OneTimeWorkRequest(blur, data)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("worker", [None, 5, object(), ""])
def test_a_worker_must_be_a_task_a_worker_class_or_a_name(worker):
    with pytest.raises(ValueError, match="expected worker"):
        OneTimeWorkRequest(worker)
    with pytest.raises(ValueError, match="expected worker"):
        OneTimeWorkRequestBuilder(worker)
