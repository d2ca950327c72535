"""Task calls as requests: arguments, times and options as Celery means them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu.entity import Queue
from kombu.utils.json import loads
from pydantic import BaseModel

from celery_workmanager.call import Call, Takes
from celery_workmanager.calls import request_from_call
from celery_workmanager.errors import DataNotStorable
from tests.celery.in_process import InProcess

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def here() -> InProcess:
    return InProcess()


@pytest.fixture
def blur(here: InProcess) -> Any:
    @here.task(bind=True)
    def blur(self: Any, image: Any, level: int = 1) -> None: ...

    return blur


def requested(task: Any, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return request_from_call(task, args, kwargs, options or {}, NOW)


class TestArguments:
    def test_positional_arguments_are_kept_by_name(self, blur: Any) -> None:
        request = requested(blur, "x", 2)
        assert json.loads(request.call.arguments) == {"args": [], "kwargs": {"image": "x", "level": 2}}
        assert request.worker_name == blur.name

    def test_defaults_are_not_stored(self, blur: Any) -> None:
        assert json.loads(requested(blur, image="x").call.arguments) == {"args": [], "kwargs": {"image": "x"}}

    @pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"other": 2})])
    def test_arguments_that_do_not_fit_are_a_type_error(self, blur: Any, args: Any, kwargs: Any) -> None:
        with pytest.raises(TypeError):
            requested(blur, *args, **kwargs)

    def test_a_function_of_many_arguments_keeps_them_in_order(self, here: InProcess) -> None:
        @here.task()
        def many(first: int, *rest: int, **named: int) -> None: ...

        call = json.loads(requested(many, 1, 2, 3, a=4).call.arguments)
        assert call == {"args": [1, 2, 3], "kwargs": {"a": 4}}

    def test_any_keywords_stay_flat(self, here: InProcess) -> None:
        @here.task()
        def named(first: int, **rest: int) -> None: ...

        assert json.loads(requested(named, 1, a=4).call.arguments) == {"args": [], "kwargs": {"first": 1, "a": 4}}

    def test_a_task_without_typing_takes_anything(self, here: InProcess) -> None:
        @here.task(typing=False)
        def loose(a: int) -> None: ...

        assert json.loads(requested(loose, 1, 2).call.arguments) == {"args": [1, 2], "kwargs": {}}

    def test_types_of_celerys_json_survive(self, blur: Any) -> None:
        value = {"at": NOW, "id": uuid.UUID(int=1)}
        assert loads(requested(blur, value).call.arguments)["kwargs"]["image"] == value

    def test_a_pydantic_model_is_dumped(self, blur: Any) -> None:
        class Picture(BaseModel):
            path: str
            at: datetime

        call = json.loads(requested(blur, Picture(path="x", at=NOW)).call.arguments)
        assert call["kwargs"]["image"] == {"path": "x", "at": "2030-01-01T12:00:00Z"}

    def test_what_is_not_json_is_named(self, blur: Any) -> None:
        with pytest.raises(DataNotStorable, match=r"kwargs\['image'\]"):
            requested(blur, object())

    def test_what_was_called_can_be_run(self, here: InProcess) -> None:
        @here.task()
        def add(a: int, b: int) -> int:
            return a + b

        call = requested(add, 1, 2).call.arguments
        (outcome,) = here.run_batch([(add, [call], {"options": {"call": 1}})])
        assert outcome.output == "3"


class TestTimes:
    @pytest.mark.parametrize(
        ("options", "delay"),
        [
            ({}, 0),
            ({"countdown": 5}, 5),
            ({"countdown": 1.5}, 1.5),
            ({"countdown": -5}, 0),
            ({"eta": NOW + timedelta(minutes=1)}, 60),
            ({"eta": NOW - timedelta(minutes=1)}, 0),
            ({"eta": (NOW + timedelta(minutes=1)).replace(tzinfo=None)}, 60),
            ({"eta": (NOW + timedelta(minutes=1)).isoformat()}, 60),
        ],
    )
    def test_countdown_and_eta_are_an_initial_delay(self, blur: Any, options: Any, delay: float) -> None:
        assert requested(blur, 1, options=options).initial_delay == timedelta(seconds=delay)

    def test_a_naive_eta_is_in_utc_as_celerys_workers_read_it(self, here: InProcess, blur: Any) -> None:
        here.app.conf.update(timezone="Europe/Madrid", enable_utc=True)
        eta = datetime(2030, 1, 1, 13, 1)  # noqa: DTZ001
        assert requested(blur, 1, options={"eta": eta}).initial_delay == timedelta(minutes=61)

    @pytest.mark.parametrize(
        ("expires", "stored"),
        [
            (60, timedelta(seconds=60)),
            (-1, timedelta(0)),
            (timedelta(hours=1), timedelta(hours=1)),
            (NOW, NOW),
            (NOW.replace(tzinfo=None), NOW),
        ],
    )
    def test_expires(self, blur: Any, expires: Any, stored: Any) -> None:
        assert requested(blur, 1, options={"expires": expires}).expires == stored


class TestOptions:
    def test_options_of_a_row(self, blur: Any) -> None:
        options = {
            "task_id": "mine", "queue": "images", "priority": 7, "time_limit": 9, "soft_time_limit": 8, "max_retries": 2
        }  # fmt: skip
        request = requested(blur, 1, options=options)
        assert (request.id, request.queue, request.priority) == ("mine", "images", 7)
        assert (request.time_limit, request.soft_time_limit, request.max_attempts) == (9, 8, 3)

    def test_a_queue_may_be_an_object(self, blur: Any) -> None:
        assert requested(blur, 1, options={"queue": Queue("images")}).queue == "images"

    def test_the_tasks_own_options_are_the_defaults(self, here: InProcess) -> None:
        @here.task(queue="slow", priority=3, expires=60)
        def own() -> None: ...

        request = requested(own)
        assert (request.queue, request.priority, request.expires) == ("slow", 3, timedelta(seconds=60))
        assert requested(own, options={"priority": 5, "queue": "fast"}).queue == "fast"

    def test_options_of_a_message_mean_nothing(self, blur: Any) -> None:
        ignored = {
            "serializer": "pickle", "compression": "zlib", "retry": True, "retry_policy": {}, "connection": object(),
            "exchange": "x", "ignore_result": True, "shadow": "s", "headers": {"a": 1}, "root_id": "r",
            "parent_id": "p", "argsrepr": "()", "reply_to": "q", "link": None, "chain": [],
        }  # fmt: skip
        assert requested(blur, 1, options=ignored).queue is None

    def test_what_a_request_shows_beside_its_arguments_is_kept(self, blur: Any) -> None:
        options = {
            "root_id": "r",
            "parent_id": "p",
            "group_id": "g",
            "group_index": 0,
            "headers": {"trace": "1"},
            "stamped_headers": ["customer", "tag"],
            "customer": 7,
            "tag": ["a", "b"],
        }
        request = requested(blur, 1, options=options)
        assert request.call is not None
        assert request.call.option == {
            "root": "r", "parent": "p", "group": "g", "group_index": 0, "headers": {"trace": "1"},
            "stamps": {"customer": 7, "tag": ["a", "b"]},
        }  # fmt: skip
        assert request.tags == {request.worker_name, "customer=7", "a", "b"}

    def test_a_stamp_that_is_no_tag_is_shown_only(self, blur: Any) -> None:
        request = requested(blur, 1, options={"stamped_headers": ["note"], "note": "x" * 300})
        assert request.tags == {request.worker_name}

    def test_the_first_argument_may_come_from_the_work_before(self, blur: Any) -> None:
        assert request_from_call(blur, (), {}, {}, NOW, Takes.VALUE).call == Call(
            '{"args": [], "kwargs": {}}', Takes.VALUE
        )
        with pytest.raises(TypeError):
            request_from_call(blur, (1, 2, 3, 4), {}, {}, NOW, Takes.VALUE)
