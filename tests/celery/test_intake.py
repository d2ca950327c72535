"""Messages that others send become works: each once, by its id, with all that it says.

Real workers on three brokers; those who send have ordinary tasks of the same names, or speak another language.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import TaskRevokedError

from celery_workmanager import State
from tests.celery.intake_place import Place, make_place, store_of, wait_until
from tests.stores import sqlite_template  # noqa: F401

pytestmark = pytest.mark.slow

PLACES = [
    pytest.param(("redis", "sqlite"), marks=pytest.mark.redis, id="redis-sqlite"),
    pytest.param(
        ("rabbitmq", "postgresql"), marks=[pytest.mark.rabbitmq, pytest.mark.postgresql], id="rabbitmq-postgresql"
    ),
    pytest.param(("filesystem", "sqlite"), id="filesystem-sqlite"),
]


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A broker and a store with one worker; when all is over, no message may be left."""
    broker, store = request.param
    folder = tmp_path_factory.mktemp(broker)
    url = "filesystem://" if broker == "filesystem" else request.getfixturevalue(f"{broker}_url")
    if store == "postgresql":
        request.getfixturevalue("postgresql_url")
    template = request.getfixturevalue("sqlite_template")
    with store_of(store, folder, template) as store_url:
        made = make_place(folder, url, store_url)
        try:
            worker = made.worker().start()
            yield made
            worker.stop()
            # What had not been acknowledged would have gone back.
            assert made.waiting_messages() == 0
        finally:
            made.close()


class TestWhatAMessageSays:
    def test_an_old_producers_call(self, place: Place) -> None:
        task_id = place.producer.tasks["shop.add"].delay(2, y=3).id
        assert place.result(task_id) == 5
        assert place.info(task_id).queue == place.queue

    def test_it_is_received_once(self, place: Place) -> None:
        """Celery's own strategy must not see it as well."""
        task_id = place.send("shop.add", 1)
        place.ended(task_id)
        assert place.logs.count(f"shop.add[{task_id}] received") == 1

    def test_it_is_published_once(self, place: Place) -> None:
        """By who sent it: what makes it a work sends no signals of publishing."""
        add = place.producer.tasks["shop.add"]
        last = chain(add.s(1, 2), add.s(3)).apply_async()
        place.ended(last.id)
        assert place.runs_of(last.parent.id) == place.runs_of(last.id) == []

    def test_what_its_request_shows(self, place: Place) -> None:
        task_id = place.send(
            "shop.asked", kwargs={"a": 1}, headers={"customer": "7"}, root_id="root", parent_id="parent",
            time_limit=100, soft_time_limit=90, stamped_headers=["tag", "shop"], tag="urgent", shop=[4],
        )  # fmt: skip
        seen = place.result(task_id)
        assert seen["id"] == task_id
        assert (seen["root_id"], seen["parent_id"], seen["timelimit"]) == ("root", "parent", [100, 90])
        assert seen["headers"] == {"customer": "7"}
        assert seen["stamps"] == {"tag": "urgent", "shop": [4]}
        assert place.info(task_id).tags == {"shop.asked", "urgent", "shop=4"}

    def test_eta_is_a_row_and_no_message(self, place: Place) -> None:
        at = datetime.now(UTC) + timedelta(hours=1)
        task_id = place.send("shop.add", 1, eta=at)
        info = wait_until(lambda: place.info(task_id))
        assert info.state is State.ENQUEUED
        assert abs(info.next_schedule_time - at) < timedelta(seconds=1)
        place.manager.cancel_work_by_id(task_id)

    def test_a_short_countdown_passes(self, place: Place) -> None:
        assert place.result(place.send("shop.add", 1, countdown=0.5)) == 2

    def test_what_has_expired_never_runs(self, place: Place) -> None:
        task_id = place.send("shop.asked", countdown=3600, expires=1)
        place.ended(task_id, State.CANCELLED)
        assert place.runs_of(task_id) == []
        with pytest.raises(TaskRevokedError):
            place.app.tasks["shop.asked"].AsyncResult(task_id).get(timeout=5)

    def test_attempts_of_the_old_version_count(self, place: Place) -> None:
        """It may be tried four times, and was twice."""
        task_id = place.send("shop.flaky", retries=2)
        assert place.result(task_id) == 3
        assert [run["retries"] for run in place.runs_of(task_id)] == [2, 3]

    def test_a_task_that_stays_an_ordinary_one_goes_on(self, place: Place) -> None:
        task_id = place.producer.send_task("celery.backend_cleanup").id
        wait_until(lambda: f"celery.backend_cleanup[{task_id}] succeeded" in place.logs)
        assert place.info(task_id) is None


