"""Workers of every kind, what their return values mean, and running one alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from celery_workmanager import Data, OneTimeWorkRequest, Result, Worker
from celery_workmanager.testing import WorkManagerTestKit, run_worker
from tests.conformance.workers import CleanupWorker, actions, add, blur, boom, shared


class Picture(BaseModel):
    name: str
    size: int = 1


def run(kit, worker, data=None, **options):
    operation = kit.work_manager.enqueue(OneTimeWorkRequest(worker, data, **options))
    kit.run_until_idle()
    return kit.work_manager.get_work_info_by_id(operation.id)


@pytest.fixture
def own(kit_url):
    """An app of the test's own, and its kit."""
    app = Celery("own", broker="memory://", set_as_current=False)
    with WorkManagerTestKit(app, kit_url, profile="android") as kit:
        yield app, kit


def test_input_data_are_the_keyword_arguments_of_a_function(kit):
    info = run(kit, blur, {"image": "cat", "level": 3, "unknown": True})
    assert (info.state.name, info.output_data) == ("SUCCEEDED", Data(image="cat.3", level=3))


def test_a_missing_argument_fails_the_work(kit):
    info = run(kit, blur, {"level": 3})
    assert (info.state.name, info.error.exc_type) == ("FAILED", "TypeError")
    assert "image" in info.error.message


def test_a_class_based_worker_reads_its_input(kit):
    assert run(kit, CleanupWorker, {"folder": "/x"}).output_data == Data(folder="/x", run=0)


def test_a_shared_task_is_a_worker_of_every_app(own):
    assert run(own[1], shared, {"word": "hi"}).output_data == Data(result="HI")


@pytest.mark.parametrize(
    ("value", "state", "output"),
    [
        (None, "SUCCEEDED", {}),
        ({}, "SUCCEEDED", {}),
        ({"a": 1}, "SUCCEEDED", {"a": 1}),
        (Data(a=1), "SUCCEEDED", {"a": 1}),
        (5, "SUCCEEDED", {"result": 5}),
        (False, "SUCCEEDED", {"result": False}),
        ("x", "SUCCEEDED", {"result": "x"}),
        ([1, {"a": None}], "SUCCEEDED", {"result": [1, {"a": None}]}),
        (Picture(name="cat"), "SUCCEEDED", {"name": "cat", "size": 1}),
        (Result.success(), "SUCCEEDED", {}),
        (Result.success({"a": 1}, b=2), "SUCCEEDED", {"a": 1, "b": 2}),
        (Result.failure(), "FAILED", {}),
        (Result.failure(why="x"), "FAILED", {"why": "x"}),
        (object(), "FAILED", {}),
    ],
)
def test_a_returned_value_means_one_thing(kit, works, value, state, output):
    actions["return"] = lambda _: value
    info = run(kit, "act", {"do": "return"})
    assert (info.state.name, info.output_data) == (state, Data(output))


def test_a_coroutine_function_is_a_worker(own):
    app, kit = own

    @app.task(base=Worker, shared=False, bind=True)
    async def sync(self, account: int):
        self.set_progress(at=1)
        await asyncio.sleep(0)
        return {"account": account, "work": self.work_id}

    info = run(kit, sync, {"account": 7})
    assert info.output_data == Data(account=7, work=info.id)


