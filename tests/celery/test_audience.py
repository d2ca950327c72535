"""Task events are made when somebody listens, and only then: on real transports, with real listeners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest
from celery import Celery
from celery.events import EventDispatcher

from celery_workmanager import embedded, task_events
from celery_workmanager.audience import Audience, BoundQueues, Subscribers, audience_of
from celery_workmanager.engine_prefork import PreforkEngine
from celery_workmanager.flights import Flight, Job
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.request import RequestHost, WorkRequest
from celery_workmanager.task_events import TaskEvents
from tests.celery.events_worker import filesystem
from tests.celery.pool_worker import wait_until

pytestmark = pytest.mark.timeout(60)

KINDS = {"redis": Subscribers, "memory": BoundQueues, "filesystem": BoundQueues, "rabbitmq": Audience}
KNOWING = [pytest.param("redis", marks=pytest.mark.redis), "memory", "filesystem"]
_numbers = count()


class Consumer:
    """What a request needs of Celery's."""

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self.event_dispatcher = dispatcher


class Stage:
    """Events that are told on one broker, and what was made of them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.connection = app.connection_for_write()
        self.dispatcher = app.events.Dispatcher(self.connection, hostname="here")
        self.events = TaskEvents(lambda: self.dispatcher)
        self.made: list[str] = []

    def tell(self, *names: str) -> float:
        """All of them while the thread that sends is held, so that they gather, and wait until they are sent.

        Returns the moment at which all were told and none was sent.
        """
        go_on = threading.Event()
        self.events.post(lambda: go_on.wait(20))
        for name in names:
            self.events.send("task-started", partial(self._make, name))
        told_at = time()
        go_on.set()
        self.events.flush(20)
        return told_at

    def work(self, name: str = "w") -> WorkRequest:
        """A work whose events are told here."""
        host = RequestHost(self.app, "here", lambda *_: None, max_interruptions=1)
        host.events, host.consumer = self.events, Consumer(self.dispatcher)
        return WorkRequest(Claim(name, "shop.bake", "q", 1, "n", 0, 0, 0, ["{}"]), None, host)

    def _make(self, name: str) -> dict[str, Any]:
        self.made.append(name)
        return {"uuid": name}

    @contextmanager
    def listener(self, routing_key: str = "#") -> Iterator[list[dict[str, Any]]]:
        """What a receiver of Celery's hears from now on."""
        seen: list[dict[str, Any]] = []
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": seen.append}, routing_key=routing_key)
            ready = threading.Event()
            receiver.on_consume_ready = lambda *_, **__: ready.set()
            thread = threading.Thread(target=partial(receiver.capture, wakeup=False), daemon=True)
            thread.start()
            assert ready.wait(20)
            # Redis is sent the subscription later, and nobody waits for its answer.
            wait_until(partial(self._reaches, seen), 20, "the listener listens")
            try:
                yield seen
            finally:
                receiver.should_stop = True
                thread.join(20)
                assert not thread.is_alive()

    def _reaches(self, seen: list[dict[str, Any]]) -> bool:
        self.dispatcher.send("worker-probe")
        return bool(seen)


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    broker = request.param
    url = f"{broker}://" if broker in ("memory", "filesystem") else request.getfixturevalue(f"{broker}_url")
    app = Celery("stage", broker=url, set_as_current=False)
    app.conf.event_queue_prefix = "audience-test"
    app.conf.event_exchange = f"celeryev-test-{next(_numbers)}"  # in memory a queue stays bound for ever
    if broker == "filesystem":
        embedded.install()
        app.conf.broker_transport_options = filesystem(tmp_path)
    stage = Stage(app)
    with stage.connection:
        yield stage
    app.close()


def names(seen: list[dict[str, Any]]) -> list[str]:
    return [each["uuid"] for each in list(seen) if "uuid" in each]


def several(name: str, count: int = 60) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