class TestOnce:
    def test_a_message_that_comes_twice(self, place: Place) -> None:
        task_id = str(uuid.uuid4())
        for _ in range(3):
            place.send("shop.asked", task_id=task_id)
        place.ended(task_id)
        later = place.send("shop.add", 1)
        place.ended(later)
        assert len(place.runs_of(task_id)) == 1

    def test_a_message_of_a_work_that_is_long_finished(self, place: Place) -> None:
        task_id = place.send("shop.asked")
        version = place.ended(task_id).version
        place.send("shop.asked", task_id=task_id)
        place.ended(place.send("shop.add", 1))  # messages of one queue become works in turn
        assert place.info(task_id).version == version
        assert len(place.runs_of(task_id)) == 1

    def test_a_message_of_a_work_that_was_pruned_is_a_new_one(self, place: Place) -> None:
        """Nobody remembers its id: retention has to be longer than a broker may hold a message back."""
        task_id = place.send("shop.asked")
        place.ended(task_id)
        place.manager.prune_work()
        assert place.info(task_id) is None
        place.send("shop.asked", task_id=task_id)
        place.ended(task_id)
        assert len(place.runs_of(task_id)) == 2

    def test_many(self, place: Place) -> None:
        ids = [place.send("shop.add", number) for number in range(200)]
        assert [place.result(task_id) for task_id in ids] == [number + 1 for number in range(200)]


class TestOtherLanguages:
    """Messages as Celery's documentation describes them, "Task messages", written by hand."""

    def publish(self, place: Place, body: Any, content_type: str = "application/json", **message: Any) -> None:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        options = {"content_type": content_type, "content_encoding": "utf-8", **message}
        with place.connection() as connection, connection.Producer() as producer:
            producer.publish(text, routing_key=place.queue, **options)

    def test_protocol_2_with_its_least_headers(self, place: Place) -> None:
        task_id = str(uuid.uuid4())
        self.publish(place, [[2, 3], {}, None], headers={"lang": "js", "task": "shop.add", "id": task_id})
        assert place.result(task_id) == 5

    def test_protocol_2_with_all_of_them(self, place: Place) -> None:
        task_id = str(uuid.uuid4())
        headers = {
            "lang": "php", "task": "shop.asked", "id": task_id, "root_id": "root", "parent_id": None, "group": None,
            "meth": "", "shadow": None, "eta": "2020-01-01T00:00:00Z", "expires": None, "retries": 0,
            "timelimit": [None, None], "argsrepr": "()", "kwargsrepr": "{}", "origin": "1@php", "x-request": "5",
        }  # fmt: skip
        nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        self.publish(place, [[], {"a": 1}, nothing], headers=headers, correlation_id=task_id)
        seen = place.result(task_id)
        assert (seen["root_id"], seen["headers"]) == ("root", {"x-request": "5"})

    def test_protocol_1(self, place: Place) -> None:
        task_id = str(uuid.uuid4())
        self.publish(place, {"task": "shop.add", "id": task_id, "args": [2], "kwargs": {"y": 3}})
        assert place.result(task_id) == 5

    def test_protocol_1_with_all_that_it_knows(self, place: Place) -> None:
        task_id, later = str(uuid.uuid4()), str(uuid.uuid4())
        link = {"task": "shop.asked", "args": [], "kwargs": {}, "options": {"task_id": later}, "immutable": True}
        body = {
            "task": "shop.asked", "id": task_id, "args": [], "kwargs": {}, "retries": 1, "eta": "2020-01-01T00:00:00",
            "expires": None, "utc": True, "callbacks": [link], "errbacks": None, "timelimit": [None, None],
            "taskset": "a-group", "chord": None,
        }  # fmt: skip
        self.publish(place, body)
        seen = place.result(task_id)
        assert (seen["retries"], seen["group"], seen["headers"]) == (1, "a-group", None)
        assert place.result(later)["parent_id"] == task_id

    def test_celery_with_protocol_1(self, place: Place) -> None:
        old = Celery("old", set_as_current=False)
        old.conf.update(place.conf, task_protocol=1)
        task_id = old.send_task("shop.add", (2,), {"y": 3}, countdown=0.1).id
        assert place.result(task_id) == 5
        old.close()


class TestBeat:
    def test_an_entry_that_is_sent_by_name(self, place: Place) -> None:
        """As celery beat and django-celery-beat do in a process that doesn't know the task."""
        beat = Celery("beat", set_as_current=False)
        beat.conf.update(place.conf)
        entry = ScheduleEntry(
            "nightly", "shop.asked", schedule=timedelta(hours=1), app=beat,
            kwargs={"a": 1}, options={"expires": 60, "headers": {"periodic_task_name": "nightly"}},
        )  # fmt: skip
        task_id = Scheduler(beat, lazy=True).apply_async(entry, advance=False).id
        assert place.result(task_id)["headers"]["periodic_task_name"] == "nightly"
        beat.close()


