"""Code that changes while works wait: rolling deploys, renamed workers, workers that become ordinary tasks."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord

from celery_workmanager import OneTimeWorkRequest, State, Worker, WorkManager
from celery_workmanager.errors import ConfigurationError, InvalidRequest, StoreBusy
from tests.celery.intake_place import Place, make_place, store_of, wait_until
from tests.stores import sqlite_template  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture
def place_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Makes one place without a server for the messages, over the store of that kind."""
    made: list[Any] = []

    def make(store: str = "sqlite", **conf: Any) -> Place:
        if store == "postgresql":
            request.getfixturevalue("postgresql_url")
        made.append(store_of(store, tmp_path, request.getfixturevalue("sqlite_template")))
        made.append(make_place(tmp_path, "filesystem://", made[0].__enter__(), **conf))
        return made[1]

    yield make
    if made:
        made[1].close()
        made[0].__exit__(None, None, None)


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_a_new_worker_waits_for_the_nodes_that_know_it(place_on: Any, store: str) -> None:
    place = place_on(store)
    old = place.worker("old", unknown=["shop.total"]).start()
    tasks = place.app.tasks
    new = [tasks["shop.total"].delay([1, number]).id for number in range(5)]
    known = [tasks["shop.add"].delay(number).id for number in range(5)]
    following = chain(tasks["shop.echo"].s([4, 5]), tasks["shop.total"].s()).apply_async()
    assert [place.result(task_id) for task_id in known] == [1, 2, 3, 4, 5]
    assert place.result(following.parent.id) == [4, 5]
    wait_until(lambda: place.info(following.id).state is State.ENQUEUED)
    waiting = [place.info(task_id) for task_id in (*new, following.id)]
    assert {(info.state, info.runs, info.node) for info in waiting} == {(State.ENQUEUED, 0, None)}

    place.worker("new").start()
    assert [place.result(task_id) for task_id in new] == [1, 2, 3, 4, 5]
    assert place.result(following.id) == 9
    assert "Traceback" not in old.log
    assert "shop.total[" not in old.log


class TestARenamedWorker:
    RENAMED = {"renamed": {"shop.asked": "store.asked"}}  # noqa: RUF012  # a constant

    def test_runs_what_waits_and_what_comes_under_its_old_name(self, place_on: Any) -> None:
        place = place_on()
        before = place.app.tasks["shop.asked"].delay().id  # by the old code
        request = OneTimeWorkRequest("shop.asked")
        place.manager.enqueue(request)
        worker = place.worker(**self.RENAMED).start()
        message = place.send("shop.asked")
        for task_id in (before, message):
            assert place.result(task_id)["name"] == "store.asked"
        assert place.ended(request.id).output_data["name"] == "store.asked"
        assert (place.info(before).worker_name, place.info(message).worker_name) == ("shop.asked", "store.asked")
        assert f"Task store.asked[{message}] succeeded" in worker.log

        with place.code(**self.RENAMED) as new:
            by_string = new.signature("shop.asked").delay().id
            request = OneTimeWorkRequest("shop.asked")
            new.workmanager.enqueue(request)
        assert place.result(by_string)["name"] == "store.asked"
        assert place.info(by_string).worker_name == "store.asked"
        place.ended(request.id)


class TestAliases:
    @pytest.fixture
    def app(self) -> Iterator[Celery]:
        made = Celery("aliases", set_as_current=False)
        WorkManager(made, store_url="sqlite://")
        yield made
        made.close()

    def task(self, app: Celery, name: str, **options: Any) -> None:
        @app.task(name=name, shared=False, **options)
        def nothing() -> None: ...

    def test_are_names_in_the_registry(self, app: Celery) -> None:
        self.task(app, "new", base=Worker, aliases=("old", "older"))
        assert app.tasks["old"] is app.tasks["older"] is app.tasks["new"]
        assert list(app.tasks)[-1] == "new"  # Celery gives a task the name it finds it under last

    def test_of_a_task_that_comes_later(self, app: Celery) -> None:
        app.finalize()
        self.task(app, "new", base=Worker, aliases=("old",))
        assert app.tasks["old"].name == "new"

    def test_of_an_app_that_was_there_before_its_work_manager(self) -> None:
        app = Celery("late", set_as_current=False)
        self.task(app, "new", base=Worker, aliases=("old",))
        app.finalize()
        WorkManager(app, store_url="sqlite://")
        assert app.tasks["old"].name == "new"

    def test_of_a_class(self, app: Celery) -> None:
        class Cleanup(Worker):
            name = "images.cleanup"
            aliases = ("cleanup",)

        app.register_task(Cleanup())
        assert app.tasks["cleanup"].name == "images.cleanup"

    def test_that_another_task_goes_by(self, app: Celery) -> None:
        self.task(app, "new", base=Worker, aliases=("old",))
        self.task(app, "old")
        with pytest.raises(ConfigurationError, match="alias 'old' of worker 'new' to be free, got: task 'old' has it"):
            app.finalize()

    def test_that_another_worker_has(self, app: Celery) -> None:
        self.task(app, "new", base=Worker, aliases=("old",))
        self.task(app, "newer", base=Worker, aliases=("old",))
        with pytest.raises(ConfigurationError, match="alias 'old' of worker 'newer' .* task 'new' has it"):
            app.finalize()

    def test_that_are_no_tuple(self, app: Celery) -> None:
        self.task(app, "new", base=Worker, aliases="old")
        with pytest.raises(ConfigurationError, match="names in a tuple, got: 'old'"):
            app.finalize()


