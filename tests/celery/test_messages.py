"""Messages as calls: what counts as an option, what as a header of the caller's own, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message

from celery_workmanager.messages import MessageCall, call_in, id_in


def message(body: Any, content_type: str = "application/json", reply_to: str = "", **headers: Any) -> Message:
    text = body if isinstance(body, str) else json.dumps(body)
    properties = {"reply_to": reply_to}
    return Message(text, content_type=content_type, content_encoding="utf-8", headers=headers, properties=properties)


def call(embedded: Any = None, **headers: Any) -> MessageCall:
    return call_in(message([[1], {"a": 2}, embedded], id="x", task="t", **headers))


@pytest.fixture
def app() -> Celery:
    return Celery("messages", set_as_current=False)


def sent(app: Celery, protocol: int, **options: Any) -> Message:
    """A message as Celery's own producer makes it."""
    app.conf.task_protocol = protocol
    made = app.amqp.create_task_message("x", "t", [1], {"a": 2}, **options)
    return message(made.body, **made.headers)


class TestOptions:
    @pytest.mark.parametrize("protocol", [1, 2])
    def test_a_call_without_any(self, app: Celery, protocol: int) -> None:
        found = call_in(sent(app, protocol))
        ignored = {"ignore_result": False} if protocol == 2 else {}
        assert found == MessageCall("x", [1], {"a": 2}, {"task_id": "x", **ignored})

    @pytest.mark.parametrize("protocol", [1, 2])
    def test_all_that_both_protocols_know(self, app: Celery, protocol: int) -> None:
        moments = {"eta": datetime(2030, 1, 1, tzinfo=UTC), "expires": datetime(2031, 1, 1, tzinfo=UTC)}
        options = {"group_id": "g", "time_limit": 9, "soft_time_limit": 8, "chord": {"task": "body"}}
        callbacks = {"callbacks": [{"task": "after"}], "errbacks": [{"task": "oh"}]}
        found = call_in(sent(app, protocol, **moments, **options, **callbacks, retries=3))
        assert found.retries == 3
        said = {name: moment.isoformat() for name, moment in moments.items()}
        wanted = {**said, **options, "link": callbacks["callbacks"], "link_error": callbacks["errbacks"]}
        assert {name: found.options[name] for name in wanted} == wanted
        assert "headers" not in found.options

    def test_what_protocol_2_adds(self, app: Celery) -> None:
        options = {
            "root_id": "r", "parent_id": "p", "group_index": 0, "shadow": "s", "chain": [{"task": "next"}],
            "replaced_task_nesting": 2, "ignore_result": True, "stamped_headers": ["tag"], "tag": ["a"],
        }  # fmt: skip
        found = call_in(sent(app, 2, **options))
        assert found.options == {"task_id": "x", **options}

    def test_a_root_of_its_own_needs_no_word(self) -> None:
        assert "root_id" not in call(root_id="x").options

    def test_headers_of_the_callers_own(self) -> None:
        assert call(traceparent="00-1", customer=7).options["headers"] == {"traceparent": "00-1", "customer": 7}

    def test_where_an_answer_goes(self) -> None:
        found = call_in(message([[], {}, {}], reply_to="queue", id="x", task="t"))
        assert found.options == {"task_id": "x", "reply_to": "queue"}

    def test_headers_of_brokers_are_none(self) -> None:
        marks = {"x-death": [{}], "x-first-death-queue": "q", "x-delivery-count": 2}
        assert "headers" not in call(**marks).options

    def test_a_work_on_its_way_out(self) -> None:
        found = call(workmanager_released=True)
        assert found.released
        assert "headers" not in found.options

    def test_a_hybrid_of_both_protocols(self) -> None:
        body = {"args": [1], "kwargs": {}, "id": "old", "callbacks": [{"task": "after"}]}
        found = call_in(message(body, id="x", task="t", retries=1))
        assert (found.id, found.retries, found.options["link"]) == ("x", 1, [{"task": "after"}])


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ([[1], {}], "as \\[args, kwargs, embed\\]"),
            ("[1, 2", "Expecting"),
            (7, "as \\[args, kwargs, embed\\]"),
            (["args", {}, {}], "args as a list, got: str"),
            ([[], [], {}], "kwargs as a mapping, got: list"),
            ({"args": 1}, "args as a list, got: int"),
        ],
    )
    def test_a_body_of_no_protocol(self, body: Any, said: str) -> None:
        with pytest.raises((InvalidTaskError, DecodeError), match=said):
            call_in(message(body, id="x", task="t"))

    def test_no_id(self) -> None:
        with pytest.raises(InvalidTaskError, match="with a task id, got: none"):
            call_in(message([[], {}, {}], task="t"))

    def test_a_pickle_is_not_even_looked_at(self) -> None:
        evil = message("cos\nsystem\n(S'false'\ntR.", "application/x-python-serialize", id="x", task="t")
        with pytest.raises(ContentDisallowed, match="as JSON, got: application/x-python-serialize"):
            call_in(evil)

    def test_the_id_is_found_whatever_else_is_wrong(self) -> None:
        assert id_in(message("[1, 2", id="x"), None) == "x"
        assert id_in(message("{}"), {"id": "y"}) == "y"
        assert id_in(message("{}"), None) is None
