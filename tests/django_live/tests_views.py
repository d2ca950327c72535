"""Works as JSON and as events, for those whom the project lets see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest
from celery_workmanager.django import feeds
from tests.django_live import site


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No pause between two looks."""
    monkeypatch.setattr(feeds, "INTERVAL", 0)


class Events:
    """A stream, read event by event, as a browser would."""

    def __init__(self, response: Any) -> None:
        assert response.status_code == 200, response.content
        self._chunks = iter(response.streaming_content)
        assert next(self._chunks) == b"retry: 1000\n\n"
        self._waiting: list[dict[str, Any]] = []

    def next(self) -> Any:
        """The next event; None at the end of the stream."""
        while not self._waiting:
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._waiting = events_in(chunk)
        return self._waiting.pop(0)


def events_in(chunk: bytes) -> list[dict[str, Any]]:
    events = []
    for text in chunk.decode().split("\n\n"):
        lines = [line.split(": ", 1) for line in text.splitlines() if not line.startswith(":")]
        if lines:
            event: dict[str, Any] = dict(lines)
            events.append(event | {"data": json.loads(event["data"])})
    return events


def test_a_work_as_json(kit, alice, paint):
    work = paint(secret="xyzzy", fails=True)
    kit.run_until_idle()

    response = alice.get(f"/works/{work}/")

    document = response.json()
    assert response.headers["Cache-Control"] == "no-store"
    assert document["id"] == work
    assert document["state"] == "FAILED"
    assert document["is_finished"] is True
    assert document["error"] == "ValueError"
    assert document["tags"] == ["alice", "paint"]
    assert document["run_attempt_count"] == 1
    assert "xyzzy" not in response.content.decode()


def test_progress_is_told_as_percent(kit, alice, paint):
    work = paint()
    assert alice.get(f"/works/{work}/").json()["percent"] is None
    kit.run_until_idle()

    assert alice.get(f"/works/{work}/").json()["percent"] == 100


@pytest.mark.parametrize(
    "path", ["/works/{}/", "/works/{}/events", "/works/?id={}", "/works/events?id={}", "/works/events?tag=alice"]
)
def test_a_strangers_question_is_answered_as_if_there_were_nothing(alice, paint, path):
    from django.test import Client

    work = paint()
    url = path.format(work)

    assert alice.get(url).status_code == 200
    there = Client(headers={"Visitor": "mallory"}).get(url)
    nowhere = Client(headers={"Visitor": "mallory"}).get(path.format("nowhere").replace("alice", "nowhere"))
    assert (there.status_code, nowhere.status_code) == (404, 404)
    assert there.content.replace(work.encode(), b"") == nowhere.content.replace(b"nowhere", b"")


@pytest.mark.parametrize("path", ["/works/", "/works/events", "/works/?id=", "/works/?tag=%0a", f"/works/{'x' * 200}/"])
def test_a_question_without_sense_is_not_found(alice, kit, path):
    assert alice.get(path).status_code == 404


def test_only_get_is_allowed(alice, paint):
    work = paint()

    assert alice.post(f"/works/{work}/").status_code == 405
    assert alice.delete(f"/works/{work}/events").status_code == 405


@pytest.mark.parametrize("access", [None])
def test_without_a_rule_nobody_sees_anything(alice, paint):
    assert alice.get(f"/works/{paint()}/").status_code == 404


@pytest.mark.parametrize("access", ["tests.django_live.rules.yes_please"])
def test_only_true_lets_somebody_see(alice, paint):
    """What counts as true may be a slip: a coroutine that nobody awaited, a query that nobody ran."""
    assert alice.get(f"/works/{paint()}/").status_code == 404


def test_several_works_as_json(kit, alice, wm, paint):
    works = [paint(), paint("blue-ones")]
    other = wm.enqueue(OneTimeWorkRequest(site.paint, tags={"blue-ones"})).ids[0]

    by_id = alice.get("/works/", {"id": [*works, other, "nowhere"]}).json()["works"]
    by_tag = alice.get("/works/", {"tag": "blue-ones"}).json()["works"]

    assert [each["id"] for each in by_id] == works[::-1]
    assert [each["id"] for each in by_tag] == works[1:]


def test_a_unique_name(alice, wm):
    request = OneTimeWorkRequest(site.paint, tags={"alice"})
    wm.enqueue_unique_work("a/b & c", ExistingWorkPolicy.KEEP, request)

    (work,) = alice.get("/works/", {"name": "a/b & c"}).json()["works"]

    assert work["unique_names"] == ["a/b & c"]


def test_events_tell_each_change_and_the_end(kit, alice, paint):
    work = paint()
    events = Events(alice.get(f"/works/{work}/events"))

    first = events.next()
    assert (first["event"], first["data"]["state"]) == ("work", "ENQUEUED")
    assert first["id"] == str(first["data"]["version"])

    kit.run_until_idle()
    last = events.next()
    assert (last["event"], last["data"]["state"]) == ("work", "SUCCEEDED")
    assert events.next()["event"] == "end"
    assert events.next() is None