class TestLeaving:
    """``base=Worker`` was taken off ``shop.asked``."""

    PLAIN = {"without": ["shop.asked"]}  # noqa: RUF012  # a constant

    def test_nothing_is_lost_and_all_is_said(self, place_on: Any) -> None:
        place = place_on()
        tasks = place.app.tasks
        waiting = [tasks["shop.asked"].apply_async(headers={"customer": "7"}).id for _ in range(3)]
        request = OneTimeWorkRequest("shop.asked", {"a": 1})
        place.manager.enqueue(request)
        later = tasks["shop.asked"].apply_async(countdown=3600, expires=7200).id
        chained = chain(tasks["shop.asked"].si(), tasks["shop.asked"].si()).apply_async()
        worker = place.worker(**self.PLAIN).start()
        wait_until(lambda: "Works wait for names that are ordinary tasks here" in worker.log)
        assert re.search(r"no worker like this one will run them: shop\.asked \(7\)\.", worker.log)
        assert {place.info(each).state for each in (*waiting, request.id, later)} == {State.ENQUEUED}

        with place.code(**self.PLAIN) as plain:
            operation = plain.workmanager.release("shop.asked")
        assert set(operation.ids) == {*waiting, request.id, later}
        assert set(operation.skipped_ids) == {chained.id, chained.parent.id}
        assert all(place.info(each) is None for each in operation.ids)
        wait_until(lambda: {run["id"] for run in place.runs} == {*waiting, request.id})
        eta = wait_until(lambda: scheduled(place).get(later), what="the worker holds the delayed message")
        assert abs(datetime.fromisoformat(eta) - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
        assert len(place.runs) == 4

    def test_a_process_that_dies_in_between_sends_again(self, place_on: Any) -> None:
        place = place_on(workmanager_name_wait=0.1)
        task_id = place.app.tasks["shop.asked"].delay().id
        with place.code(**self.PLAIN) as plain:
            lock = sqlite3.connect(place.store.removeprefix("sqlite:///"), isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                plain.workmanager.release("shop.asked")
            lock.execute("ROLLBACK")
            lock.close()
            assert place.info(task_id).state is State.ENQUEUED
            assert plain.workmanager.release("shop.asked").ids == (task_id,)
        place.worker(**self.PLAIN).start()
        wait_until(lambda: len(place.runs_of(task_id)) == 2)

    @pytest.mark.slow
    @pytest.mark.redis
    def test_what_came_as_a_message_leaves_as_the_same(self, place_on: Any, redis_url: str) -> None:
        """With its callbacks for errors, its place in a chord, and results where those who sent it look for them."""
        names = ["shop.asked", "shop.add", "shop.echo"]
        place = place_on(result_backend=redis_url)
        taker = place.worker("taker").start()
        asked, add, echo = (place.producer.tasks[name] for name in names)
        facts = {"headers": {"customer": "7"}, "stamped_headers": ["tag"], "tag": "a", "root_id": "root", "retries": 1}
        call = asked.apply_async(countdown=8, **facts)
        errback = asked.si().set(task_id=str(uuid.uuid4()))
        misfit = place.producer.send_task("shop.add", (1, 2, 3), countdown=8, link_error=errback)
        parts = chord([add.s(1).set(countdown=8), echo.s(2).set(countdown=8)], echo.s()).apply_async()
        sent = {call.id, misfit.id, *(part.id for part in parts.parent.results)}
        wait_until(lambda: all(map(place.info, sent)))
        taker.kill()

        with place.code(without=names) as plain:
            operations = [plain.workmanager.release(name) for name in names]
        assert {each for operation in operations for each in operation.ids} == sent
        assert [each for operation in operations for each in operation.skipped_ids] == []
        place.worker("plain", without=names).start()
        seen = call.get(timeout=30)
        assert (seen["headers"]["customer"], seen["stamps"]) == ("7", {"tag": "a"})
        assert (seen["id"], seen["root_id"], seen["retries"]) == (call.id, "root", 1)
        assert parts.get(timeout=30) == [2, 2]
        with pytest.raises(TypeError, match="positional"):
            misfit.get(timeout=30)
        wait_until(lambda: place.runs_of(errback.id))

    def test_where_it_is_a_worker_it_stays(self, place_on: Any) -> None:
        with pytest.raises(InvalidRequest, match="'shop.asked' to be an ordinary task, or unknown, in this app"):
            place_on().manager.release("shop.asked")

    def test_nothing_to_release(self, place_on: Any) -> None:
        with place_on().code(**self.PLAIN) as plain:
            assert plain.workmanager.release("shop.asked").applied is False
            assert plain.workmanager.release(f"never-heard-of-{uuid.uuid4()}").ids == ()

    def test_without_leftovers_nothing_is_said(self, place_on: Any) -> None:
        place = place_on()
        done = place.app.tasks["shop.asked"].delay().id
        place.worker("before").start()
        place.ended(done)
        worker = place.worker("after", **self.PLAIN).start()
        place.ended(place.send("shop.add", 1))
        worker.stop()
        assert "Works wait for names" not in worker.log


def scheduled(place: Place) -> dict[str, str]:
    """The moments of the messages that a worker holds back, by task id."""
    found = place.app.control.inspect(timeout=5, limit=1).scheduled() or {}
    return {each["request"]["id"]: each["eta"] for of_worker in found.values() for each in of_worker}
