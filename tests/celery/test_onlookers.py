"""What a run returns is shown to whoever looks at it; when nobody does, Celery makes no text of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import signals
from celery.app import trace
from celery.fixups.django import DjangoWorkerFixup

from celery_workmanager import tracer
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.worker import Worker
from tests.celery.in_process import InProcess

VALUE = {"n": 1}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    for each in (signals.task_success, signals.task_postrun):
        monkeypatch.setattr(each, "receivers", [])  # those of other tests in this process
        monkeypatch.setattr(each, "sender_receivers_cache", {})
    return InProcess()


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Celery's tracer makes texts of."""
    seen: list[Any] = []

    def record(value: Any, *_: Any) -> str:
        seen.append(value)
        return "text"

    monkeypatch.setattr(trace, "saferepr", record)
    return seen


def run(here: InProcess, worker: Any, *, show: bool = False, call: dict[str, Any] | int | None = None) -> Any:
    slot = here.slots.open()
    assert slot is not None
    inputs = json.dumps({} if call is None else {"args": [], "kwargs": {}})
    claim = Claim("w", worker.name, "q", 1, "n", 0, 0, 0, [inputs], {} if call is None else {"call": call})
    tracer.install(here.runtime)
    try:
        tracer.run_batch(show, [tracer.member_of(claim, slot, here.slots.run_of(slot))])
    finally:
        tracer.install(None)
    outcome = here._outcome(None, slot)
    assert (outcome.ending, json.loads(outcome.output or "")) == (Ending.SUCCEEDED, VALUE)
    return outcome


def returning(here: InProcess, **options: Any) -> Any:
    @here.task(name="returning", **options)
    def worker() -> Any:
        return VALUE

    return worker


@pytest.mark.parametrize("call", [None, 1], ids=["a work", "a call"])
def test_nobody_looks(here: InProcess, texts: list[Any], call: int | None):
    run(here, returning(here), call=call)
    assert texts == [None]


class Hooked(Worker):
    abstract = True
    seen: list[Any] = []  # noqa: RUF012 - the task is one object

    def on_success(self, retval: Any, *_: Any) -> None:
        self.seen.append(retval)


class HookedAfter(Worker):
    abstract = True
    seen: list[Any] = []  # noqa: RUF012 - the task is one object

    def after_return(self, _status: str, retval: Any, *_: Any) -> None:
        self.seen.append(retval)


class Calling(Worker):
    abstract = True
    seen: list[Any] = []  # noqa: RUF012 - the task is one object

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = super().__call__(*args, **kwargs)
        self.seen.append(value)
        return value


@pytest.mark.parametrize("base", [Hooked, HookedAfter, Calling])
def test_a_task_class_looks(here: InProcess, texts: list[Any], base: Any):
    worker = returning(here, base=base)
    base.seen.clear()
    run(here, worker)
    assert (base.seen, texts) == ([VALUE], [VALUE])


@contextmanager
def receiving(signal: Any, name: str, seen: list[Any]) -> Iterator[None]:
    def receive(**facts: Any) -> None:
        seen.append(facts[name])

    signal.connect(receive)
    try:
        yield
    finally:
        signal.disconnect(receive)


@pytest.mark.parametrize(("signal", "name"), [(signals.task_success, "result"), (signals.task_postrun, "retval")])
def test_a_receiver_looks(here: InProcess, texts: list[Any], signal: Any, name: str):
    worker, seen = returning(here), list[Any]()
    with receiving(signal, name, seen):
        run(here, worker)
    run(here, worker)
    assert (seen, texts) == ([VALUE], [VALUE, None])


def test_celerys_own_receiver_for_django_looks_at_nothing(here: InProcess, texts: list[Any]):
    fixup = DjangoWorkerFixup.__new__(DjangoWorkerFixup)
    fixup.close_database = lambda **_: None
    fixup.app = here.app
    signals.task_postrun.connect(fixup.on_task_postrun)
    run(here, returning(here))
    assert texts == [None]


def test_the_log_looks(here: InProcess, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "celery.app.trace"):
        run(here, returning(here))
    assert "{'n': 1}" in caplog.text


@pytest.mark.parametrize("options", [{"show": True}, {"call": {"headers": {"trace": "t"}}}], ids=["events", "facts"])
def test_the_parent_and_what_a_call_brings_along_look(here: InProcess, texts: list[Any], options: dict[str, Any]):
    run(here, returning(here), **options)
    assert texts == [VALUE]


def test_callbacks_that_a_run_gives_itself_look(here: InProcess, texts: list[Any]):
    @here.task(name="returning", bind=True)
    def worker(self: Any) -> Any:
        self.request.callbacks = [self.app.signature("another")]
        return VALUE

    run(here, worker)
    with here.app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        assert queue.get(block=False).payload[0] == [VALUE]
    assert texts == [VALUE]


def test_a_run_without_headers_has_none(here: InProcess):
    seen: list[Any] = []

    @here.task(name="returning", bind=True)
    def worker(self: Any) -> Any:
        seen.append(self.request.headers)
        return VALUE

    run(here, worker)
    run(here, worker, call={"headers": {"trace": "t"}})
    assert seen == [None, {"trace": "t"}]
