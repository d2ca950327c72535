"""The app of workers that take messages in, and the app of those who send them: there the same names are plain tasks.

Both are made from what stands in the environment, or by a test.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from celery import Celery, signals
from pydantic import BaseModel

from celery_workmanager import Worker, WorkManager
from celery_workmanager.store import passage


def note(**facts: Any) -> None:
    """Append a line, whole, whoever else writes at the same time."""
    handle = os.open(Path(os.environ["INTAKE_FOLDER"]) / "ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")
    finally:
        os.close(handle)


def add(x: int, y: int = 1) -> int:
    return x + y


def asked(self: Any, **_: Any) -> dict[str, Any]:
    """What the run knows of its call."""
    request = self.request
    note(task="asked", id=request.id)
    return {
        "id": request.id, "name": self.name, "args": list(request.args or ()), "retries": request.retries,
        "root_id": request.root_id, "parent_id": request.parent_id, "group": request.group,
        "timelimit": list(request.timelimit or ()), "headers": request.headers, "stamps": request.stamps,
    }  # fmt: skip


def flaky(self: Any) -> int:
    """Retries until it has been tried four times, wherever."""
    note(task="flaky", id=self.request.id, retries=self.request.retries)
    if self.request.retries < 3:
        raise self.retry(countdown=0, max_retries=3)
    return int(self.request.retries)


def echo(value: Any) -> Any:
    return value


def total(values: list[int]) -> int:
    return sum(values)


def nap(self: Any, seconds: float) -> None:
    note(task="nap", id=self.request.id)
    time.sleep(seconds)


def seen(*values: Any, **named: Any) -> str:
    """What has arrived, with its types."""
    return repr((values, named))


class Box(BaseModel):
    size: Decimal
    at: datetime


def boxed(box: Box, other: Box) -> Box:
    """Models come in and go out."""
    return Box(size=box.size + other.size, at=box.at)


def unfit() -> set[int]:
    """A value that JSON can't say."""
    return {1}


#: Name, function, options.
TASKS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("shop.add", add, {}),
    ("shop.asked", asked, {"bind": True}),
    ("shop.flaky", flaky, {"bind": True}),
    ("shop.echo", echo, {}),
    ("shop.total", total, {}),
    ("shop.nap", nap, {"bind": True}),
)
#: What is there as a worker and, under another name, as an ordinary task of the same app.
PAIRS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("shop.seen", seen, {}),
    ("shop.boxed", boxed, {"pydantic": True}),
    ("shop.unfit", unfit, {}),
)


def plain(**conf: Any) -> Celery:
    """The app of a producer that knows nothing of works."""
    made = Celery("producer", set_as_current=False)
    made.conf.update(conf)
    for name, function, options in TASKS:
        made.task(name=name, shared=False, **options)(function)
    return made


def durable(
    store_url: str,
    *,
    without: Sequence[str] = (),
    unknown: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    **conf: Any,
) -> Celery:
    """The app of a worker; tasks in `without` stay plain, those in `renamed` have a new name and their old as alias."""
    made = Celery("shop", set_as_current=False)
    settings = {name: conf.pop(name) for name in list(conf) if name.startswith("workmanager_")}
    made.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, **conf)
    WorkManager(made, store_url=store_url, settings=settings)
    for name, function, options in TASKS:
        if name in unknown:
            continue
        extra: dict[str, Any] = {} if name in without else {"base": Worker}
        if name in (renamed or {}):
            extra["aliases"] = (name,)
        made.task(name=(renamed or {}).get(name, name), shared=False, **extra, **options)(function)
    for name, function, options in (*PAIRS, ("shop.echo", echo, {})):
        if name != "shop.echo":
            made.task(name=name, shared=False, base=Worker, **options)(function)
        made.task(name=name.replace("shop", "plain"), shared=False, **options)(function)
    return made


def from_environment() -> Celery:
    return durable(os.environ["INTAKE_STORE"], **json.loads(os.environ["INTAKE_CONF"]))


def crash(where: str) -> None:
    """Let this worker die, with all its processes, just before or after messages are committed as works."""
    take_in = passage.take_in

    def dying(*arguments: Any) -> None:
        if where == "after":
            take_in(*arguments)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    passage.take_in = dying  # type: ignore[assignment]


@signals.before_task_publish.connect
def publishes(sender: str, headers: dict[str, Any], **_: Any) -> None:
    """Whoever calls or sends leaves a note, in workers too."""
    if "INTAKE_STORE" in os.environ:
        note(task="published", id=headers["id"], name=sender)


if "INTAKE_CRASH" in os.environ:
    crash(os.environ["INTAKE_CRASH"])
if "INTAKE_STORE" in os.environ:
    app = from_environment()