class TestCanvases:
    """Parts of a canvas that somebody sends without knowing that its tasks are works."""

    def test_a_chain(self, place: Place) -> None:
        add = place.producer.tasks["shop.add"]
        last = chain(add.s(1, 2), add.s(3), add.s(4)).apply_async()
        assert place.result(last.id) == 10
        assert place.info(last.id).prerequisites == (last.parent.id,)

    def test_a_callback_and_an_errback(self, place: Place) -> None:
        tasks = place.producer.tasks
        after, never = tasks["shop.asked"].si().set(task_id=str(uuid.uuid4())), str(uuid.uuid4())
        tasks["shop.add"].apply_async((1,), link=after, link_error=tasks["shop.asked"].si().set(task_id=never))
        assert place.result(after.id)["id"] == after.id
        assert place.info(never) is None

    def test_members_of_a_group(self, place: Place) -> None:
        add = place.producer.tasks["shop.add"]
        sent = group(add.s(number) for number in range(5)).apply_async()
        assert [place.result(each.id) for each in sent.results] == [1, 2, 3, 4, 5]


class TestWhoRevokesWhatIsStillAMessage:
    def test_it_is_stored_as_cancelled(self, place: Place) -> None:
        task_id = str(uuid.uuid4())
        place.app.control.revoke(task_id, reply=True)
        place.send("shop.asked", task_id=task_id)
        place.ended(task_id, State.CANCELLED)
        assert place.runs_of(task_id) == []


@pytest.fixture(scope="module")
def waiting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[Place]:
    """A place whose tasks had their results in Redis, where those who send still look; ``shop.echo`` stayed plain."""
    folder = tmp_path_factory.mktemp("waiting")
    with store_of("sqlite", folder, request.getfixturevalue("sqlite_template")) as store_url:
        made = make_place(folder, redis_url, store_url, result_backend=redis_url)
        try:
            made.worker(without=["shop.echo"]).start()
            yield made
        finally:
            made.close()


@pytest.mark.redis
class TestWhoWaitsElsewhere:
    """A caller that has never heard of works gets its results where it has always got them."""

    def test_a_result(self, waiting: Place) -> None:
        assert waiting.producer.tasks["shop.add"].delay(1, 2).get(timeout=30) == 3

    def test_a_failure(self, waiting: Place) -> None:
        sent = waiting.producer.send_task("shop.add", (1, 2, 3))
        with pytest.raises(TypeError, match="positional"):
            sent.get(timeout=30)

    def test_a_refusal(self, waiting: Place) -> None:
        sent = waiting.producer.send_task("shop.add", (1,), serializer="pickle")
        with pytest.raises(Exception, match="as JSON, got: application/x-python-serialize"):
            sent.get(timeout=30)

    def test_a_chain_through_both_worlds(self, waiting: Place) -> None:
        add, echo = waiting.producer.tasks["shop.add"], waiting.producer.tasks["shop.echo"]
        assert chain(add.s(1, 2), echo.s(), add.s(4), echo.s()).apply_async().get(timeout=30) == 7

    def test_a_chord_of_both(self, waiting: Place) -> None:
        add, echo = waiting.producer.tasks["shop.add"], waiting.producer.tasks["shop.echo"]
        assert chord([add.s(1), echo.s(2), add.s(3)], echo.s()).apply_async().get(timeout=30) == [2, 2, 4]
        assert (
            chord([echo.s(1), echo.s(2)], waiting.producer.tasks["shop.total"].s()).apply_async().get(timeout=30) == 3
        )

    def test_a_call_that_wants_no_result_leaves_none(self, waiting: Place) -> None:
        add = waiting.producer.tasks["shop.add"]
        wanted, unwanted = add.apply_async((1,)), add.apply_async((1,), ignore_result=True)
        waiting.ended(unwanted.id)
        assert wanted.get(timeout=30) == 2
        told = "".join(str(i.input_data) for i in waiting.manager.get_work_infos_by_tag("celery_workmanager.report"))
        assert wanted.id in told
        assert unwanted.id not in told


@pytest.mark.rabbitmq
def test_who_waits_for_messages_back(request: pytest.FixtureRequest, tmp_path: Path, rabbitmq_url: str) -> None:
    """Celery's rpc:// backend sends a result to whoever has called."""
    with store_of("sqlite", tmp_path, request.getfixturevalue("sqlite_template")) as store_url:
        place = make_place(tmp_path, rabbitmq_url, store_url, result_backend="rpc://")
        try:
            place.worker().start()
            assert place.producer.tasks["shop.add"].delay(1, 2).get(timeout=30) == 3
            with pytest.raises(TypeError, match="positional"):
                place.producer.send_task("shop.add", (1, 2, 3)).get(timeout=30)
            with pytest.raises(Exception, match="as JSON, got"):
                place.producer.send_task("shop.add", (1,), serializer="pickle").get(timeout=30)
        finally:
            place.close()