def test_a_coroutine_worker_that_is_stopped_is_cancelled_inside(own):
    app, kit = own
    seen = []

    @app.task(base=Worker, shared=False, bind=True)
    async def sync(self):
        kit.work_manager.cancel_work_by_id(self.work_id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(self.is_stopped)
            raise

    assert run(kit, sync).state.name == "CANCELLED"
    assert seen == [True]


def test_on_stopped_is_called_once(own):
    import threading

    app, kit = own
    stopped, calls = threading.Event(), []

    class Stoppable(Worker):
        name = "stoppable"

        def do_work(self):
            kit.work_manager.cancel_work_by_id(self.work_id)
            assert stopped.wait(10)

        def on_stopped(self):
            calls.append(self.work_id)
            stopped.set()

    app.register_task(Stoppable())
    info = run(kit, Stoppable)
    assert (info.state.name, calls) == ("CANCELLED", [info.id])


def test_a_worker_knows_its_run_and_nothing_outside_one(own):
    app, kit = own
    seen: list[Any] = []

    @app.task(base=Worker, shared=False, bind=True)
    def look(self, **_):
        seen.extend([self.work_id, dict(self.input_data), set(self.tags), self.run_attempt_count, self.generation])

    info = run(kit, look, {"a": 1}, tags={"t"})
    assert seen == [info.id, {"a": 1}, {look.name, "t"}, 0, 0]
    assert look.is_stopped is False
    with pytest.raises(NotImplementedError, match="expected to be inside a run"):
        _ = look.work_id


def test_pydantic_models_are_validated_and_serialised(own):
    app, kit = own

    @app.task(base=Worker, shared=False)
    def grow(picture: Picture, by: int = 2) -> Picture:
        return Picture(name=picture.name, size=picture.size * by)

    info = run(kit, grow, {"picture": Picture(name="cat", size=3)})
    assert (info.input_data, info.output_data) == (
        Data(picture={"name": "cat", "size": 3}),
        Data(name="cat", size=6),
    )
    bad = run(kit, grow, {"picture": {"name": "cat", "size": "large"}})
    assert (bad.state.name, bad.error.exc_type) == ("FAILED", "ValidationError")
    result = grow.delay(Picture(name="dog"), by=5)
    kit.run_until_idle()
    assert result.get() == {"name": "dog", "size": 5}


def test_celerys_autoretry_means_a_retry_up_to_its_limit(own):
    app, kit = own

    @app.task(base=Worker, shared=False, autoretry_for=(KeyError,), max_retries=2)
    def flaky():
        raise KeyError("x")

    info = run(kit, flaky)
    for _ in range(2):
        assert (info.state.name, info.next_schedule_time > info.enqueued_at) == ("ENQUEUED", True)
        kit.clock.advance(info.next_schedule_time - kit.clock.today())
        kit.run_until_idle()
        info = kit.work_manager.get_work_info_by_id(info.id)
    assert (info.state.name, info.error.exc_type, info.run_attempt_count) == ("FAILED", "KeyError", 3)


def test_celerys_retry_waits_for_its_countdown_or_for_the_backoff(own):
    app, kit = own

    @app.task(base=Worker, shared=False, bind=True)
    def again(self, wait=None):
        raise self.retry(countdown=wait)

    now = kit.clock.today()
    assert run(kit, again, {"wait": 7}).next_schedule_time == now + timedelta(seconds=7)
    assert run(kit, again).next_schedule_time == now + timedelta(seconds=30)


def test_retries_over_the_limit_raise_what_went_wrong(own):
    app, kit = own

    @app.task(base=Worker, shared=False, bind=True)
    def again(self):
        raise self.retry(exc=OSError("net"), max_retries=0)

    info = run(kit, again)
    assert (info.state.name, info.error.exc_type) == ("FAILED", "OSError")


# -- one worker alone ---------------------------------------------------------------------------------------------


def test_one_worker_runs_without_a_manager():
    assert run_worker(blur, {"image": "cat"}) == Result.success(image="cat.1", level=1)
    assert run_worker(add, {"x": 1}) == Result.success(result=11)
    assert run_worker(boom) == Result.failure()
    assert run_worker(CleanupWorker, {"folder": "x"}, run_attempt_count=3) == Result.success(folder="x", run=3)
    assert run_worker(shared, {"word": "a"}) == Result.success(result="A")


class Unregistered(Worker):
    def do_work(self):
        return Result.failure(name=self.name)


def test_a_class_that_no_app_has_registered_runs_alone_too():
    assert run_worker(Unregistered) == Result.failure(name=f"{__name__}.Unregistered")


def test_one_worker_alone_has_its_tags_and_its_retry():
    app = Celery("alone", set_as_current=False)

    @app.task(base=Worker, shared=False, bind=True, name="look")
    def look(self):
        if self.run_attempt_count:
            return Result.retry(after=5)
        self.set_progress(percent=1)
        return {"tags": sorted(self.tags)}

    assert run_worker(look, tags=("b", "a")) == Result.success(tags=["a", "b", "look"])
    assert run_worker(look, run_attempt_count=1) == Result.retry(after=5)

    @app.task(base=Worker, shared=False, name="sync")
    async def sync():
        await asyncio.sleep(0)
        return 1

    assert run_worker(sync) == Result.success(result=1)
