"""``before_task_publish`` and ``after_task_publish`` for works: what tracing tools hang on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, signals

from celery_workmanager import Worker
from celery_workmanager.testing import WorkManagerTestKit

app = Celery("announcing", broker="memory://", result_backend="cache+memory://")


@app.task(base=Worker, bind=True)
def traced(self: Any, *_: Any) -> Any:
    return [getattr(self.request, "trace", None), self.request.headers]


@app.task(base=Worker, time_limit=50, soft_time_limit=40)
def limited() -> None:
    pass


@pytest.fixture
def kit() -> Iterator[WorkManagerTestKit]:
    with WorkManagerTestKit(app) as kit:
        yield kit


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def before(sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        heard.append(("before", sender, headers["id"], body[:2]))
        headers["trace"] = f"of {headers['task']}"

    def after(sender: str, headers: dict[str, Any], **_: Any) -> None:
        heard.append(("after", sender, headers["id"], headers["trace"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    yield heard
    signals.before_task_publish.disconnect(before)
    signals.after_task_publish.disconnect(after)


def test_listeners_are_told_and_the_run_shows_the_headers_they_add(kit: Any, heard: list[Any]) -> None:
    result = traced.apply_async((1,), headers={"mine": "x"})
    kit.run_until_idle()
    name = traced.name
    assert heard == [("before", name, result.id, ((1,), {})), ("after", name, result.id, f"of {name}")]
    assert result.get() == [f"of {name}", {"mine": "x", "trace": f"of {name}"}]


def test_each_work_of_a_canvas_is_told_of(kit: Any, heard: list[Any]) -> None:
    result = (traced.s(1) | traced.s()).apply_async()
    kit.run_until_idle()
    ids = [result.parent.id, result.id]
    assert [(when, work) for when, _, work, _ in heard] == [
        (when, each) for when in ("before", "after") for each in ids
    ]
    assert result.get()[0] == f"of {traced.name}"


def test_headers_are_shown_without_any_listener(kit: Any) -> None:
    result = traced.apply_async(headers={"trace": "given"})
    kit.run_until_idle()
    assert result.get() == ["given", {"trace": "given"}]


def test_listeners_see_stamps_and_the_limits_of_the_task(kit: Any) -> None:
    seen: list[dict[str, Any]] = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        seen.append({name: headers[name] for name in ("stamped_headers", "stamps", "timelimit")})

    signals.before_task_publish.connect(before)
    try:
        limited.apply_async(stamped_headers=["customer"], customer=7)
        limited.apply_async(soft_time_limit=5)
    finally:
        signals.before_task_publish.disconnect(before)
    assert seen == [
        {"stamped_headers": ["customer"], "stamps": {"customer": 7}, "timelimit": [50, 40]},
        {"stamped_headers": [], "stamps": {}, "timelimit": [50, 5]},
    ]
