"""Requests and their builder: defaults, conversions, refusals."""

from __future__ import annotations

import dataclasses
import json
import pickle
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from celery_workmanager.builders import OneTimeWorkRequestBuilder
from celery_workmanager.call import Call
from celery_workmanager.checks import LONGEST_DURATION
from celery_workmanager.data import Data
from celery_workmanager.errors import DataNotStorable, InvalidRequest
from celery_workmanager.mergers import ArrayCreatingInputMerger, OverwritingInputMerger
from celery_workmanager.policies import BackoffPolicy, OutOfQuotaPolicy
from celery_workmanager.requests import (
    OneTimeWorkRequest,
    one_time,
    worker_name_of,
)
from celery_workmanager.wire import request_from_json, request_to_json

RUN_ANYWAY = OutOfQuotaPolicy.RUN_AS_NON_EXPEDITED_WORK_REQUEST


class Task:
    name: str | None = None


class Blur(Task):
    name = "images.blur"


class Nameless(Task):
    pass


class Shop:
    @staticmethod
    def gen_task_name(name: str, module: str) -> str:
        return f"shop.{name}"


class Registered(Task):
    app = Shop()


def test_defaults_are_androids():
    request = OneTimeWorkRequest("images.blur")
    assert request.worker_name == "images.blur"
    assert request.tags == {"images.blur"}
    assert request.input_data is Data.EMPTY
    assert uuid.UUID(request.id).version == 7
    assert request.initial_delay == request.keep_results_for_at_least == timedelta(0)
    assert request.backoff_policy is BackoffPolicy.EXPONENTIAL
    assert request.backoff_delay == timedelta(seconds=30)
    assert request.input_merger is OverwritingInputMerger
    assert request.priority == 0
    rest = [
        "expedited",
        "trace_tag",
        "queue",
        "time_limit",
        "soft_time_limit",
        "expires",
        "max_attempts",
        "call",
    ]
    assert [getattr(request, name) for name in rest] == [None] * len(rest)


def test_a_worker_is_named_by_a_task_a_class_or_its_name():
    assert worker_name_of("x") == "x"
    assert worker_name_of(Blur) == worker_name_of(Blur()) == "images.blur"
    assert worker_name_of(Nameless) == f"{__name__}.Nameless"
    assert worker_name_of(Registered) == "shop.Registered"


@pytest.mark.parametrize("worker", ["", 5, None, int, Nameless(), lambda: None, "a\nb", "x" * 256])
def test_something_else_is_not_a_worker(worker):
    with pytest.raises(InvalidRequest, match=r"expected worker.* to be "):
        OneTimeWorkRequest(worker)


def test_every_option_is_kept_in_its_type():
    at = datetime(2030, 1, 1, tzinfo=UTC)
    given_id = uuid.uuid4()
    request = OneTimeWorkRequest(
        Blur,
        {"image": "cat.png"},
        id=given_id,
        tags=["a", "b"],
        initial_delay=90,
        backoff_policy=BackoffPolicy.LINEAR,
        backoff_delay=0.5,
        input_merger=ArrayCreatingInputMerger,
        keep_results_for_at_least=timedelta(days=1),
        trace_tag="t" * 200,
        queue="images",
        priority=255,
        time_limit=timedelta(minutes=1),
        soft_time_limit=30,
        expires=at,
        max_attempts=3,
    )
    assert request.id == str(given_id)
    assert request.tags == {"images.blur", "a", "b"}
    assert request.input_data == {"image": "cat.png"}
    assert request.initial_delay == timedelta(seconds=90)
    assert request.backoff_delay == timedelta(seconds=0.5)
    assert request.trace_tag == "t" * 127
    assert (request.time_limit, request.soft_time_limit) == (60.0, 30.0)
    assert request.expires == at
    assert OneTimeWorkRequest("x", expires=5).expires == timedelta(seconds=5)
    assert pickle.loads(pickle.dumps(request)) == request
    assert hash(request) == hash(pickle.loads(pickle.dumps(request)))


