"""Revoking from a process that has no worker to tell, and a control class of the user's own."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.control import Control
from celery.utils import uuid
from kombu.exceptions import OperationalError

from celery_workmanager import OneTimeWorkRequest, StopReason, Worker, WorkManager
from celery_workmanager.control import WorkControl, install
from celery_workmanager.errors import StoreUnavailable
from tests.services import free_port

HOUR = 3600
Make = Callable[..., Celery]

told: list[tuple[str, Any]] = []


class Recording(Control):
    """A user's own control class."""

    def broadcast(self, command: str, arguments: Any = None, *args: Any, **options: Any) -> Any:
        told.append((command, arguments))
        return super().broadcast(command, arguments, *args, **options)

    def greet(self) -> str:
        return "hello"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make an app with one worker and a store of its own."""
    told.clear()
    made: list[Celery] = []

    def app(broker: str = "memory://", store: str | None = None, **options: Any) -> Celery:
        app = Celery("revoke", broker=broker, set_as_current=False, **options)
        app.conf.broker_transport_options = {"max_retries": 0, "interval_start": 0, "interval_max": 0.1}
        WorkManager(app, store_url=store or f"sqlite:///{tmp_path / 'store.sqlite3'}")
        app.task(base=Worker, name="work", shared=False)(_nothing)
        made.append(app)
        return app

    yield app
    for each in made:
        WorkManager.get_instance(each).store.close()
        each.close()


def _nothing() -> None: ...


def state_of(app: Celery, work_id: str) -> str:
    (info,) = WorkManager.get_instance(app).infos_of([work_id])
    return info.state.name


def waiting(app: Celery, **options: Any) -> str:
    """The id of a new work that waits."""
    request = OneTimeWorkRequest("work", initial_delay=HOUR, **options)
    WorkManager.get_instance(app).enqueue(request)
    return request.id


class TestControlClass:
    def test_it_stays_what_it_was(self, make: Make) -> None:
        app = make(control=Recording)
        assert isinstance(app.control, Recording)
        assert isinstance(app.control, WorkControl)
        assert type(app.control).__name__ == "Recording"
        assert app.control.greet() == "hello"  # type: ignore[attr-defined]

    def test_it_may_be_named_by_a_string_that_is_imported_when_it_is_needed(self, make: Make) -> None:
        app = make(control="tests.no_such_module:Control")
        with pytest.raises(ModuleNotFoundError):
            app.control  # noqa: B018  # it is made by being looked at
        app = make(control=f"{__name__}:Recording")
        assert app.control.greet() == "hello"

    def test_a_control_that_was_used_before_is_the_same_one(self) -> None:
        app = Celery("used", broker="memory://", control=Recording, set_as_current=False)
        before = app.control
        install(app)
        assert app.control is before
        assert isinstance(before, WorkControl)
        assert isinstance(before, Recording)

    def test_an_app_without_a_work_manager_is_left_alone(self) -> None:
        app = Celery("plain", broker="memory://", control=Recording, set_as_current=False)
        install(app)
        told.clear()
        app.control.revoke("some id")
        assert [command for command, _ in told] == ["revoke"]

    def test_an_app_can_still_be_pickled(self, make: Make) -> None:
        again = pickle.loads(pickle.dumps(make()))
        assert isinstance(again.control, WorkControl)


class TestWithoutAWorker:
    @pytest.mark.parametrize(
        "revoke",
        [
            lambda app, work: app.control.revoke(work),
            lambda app, work: app.control.revoke([work, uuid()], destination=["nobody@here"]),
            lambda app, work: app.control.revoke(work, terminate=True),
            lambda app, work: app.control.terminate([work]),
            lambda app, work: app.AsyncResult(work).revoke(),
            lambda app, work: app.tasks["work"].AsyncResult(work).revoke(terminate=True, signal="SIGKILL"),
            lambda app, work: app.control.broadcast("revoke", arguments={"task_id": work}),
            lambda app, work: app.control.broadcast("terminate", task_id=[work], signal="SIGTERM"),
        ],
    )
    def test_the_work_is_cancelled_and_the_workers_are_told(self, make: Make, revoke: Any) -> None:
        app = make(control=Recording)
        work, other = waiting(app), waiting(app)
        revoke(app, work)
        assert (state_of(app, work), state_of(app, other)) == ("CANCELLED", "ENQUEUED")
        assert len(told) == 1

    @pytest.mark.parametrize(
        ("headers", "revoked"),
        [
            ({"customer": ["7"]}, {"customer=7"}),
            ({"customer": "7"}, {"customer=7"}),
            ({"customer": 7, "tag": ["urgent", "customer=9"]}, {"customer=7", "customer=9", "urgent"}),
            ({"tag": "urgent"}, {"urgent"}),
            ({"urgent": []}, set()),
            ({"urgent": None, "": "x", "tag": ["", "x" * 999, "\0"]}, set()),
            ({}, set()),
            (["customer=7", "tag=urgent"], {"customer=7", "urgent"}),
            ("customer=7", {"customer=7"}),
            (["customer"], set()),
        ],
    )
    def test_works_are_revoked_by_stamps_which_are_their_tags(self, make: Make, headers: Any, revoked: Any) -> None:
        app = make(control=Recording)
        works = {tag: waiting(app, tags={tag}) for tag in ("customer=7", "customer=8", "customer=9", "urgent")}
        app.control.broadcast("revoke_by_stamped_headers", arguments={"headers": headers})
        assert {tag for tag, work in works.items() if state_of(app, work) == "CANCELLED"} == revoked
        assert [command for command, _ in told] == ["revoke_by_stamped_headers"]

    def test_stamped_calls_are_revoked(self, make: Make) -> None:
        app = make()
        call = app.tasks["work"].s().set(countdown=HOUR)
        stamped, tagged, other = call.clone(), call.clone(), call.clone()
        stamped.stamp(customer=["7", "8"])
        tagged.stamp(tag="urgent")
        other.stamp(customer="9")
        works = [each.apply_async().id for each in (stamped, tagged, other)]
        app.control.revoke_by_stamped_headers({"customer": "8", "tag": ["urgent"]})
        assert [state_of(app, each) for each in works] == ["CANCELLED", "CANCELLED", "ENQUEUED"]

    def test_ids_that_are_no_work_s_are_celery_s_business(self, make: Make) -> None:
        app = make(control=Recording)
        strange = ["", "\0", "x" * 999, 7, None]
        app.control.revoke(strange)
        app.control.ping(timeout=0.01)
        assert [command for command, _ in told] == ["revoke", "ping"]
        assert told[0][1]["task_id"] is strange

    def test_many_works_are_revoked_in_one_call(self, make: Make) -> None:
        app = make()
        manager = WorkManager.get_instance(app)
        requests = [OneTimeWorkRequest("work", initial_delay=HOUR) for _ in range(1203)]
        manager.enqueue(requests)
        app.control.revoke([request.id for request in requests])
        assert {info.state.name for info in manager.get_work_infos_by_tag("work")} == {"CANCELLED"}

    def test_a_run_that_is_terminated_has_the_reason(self, make: Make) -> None:
        app = make()
        store = WorkManager.get_instance(app).store
        works = waiting(app), waiting(app)
        for each in works:
            store.make_due(each)
        store.write_starts([(claim, 0) for claim in store.claim(store.ready_lanes(), "node", 1, 2)])
        app.control.revoke(works[0])
        app.control.terminate(works[1])
        reasons = [info.stop_reason for info in WorkManager.get_instance(app).infos_of(works)]
        assert reasons == [StopReason.CANCELLED_BY_APP, StopReason.USER]


class TestResultBackend:
    def test_workers_that_hear_of_a_revoked_work_write_no_result_for_it(self, make: Make) -> None:
        """Celery's workers mark what they hear to be revoked; a work's row says it."""
        app = make(backend="workmanager")
        work, task = waiting(app), uuid()
        for each in (work, task):
            app.backend.mark_as_revoked(each, reason="revoked", store_result=True)
        assert app.AsyncResult(work).state == "PENDING"
        assert app.AsyncResult(task).state == "REVOKED"
        keys = [app.backend.get_key_for_task(each).decode() for each in (work, task)]
        assert list(WorkManager.get_instance(app).store.results(keys)) == keys[1:]


class TestWithoutABroker:
    """The store's part is done all the same; only who has something to tell to workers alone hears of the broker."""

    @pytest.fixture(params=["redis", "amqp"])
    def app(self, make: Make, request: pytest.FixtureRequest) -> Celery:
        return make(f"{request.param}://127.0.0.1:{free_port()}/")

    def test_works_are_revoked(self, app: Celery) -> None:
        works = [waiting(app) for _ in range(2)]
        app.control.revoke(works[0])
        app.AsyncResult(works[1]).revoke(terminate=True)
        assert [state_of(app, each) for each in works] == ["CANCELLED", "CANCELLED"]
        # They are works still, although they have finished.
        app.control.revoke(works)

    def test_the_rest_raises_as_in_celery(self, app: Celery) -> None:
        works = [waiting(app, tags={"a=1"}) for _ in range(3)]
        with pytest.raises(OperationalError):
            app.control.revoke([works[0], uuid()])
        with pytest.raises(OperationalError):
            app.control.revoke(works[1], reply=True)
        with pytest.raises(OperationalError):
            app.control.revoke_by_stamped_headers({"a": 1})
        assert [state_of(app, each) for each in works] == ["CANCELLED"] * 3


class TestWithoutAStore:
    def test_the_workers_are_told_and_the_caller_hears_that_the_store_was_not(self, make: Make) -> None:
        app = make(control=Recording, store=f"postgresql+psycopg://postgres@127.0.0.1:{free_port()}/none")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            app.control.revoke(uuid())
        assert time.monotonic() - began < 10
        assert [command for command, _ in told] == ["revoke"]