@pytest.mark.parametrize("how", ["header", "query"])
def test_who_comes_back_is_told_only_what_was_missed(kit, alice, paint, how):
    work = paint()
    version = Events(alice.get(f"/works/{work}/events")).next()["id"]

    def again(seen):
        given = {"headers": {"Last-Event-ID": seen}} if how == "header" else {"query_params": {"after": seen}}
        return Events(alice.get(f"/works/{work}/events", **given))

    events = again(version)
    kit.run_until_idle()
    last = events.next()
    assert last["data"]["state"] == "SUCCEEDED"
    assert again(last["id"]).next()["event"] == "end"


@pytest.mark.parametrize("nonsense", ["abc", "-1", "9" * 5000, "a=b&c", "٣", ""])
def test_an_event_id_without_sense_is_no_event_id(alice, paint, nonsense):
    work = paint()

    one = Events(alice.get(f"/works/{work}/events", headers={"Last-Event-ID": nonsense}))
    several = Events(alice.get(f"/works/events?id={work}&id=other", headers={"Last-Event-ID": nonsense}))

    assert one.next()["data"]["state"] == several.next()["data"]["state"] == "ENQUEUED"


def test_several_works_in_one_stream(kit, alice, paint):
    one, two = paint(request={"id": "one=1"}), paint(request={"id": "two&2"})
    url = "/works/events?id=one%3D1&id=two%262"
    events = Events(alice.get(url))
    told = [events.next(), events.next()]
    assert {each["data"]["id"] for each in told} == {one, two}

    back = Events(alice.get(url, headers={"Last-Event-ID": told[-1]["id"]}))
    kit.run_one("one=1")
    after = back.next()
    assert (after["data"]["id"], after["data"]["state"]) == (one, "SUCCEEDED")

    kit.run_until_idle()
    assert [back.next()["event"], back.next()["event"], back.next()] == ["work", "end", None]


def test_a_stream_of_a_tag_goes_on_to_works_that_are_made_later(kit, alice, paint):
    first = paint("mine")
    events = Events(alice.get("/works/events?tag=mine"))
    assert events.next()["data"]["id"] == first
    kit.run_until_idle()
    assert events.next()["data"]["state"] == "SUCCEEDED"

    second = paint("mine")

    assert events.next()["data"]["id"] == second


def test_a_work_that_was_deleted_is_gone(kit, alice, wm, paint):
    work, other = paint(), paint(request={"initial_delay": 60})
    events = Events(alice.get(f"/works/events?id={work}&id={other}"))
    events.next(), events.next()
    kit.run_until_idle()
    events.next()

    wm.prune_work()

    gone = events.next()
    assert (gone["event"], gone["data"]) == ("gone", {"id": work})
    assert gone["id"] == f"{other}=1"


def test_a_claim_that_was_given_back_is_no_news(kit, alice, wm, paint):
    work = paint()
    events = Events(alice.get(f"/works/{work}/events"))
    events.next()

    kit.crash_after("claim")
    kit.run_until_idle()
    kit.lose_node()
    assert wm.get_work_info_by_id(work).version > 1
    kit.run_until_idle()

    assert events.next()["data"]["state"] == "SUCCEEDED"


def test_a_silent_stream_gives_signs_of_life_and_ends(alice, paint, monkeypatch):
    monkeypatch.setattr(feeds, "HEARTBEAT", 0)
    monkeypatch.setattr(feeds, "LIFETIME", 0.02)
    work = paint(request={"initial_delay": 3600})

    chunks = list(alice.get(f"/works/{work}/events").streaming_content)

    assert chunks[0] == b"retry: 1000\n\n"
    assert chunks[1].startswith(b"id: 1\nevent: work\n")
    assert set(chunks[2:]) <= {b":\n\n"}


def test_nothing_on_the_way_keeps_a_stream_back(alice, paint):
    response = alice.get(f"/works/{paint()}/events", headers={"Accept-Encoding": "gzip"})

    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Content-Encoding"] == "identity"
    assert next(iter(response.streaming_content)) == b"retry: 1000\n\n"


def test_streams_of_asgi_do_not_block(kit, paint):
    from django.test import AsyncClient

    work = paint()

    async def watch() -> list[Any]:
        response = await AsyncClient().get(f"/works/{work}/events", headers={"Visitor": "alice"})
        assert response.is_async
        events: list[Any] = []
        async for chunk in response.streaming_content:
            if not chunk.startswith(b"retry"):
                events += events_in(chunk)
            if len(events) == 1:
                await sync_to_async(kit.run_until_idle)()
        return events

    events = async_to_sync(watch)()

    assert [each["data"].get("state") for each in events] == ["ENQUEUED", "SUCCEEDED", None]
    assert events[-1]["event"] == "end"


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_atomic_requests_hide_nothing_from_a_stream(kit, alice, paint, monkeypatch):
    from django.db import connections

    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    work = paint()
    events = Events(alice.get(f"/works/{work}/events"))
    assert events.next()["data"]["state"] == "ENQUEUED"
    kit.run_until_idle()

    assert events.next()["data"]["state"] == "SUCCEEDED"


def test_a_stream_holds_no_connection_of_djangos(alice, alias, paint):
    from django.db import connections

    work = paint(request={"initial_delay": 60})
    events = Events(alice.get(f"/works/{work}/events"))
    assert connections[alias].connection is not None

    events.next()

    assert connections[alias].connection is None
