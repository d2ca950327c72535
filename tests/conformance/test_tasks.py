"""Tasks stay tasks: delay and apply_async, AsyncResult, and the store as a result backend."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from celery import Celery, group, states
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult

from celery_workmanager import Data, OneTimeWorkRequest, Result, Worker
from celery_workmanager.testing import WorkManagerTestKit
from tests.conformance.workers import act, actions, add, app, blur, boom, ran

SECONDS = timedelta(seconds=1)


def test_delay_enqueues_a_durable_work_with_arguments_bound_by_the_signature(wm, works, kit):
    result = add.delay(1, y=2)
    info = works.info(result.id)
    assert (info.state.name, info.worker_name, info.input_data) == ("ENQUEUED", "add", Data(x=1, y=2))
    assert (result.state, result.ready()) == (states.PENDING, False)
    kit.run_until_idle()
    assert result.get(timeout=1) == 3
    assert result.successful()
    assert works.info(result.id).output_data == Data(result=3)


def test_the_apps_own_async_result_finds_it_through_the_task(kit):
    result = add.delay(1)
    kit.run_until_idle()
    assert add.AsyncResult(result.id).result == 11


@pytest.mark.parametrize("args", [(), (1, 2, 3)])
def test_arguments_that_do_not_fit_are_a_type_error_as_in_celery(kit, args):
    with pytest.raises(TypeError):
        add.delay(*args)


def test_arguments_and_results_keep_celerys_json_types(kit):
    given = {"at": datetime(2030, 1, 1, tzinfo=UTC), "id": uuid.uuid4(), "price": Decimal("1.10"), "list": [1]}
    actions["echo"] = lambda _: given
    result = act.apply_async(kwargs={"do": "echo"})
    kit.run_until_idle()
    assert result.get() == given


def test_calls_may_be_larger_than_data(works, kit):
    result = app.tasks["shared"].apply_async(args=["x" * 100_000])
    kit.run_until_idle()
    assert result is not None
    assert kit.work_manager.get_work_info_by_id(result.id).state.name == "SUCCEEDED"


def test_options_of_a_call_become_the_works(wm, works, kit):
    work_id = str(uuid.uuid4())
    result = blur.apply_async(
        ("cat.png",), {"level": 2}, task_id=work_id, countdown=60, queue="images", priority=9, expires=600
    )
    assert result.id == work_id
    info = works.info(work_id)
    assert (info.queue, info.priority) == ("images", 9)
    assert info.next_schedule_time == works.now + 60 * SECONDS
    assert kit.run_until_idle() == 0
    kit.clock.advance(60 * SECONDS)
    kit.run_until_idle()
    assert ran == [("cat.png", 2)]


def test_an_eta_is_a_moment_of_the_stores_clock(wm, works, kit):
    kit.clock.advance(timedelta(days=2))
    eta = works.now + timedelta(hours=1)
    result = add.apply_async((1,), eta=eta)
    assert works.info(result.id).next_schedule_time == eta
    past = add.apply_async((1,), eta=works.now - timedelta(hours=1))
    assert works.info(past.id).next_schedule_time == works.now


def test_a_call_that_expired_is_revoked(kit):
    result = add.apply_async((1,), countdown=10, expires=5)
    kit.clock.advance(10 * SECONDS)
    kit.run_until_idle()
    assert result.state == states.REVOKED


def test_options_about_the_message_mean_nothing_here(kit):
    result = add.apply_async((1,), serializer="json", compression="gzip", retry=False, shadow="x", headers={"a": 1})
    kit.run_until_idle()
    assert result.get() == 11


def test_the_same_task_id_again_is_the_same_work(kit):
    for _ in range(2):
        add.apply_async((1,), task_id="once")
    assert kit.run_until_idle() == 1


# -- AsyncResult --------------------------------------------------------------------------------------------------


def test_an_async_result_reads_every_state(wm, works, kit):
    seen = []
    actions["look"] = lambda self: seen.append(
        (act.AsyncResult(self.work_id).state, act.AsyncResult(self.work_id).info)
    )
    running, waiting = works.request("look"), works.request()
    wm.begin_with(running).then(waiting).enqueue()
    blocked = act.AsyncResult(waiting.id)
    assert blocked.state == states.PENDING
    assert (blocked.info["state"], blocked.info["prerequisites"]) == ("BLOCKED", [running.id])
    kit.run_one()
    [(state, info)] = seen
    assert (state, info["state"], info["run_attempt_count"]) == (states.STARTED, "RUNNING", 1)
    wm.cancel_work_by_id(waiting.id)
    assert blocked.state == states.REVOKED
    with pytest.raises(TaskRevokedError):
        blocked.get()


def test_a_failure_is_raised_as_the_exception_it_was(kit):
    result = boom.delay()
    kit.run_until_idle()
    assert (result.state, result.failed()) == (states.FAILURE, True)
    assert "the boiler is cold" in result.traceback
    with pytest.raises(ValueError, match="the boiler is cold"):
        result.get()


def test_a_returned_failure_is_an_exception_too(kit):
    actions["fail"] = lambda _: Result.failure()
    result = act.delay(do="fail")
    kit.run_until_idle()
    with pytest.raises(Exception, match="failure") as caught:
        result.get()
    assert type(caught.value).__name__ == "WorkFailed"


def test_the_result_of_an_enqueued_work_is_its_output(wm, kit):
    operation = wm.enqueue(OneTimeWorkRequest(blur, {"image": "a"}))
    kit.run_until_idle()
    assert blur.AsyncResult(operation.id).get() == {"image": "a.1", "level": 1}


def test_a_waiting_retry_is_told_as_one_and_its_info_says_when(wm, kit, works):
    actions["retry"] = lambda _: Result.retry()
    result = act.delay(do="retry")
    kit.run_until_idle()
    assert result.state == states.RETRY
    assert result.info["next_schedule_time"] == (works.now + 30 * SECONDS).isoformat()


def counted(store, name, monkeypatch) -> list[str]:
    """Grows with each call of that method of the store."""
    calls, call = [], getattr(store, name)

    def counting(*args, **options):
        calls.append(name)
        return call(*args, **options)

    monkeypatch.setattr(store, name, counting)
    return calls


@pytest.fixture
def naps(kit, monkeypatch):
    """What happens in each pause of who waits for a result, and how long the pauses were."""
    happens: dict[int, Callable[[], object]] = {}
    seconds: list[float] = []

    def nap(pause):
        seconds.append(pause)
        happens.pop(len(seconds), lambda: None)()

    monkeypatch.setattr(add.AsyncResult("any").backend, "_sleep", nap)
    return happens, seconds


def test_who_waits_reads_the_result_when_it_is_there(kit, naps, monkeypatch):
    happens, seconds = naps
    result, looks = add.delay(1), counted(kit.work_manager.store, "result_of", monkeypatch)
    happens[3] = kit.run_until_idle
    turns = []
    meta = result.backend.wait_for(result.id, timeout=10, interval=0.25, on_interval=lambda: turns.append(len(seconds)))
    assert (meta["result"], seconds, turns, len(looks)) == (11, [0.25] * 3, [0, 1, 2], 1)
    assert result.get() == 11


@pytest.mark.parametrize(("timeout", "pauses"), [(0, []), (1.25, [0.5, 0.5, 0.25])])
def test_who_waits_too_long_is_told_so(kit, naps, timeout, pauses):
    with pytest.raises(CeleryTimeoutError):
        add.delay(1).get(timeout=timeout, interval=0.5)
    assert naps[1] == pauses


def test_what_somebody_else_says_of_an_unfinished_work_ends_the_wait(kit, naps):
    happens, _ = naps
    result = add.delay(1)
    happens[1] = lambda: result.backend.store_result(result.id, "enough", states.SUCCESS)
    assert result.get(timeout=10) == "enough"


def test_an_unknown_id_is_pending(kit):
    assert add.AsyncResult("nobody").state == states.PENDING
    assert add.AsyncResult("nobody").info is None


def test_an_eager_app_runs_a_call_at_once(kit):
    add.app.conf.task_always_eager = True
    try:
        assert add.delay(1).get() == 11
        assert kit.run_until_idle() == 0
    finally:
        add.app.conf.task_always_eager = False


# -- results of ordinary tasks -------------------------------------------------------------------------------------


@pytest.fixture
def backend_app(kit_url):
    """An app whose result backend is the store."""
    app = Celery("results", broker="memory://", result_backend="workmanager", set_as_current=False)

    @app.task(name="plus", shared=False)
    def plus(x, y):
        return x + y

    with WorkManagerTestKit(app, kit_url) as kit:
        app.kit = kit
        yield app


def test_the_store_keeps_results_of_ordinary_tasks(backend_app):
    backend = backend_app.backend
    backend.store_result("t1", {"a": [1]}, states.SUCCESS)
    result = AsyncResult("t1", app=backend_app)
    assert (result.state, result.get()) == (states.SUCCESS, {"a": [1]})
    backend.mark_as_failure("t2", KeyError("x"))
    with pytest.raises(KeyError):
        AsyncResult("t2", app=backend_app).get()
    result.forget()
    assert AsyncResult("t1", app=backend_app).state == states.PENDING


def test_the_store_keeps_groups_and_counts_chords(backend_app):
    backend = backend_app.backend
    results = GroupResult("g", [AsyncResult(f"m{n}", app=backend_app) for n in range(3)], app=backend_app)
    results.save()
    for number, member in enumerate(results):
        backend.store_result(member.id, number, states.SUCCESS)
    found = GroupResult.restore("g", app=backend_app)
    assert found.get() == [0, 1, 2]
    found.delete()
    assert GroupResult.restore("g", app=backend_app) is None


def test_a_group_of_ordinary_tasks_runs_eagerly_with_this_backend(backend_app):
    plus = backend_app.tasks["plus"]
    assert group(plus.s(n, n) for n in range(3)).apply().get() == [0, 2, 4]


def test_any_async_result_of_the_app_reads_works_too(kit_url):
    app = Celery("results", broker="memory://", result_backend="workmanager", set_as_current=False)

    @app.task(base=Worker, name="work", shared=False)
    def work():
        return 5

    with WorkManagerTestKit(app, kit_url) as kit:
        result = AsyncResult(work.delay().id, app=app)
        assert (result.state, result.info["worker_name"]) == (states.PENDING, "work")
        kit.run_until_idle()
        assert (result.state, result.get()) == (states.SUCCESS, 5)


def test_results_expire(backend_app):
    backend_app.backend.store_result("t", 1, states.SUCCESS)
    backend_app.kit.clock.advance(timedelta(days=2))
    backend_app.backend._cache.clear()
    assert AsyncResult("t", app=backend_app).state == states.PENDING