@pytest.mark.parametrize("stage", [*KNOWING, pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
def test_what_is_known_of_an_audience_depends_on_the_broker(stage, request):
    stage.dispatcher.send("task-started", uuid="declares the exchange")
    kind = KINDS[request.node.callspec.params["stage"]]
    assert type(audience_of(stage.dispatcher, "task.multi")) is kind


@pytest.mark.parametrize("stage", KNOWING, indirect=True)
def test_what_nobody_would_get_is_not_made(stage):
    stage.tell("first")  # by which it learns how to ask
    stage.tell("second")
    stage.made.clear()
    stage.tell(*several("a"))
    stage.tell(*several("b"))
    # Redis knows whom it reached only when something was sent.
    assert stage.made in ([], ["a0", "b0"])


@pytest.mark.rabbitmq
@pytest.mark.parametrize("stage", ["rabbitmq"], indirect=True)
def test_where_it_cannot_be_known_all_is_sent(stage):
    stage.tell("first")
    stage.tell(*several("a"))
    assert stage.made == ["first", *several("a")]


@pytest.mark.parametrize("stage", KNOWING, indirect=True)
def test_who_comes_hears_all_that_is_told_from_then_on_in_order(stage):
    stage.tell("first")
    stage.tell(*several("before"))
    with stage.listener() as seen:
        stage.tell(*several("a"))
        told_at = stage.tell(*several("b"))
        wait_until(lambda: len(names(seen)) >= 120, 20)
        told = sorted((each for each in seen if "uuid" in each), key=lambda each: each["clock"])
    assert names(told) == several("a") + several("b")
    moments = [each["timestamp"] for each in told]
    assert moments == sorted(moments)
    assert moments[-1] <= told_at
    assert {(each["type"], each["hostname"]) for each in told} == {("task-started", "here")}


@pytest.mark.redis
@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_when_the_last_listener_has_gone_nothing_is_made_any_more(stage):
    with stage.listener() as seen:
        stage.tell(*several("a"))
        wait_until(lambda: len(names(seen)) == 60, 20)
    stage.tell("notices")
    stage.made.clear()
    stage.tell(*several("b"))
    assert stage.made == ["b0"]


@pytest.mark.redis
@pytest.mark.parametrize("stage", KNOWING, indirect=True)
def test_what_several_short_works_return_is_shown_to_who_listens(stage):
    request = stage.work()
    engine = PreforkEngine.__new__(PreforkEngine)
    engine.host = request.host
    alone, together = (Job([Flight(request.claim, request)] * count) for count in (1, 2))
    assert (engine._shows(alone), engine._shows(together)) == (True, True)
    stage.tell("first")
    stage.tell("second")
    assert (engine._shows(alone), engine._shows(together)) == (True, False)
    with stage.listener():
        stage.tell("third")
        assert (engine._shows(alone), engine._shows(together)) == (True, True)
    request.host.consumer = None
    assert (engine._shows(alone), engine._shows(together)) == (False, False)


def end(request: WorkRequest) -> None:
    """Let it end, and its end be written."""
    outcome = Outcome(Ending.SUCCEEDED, runtime=0.5)
    request.finish(outcome, "'cake'")
    assert request.claim.told is not None
    request.claim.told(outcome)


LIFE = ["task-received", "task-started", "task-succeeded"]


@pytest.mark.parametrize("stage", KNOWING, indirect=True)
def test_who_comes_during_a_short_run_hears_its_whole_life_when_it_ends(stage):
    stage.tell("first")
    stage.tell("second")
    request, gone = stage.work(), stage.work("given back")
    for each in (gone, request):
        each.receive(is_short=True)
        each.accept(7, monotonic(), is_over=True)
    gone.finish(Outcome(Ending.GIVEN_BACK), None)
    ended = time()
    with stage.listener() as seen:
        end(request)
        wait_until(lambda: len(names(seen)) >= 3, 20)
    told = sorted((each for each in seen if each.get("uuid") == "w"), key=lambda each: each["clock"])
    assert [each["type"] for each in told] == LIFE
    received, started, succeeded = (each["timestamp"] for each in told)
    assert received <= ended < succeeded
    assert started == request.time_start
    assert told[-1]["result"] == "'cake'"


@pytest.mark.parametrize("stage", KNOWING, indirect=True)
def test_a_run_that_was_thought_short_is_told_while_it_lasts(stage):
    stage.tell("first")
    stage.tell("second")
    request = stage.work()
    request.receive(is_short=True)
    with stage.listener() as seen:
        request.accept(7, monotonic())
        wait_until(lambda: len(names(seen)) == 2, 20)
        end(request)
        wait_until(lambda: len(names(seen)) == 3, 20)
    told = sorted((each for each in seen if "uuid" in each), key=lambda each: each["clock"])
    assert [each["type"] for each in told] == LIFE


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_a_short_run_is_told_as_it_goes_where_somebody_listens(stage):
    with stage.listener() as seen:
        stage.tell("first")
        request = stage.work()
        request.receive(is_short=True)
        wait_until(lambda: [each["type"] for each in seen if each.get("uuid") == "w"] == LIFE[:1], 20)
        request.accept(7, monotonic(), is_over=True)
        wait_until(lambda: [each["type"] for each in seen if each.get("uuid") == "w"] == LIFE[:2], 20)


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_who_listens_to_workers_alone_is_no_audience_of_tasks(stage):
    """As every worker does (gossip)."""
    with stage.listener("worker.#"):
        stage.tell("first")
        stage.tell("second")
        stage.made.clear()
        stage.tell(*several("a"))
        assert stage.made == ["a0"]


@pytest.mark.redis
@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_what_other_threads_publish_by_the_same_channel_does_not_count(stage):
    stage.dispatcher.send("task-started", uuid="declares the exchange")
    audience = audience_of(stage.dispatcher, "task.multi")
    other = threading.Thread(target=stage.dispatcher.send, args=("worker-heartbeat",))
    other.start()
    other.join()
    assert audience.may_have_heard()  # nothing was counted
    stage.dispatcher.send("worker-heartbeat")
    assert not audience.may_have_heard()


class Asked(Audience):
    """Nobody is there, and while the answer is on its way `meanwhile` happens; then somebody is."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self._was_asked = False

    def may_be_there(self) -> bool:
        if not self._was_asked:
            self._was_asked = True
            self._meanwhile()
            return False
        return True


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_what_is_told_while_it_is_being_asked_is_not_dropped_with_the_rest(stage):
    stage.tell("first")
    stage.made.clear()
    stage.events._audience = Asked(lambda: stage.events.send("task-started", partial(stage._make, "meanwhile")))
    stage.tell(*several("early"))
    stage.events.flush(20)  # it has been told to send once more
    assert stage.made == ["meanwhile"]


class Counted(Audience):
    """Nobody got what was sent; `meanwhile` happened before that was known."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self._was_asked = False

    def may_have_heard(self) -> bool:
        if not self._was_asked:
            self._was_asked = True
            self._meanwhile()
            return False
        return True


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_what_is_told_while_something_is_published_is_not_dropped_with_the_rest(stage):
    stage.tell("first")
    stage.made.clear()
    stage.events._audience = Counted(lambda: stage.events.send("task-started", partial(stage._make, "meanwhile")))
    stage.tell(*several("early"))
    stage.events.flush(20)
    assert stage.made == [*several("early", 24), "meanwhile"]


class Elsewhere(EventDispatcher):
    """An app's own, that keeps events itself."""

    kept: list[str]

    def send(self, type: str, **fields: Any) -> None:
        self.kept.append(fields["uuid"])


def test_a_dispatcher_of_the_app_s_own_gets_all():
    kept: list[str] = []
    app = Celery("own", broker="memory://own", set_as_current=False)
    app.events.dispatcher_cls = type("Kept", (Elsewhere,), {"kept": kept})
    stage = Stage(app)
    stage.dispatcher.exchange(stage.connection.default_channel).declare()  # or nothing could be known anyway
    stage.tell("first")
    stage.tell(*several("a"))
    assert kept == ["first", *several("a")]


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_when_many_wait_what_comes_is_made_at_once(stage, monkeypatch):
    """What isn't made holds the inputs of its work."""
    monkeypatch.setattr(task_events, "_MOST_UNMADE", 3)
    made_at_once: list[list[str]] = []
    with stage.listener() as seen:
        go_on = threading.Event()
        stage.events.post(lambda: go_on.wait(20))
        for name in several("a", 5):
            stage.events.send("task-started", partial(stage._make, name))
            made_at_once.append(list(stage.made))
        go_on.set()
        stage.events.flush(20)
        wait_until(lambda: len(names(seen)) >= 5, 20)
    assert made_at_once == [[], [], [], ["a3"], ["a3", "a4"]]
    assert names(seen) == several("a", 5)


@pytest.mark.parametrize("stage", ["memory"], indirect=True)
def test_what_can_not_be_made_keeps_nothing_else_from_being_told(stage, caplog):
    def fail() -> dict[str, Any]:
        raise ValueError("no such argument")

    with stage.listener() as seen:
        stage.tell("before")
        stage.events.send("task-received", fail)
        stage.tell("after")
        wait_until(lambda: len(names(seen)) >= 2, 20)
    assert names(seen) == ["before", "after"]
    assert "Error in telling task-received" in caplog.text