def test_a_request_is_frozen_and_hides_its_call():
    request = OneTimeWorkRequest("x", call=Call('{"args":["secret"]}'))
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.queue = "other"  # type: ignore[misc]
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"initial_delay": -1}, "expected initial_delay to be zero or more, got: -1"),
        ({"initial_delay": timedelta(microseconds=-1)}, "initial_delay to be zero or more"),
        ({"initial_delay": float("nan")}, "initial_delay to be a timedelta or a number of seconds, got: nan"),
        ({"initial_delay": float("inf")}, "initial_delay to be at most 2500000 days, got: inf"),
        ({"initial_delay": 2**63}, "initial_delay to be at most 2500000 days"),
        ({"initial_delay": 10**400}, "initial_delay to be at most 2500000 days"),
        ({"initial_delay": timedelta.max}, "initial_delay to be at most 2500000 days"),
        ({"initial_delay": True}, "initial_delay to be a timedelta or a number of seconds, got: True"),
        ({"initial_delay": "5"}, "initial_delay to be a timedelta or a number of seconds"),
        ({"initial_delay": None}, "initial_delay to be a timedelta or a number of seconds"),
        ({"backoff_delay": -1}, "backoff_delay to be zero or more"),
        ({"backoff_policy": 0}, "backoff_policy to be a BackoffPolicy, got: 0"),
        ({"keep_results_for_at_least": -1}, "keep_results_for_at_least to be zero or more"),
        ({"input_merger": dict}, "input_merger to be a subclass of InputMerger"),
        ({"input_merger": ArrayCreatingInputMerger()}, "input_merger to be a subclass of InputMerger"),
        ({"tags": ""}, "tags to be a collection of str"),
        ({"tags": None}, "tags to be a collection of str"),
        ({"tags": "image"}, "tags to be a collection of str, got: 'image'"),
        ({"tags": [""]}, "tag to be a non-empty str"),
        ({"tags": [1]}, "tag to be a non-empty str"),
        ({"tags": 1}, "tags to be a collection of str"),
        ({"tags": ["x" * 256]}, "tag to be a non-empty str of at most 255 characters"),
        ({"queue": ""}, "queue to be a non-empty str"),
        ({"trace_tag": 5}, "trace_tag to be a str"),
        ({"priority": 256}, "priority to be an int from 0 to 255, got: 256"),
        ({"priority": -1}, "priority to be an int"),
        ({"priority": True}, "priority to be an int"),
        ({"priority": False}, "priority to be an int"),
        ({"priority": 1.0}, "priority to be an int"),
        ({"priority": None}, "priority to be an int"),
        ({"time_limit": 0}, "time_limit to be more than zero"),
        ({"soft_time_limit": -1}, "soft_time_limit to be zero or more"),
        ({"expires": -1}, "expires to be zero or more"),
        ({"expires": datetime(2030, 1, 1)}, "expires to be a timezone-aware datetime"),  # noqa: DTZ001
        ({"expires": "tomorrow"}, "expires to be a timedelta or a number of seconds"),
        ({"max_attempts": 0}, "max_attempts to be an int >= 1"),
        ({"expedited": True}, "expedited to be a OutOfQuotaPolicy"),
        ({"expedited": RUN_ANYWAY, "initial_delay": 1}, "expedited work to be without an initial delay"),
        ({"id": ""}, "id to be a non-empty str"),
        ({"input_data": [1]}, "input_data to be a mapping"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(wrong, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        OneTimeWorkRequest("x", **wrong)


def test_input_that_is_not_json_is_refused_with_its_place():
    with pytest.raises(DataNotStorable, match=r"input_data\['a'\]\[0\]"):
        OneTimeWorkRequest("x", {"a": [object()]})


def test_the_builder_says_the_same_in_steps():
    built = (
        OneTimeWorkRequestBuilder(Blur)
        .set_id("1")
        .set_input_data(image="cat.png")
        .set_input_merger(ArrayCreatingInputMerger)
        .set_initial_delay(minutes=1, seconds=1)
        .set_backoff_criteria(BackoffPolicy.LINEAR, 10)
        .keep_results_for_at_least(days=1)
        .add_tag("a")
        .add_tag("b")
        .set_trace_tag("trace")
        .set_queue("images")
        .set_priority(3)
        .set_time_limit(60)
        .set_soft_time_limit(30)
        .set_expires(hours_later := timedelta(hours=1))
        .set_max_attempts(4)
        .build()
    )
    assert built == OneTimeWorkRequest(
        "images.blur",
        {"image": "cat.png"},
        id="1",
        input_merger=ArrayCreatingInputMerger,
        initial_delay=61,
        backoff_policy=BackoffPolicy.LINEAR,
        backoff_delay=10,
        keep_results_for_at_least=86_400,
        tags={"a", "b"},
        trace_tag="trace",
        queue="images",
        priority=3,
        time_limit=60,
        soft_time_limit=30,
        expires=hours_later,
        max_attempts=4,
    )
    assert OneTimeWorkRequestBuilder("x").set_expedited().build().expedited is RUN_ANYWAY


def test_each_request_of_a_builder_has_an_id_of_its_own():
    builder = OneTimeWorkRequestBuilder("x").set_id("mine").add_tag("a")
    first, second, third = builder.build(), builder.build(), builder.set_id("again").build()
    assert first.id == "mine"
    assert second.id not in {"mine", "again"}
    assert third.id == "again"
    assert first.tags == second.tags == third.tags
    builder.add_tag("b")
    assert "b" not in first.tags


def test_a_builder_wants_a_duration_once():
    builder = OneTimeWorkRequestBuilder("x")
    with pytest.raises(InvalidRequest, match="initial_delay to be either a duration or timedelta's keywords"):
        builder.set_initial_delay()
    with pytest.raises(InvalidRequest, match="initial_delay to be either"):
        builder.set_initial_delay(5, seconds=5)
    with pytest.raises(InvalidRequest, match="initial_delay to be a duration in timedelta's keywords"):
        builder.set_initial_delay(fortnights=1)
    with pytest.raises(InvalidRequest, match="initial_delay to be a duration in timedelta's keywords"):
        builder.set_initial_delay(seconds=float("nan"))
    with pytest.raises(InvalidRequest, match="initial_delay to be zero or more"):
        builder.set_initial_delay(seconds=-1)


def test_one_request_or_several_are_taken_and_nothing_else():
    a, b = OneTimeWorkRequest("a"), OneTimeWorkRequest("b")
    assert one_time(a) == (a,)
    assert one_time([a, b]) == one_time(iter((a, b))) == (a, b)
    with pytest.raises(InvalidRequest, match=r"^expected at least one request, got: \[\]$"):
        one_time([])
    for wrong in ("a", None, [a, "b"], [[a]], {"a": a}, OneTimeWorkRequestBuilder("a")):
        with pytest.raises(InvalidRequest, match="expected a OneTimeWorkRequest"):
            one_time(wrong)


@pytest.mark.parametrize(
    "delay",
    [
        timedelta(seconds=2**33) - timedelta(microseconds=1),
        timedelta(days=99_421, microseconds=1),
        LONGEST_DURATION - timedelta(microseconds=1),
    ],
)
def test_a_delay_of_centuries_comes_through_json_as_it_is(delay: timedelta):
    request = OneTimeWorkRequest("w", initial_delay=delay)
    assert abs(request.initial_delay - delay) < timedelta(seconds=1)
    assert request_from_json("w", json.loads(json.dumps(request_to_json(request)))) == request
