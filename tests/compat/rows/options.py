"""Options of a task, its class, and what it knows of itself."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Task
from celery.utils.log import get_task_logger
from celery.worker.request import Request
from pydantic import BaseModel

from tests.compat.apps import class_based, task
from tests.compat.journal import note
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, until

rows = Group("Tasks: options, classes, logging")

logger = get_task_logger(__name__)


class Order(BaseModel):
    number: int
    lines: list[str] = []


class Receipt(BaseModel):
    order: int
    total: float


class Connected:
    """A base class with something that is made once in each process."""

    made = 0

    @cached_property
    def database(self) -> str:
        type(self).made += 1
        return "connected"


class Renamed:
    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
        return f"compat.named_by_{kwargs['who']}"


class Prepared:
    """Changes every call."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async(args, {**(kwargs or {}), "added": "by the class"}, **options)  # type: ignore[misc]


class NotingRequest(Request):
    def on_accepted(self, pid: int, time_accepted: float) -> Any:
        note(self.id, "accepted")
        return super().on_accepted(pid, time_accepted)


class WithRequest:
    Request = NotingRequest


@task(bind=True)
def bound(self: Any, x: int) -> Any:
    return [self.name, x, self.request.id is not None]


@task(bind=True)
def its_app(self: Any) -> Any:
    from celery import current_app, current_task

    return [self.app.main, self.app is current_app._get_current_object(), current_task.name]


@task(mixin=Connected, bind=True)
def connected(self: Any) -> Any:
    return [self.database, self.made]


@task(mixin=Renamed)
def renamed(who: str) -> None: ...


@task(mixin=Prepared)
def prepared(x: int, added: str = "") -> Any:
    return [x, added]


@task(mixin=WithRequest)
def with_request() -> int:
    return 1


@class_based
def counter(base: type[Task]) -> type[Task]:
    class Counter(base):
        """A class-based task."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def run(self, x: int) -> Any:
            self.calls += 1
            return [x, self.calls > 0, self.request.retries]

    return Counter


@task(ignore_result=True)
def ignored(x: int) -> int:
    return x


@task(pydantic=True)
def pay(order: Order, price: float = 2.0) -> Receipt:
    return Receipt(order=order.number, total=len(order.lines) * price)


@task()
def annotated(order: Order) -> str:
    return type(order).__name__


@task(throws=(KeyError,), bind=True)
def throwing(self: Any) -> None:
    raise KeyError("expected")


@task(bind=True)
def failing_loudly(self: Any) -> None:
    raise KeyError("unexpected")


@task(trail=False, bind=True)
def without_trail(self: Any) -> Any:
    self.app.tasks["compat.add"].delay(1, 1)
    return [each.id for each in self.request.children]


@task(bind=True)
def logging_task(self: Any) -> None:
    logger.warning("hello from the task")


@task()
def printing() -> None:
    print("printed by the task")


@task(priority=4, expires=60, time_limit=30, bind=True)
def with_defaults(self: Any) -> Any:
    request = self.request
    return [request.delivery_info["priority"], request.expires is not None]


@task(bind=True)
def again(self: Any, n: int) -> Any:
    """Call itself by its own request."""
    if n:
        return self.signature_from_request(self.request, args=(n - 1,), kwargs={}).args[0]
    return "end"


@rows.row("`bind=True`", plain="the first argument is the task", expect=["compat.bound", 1, True])
def bind(side: Side) -> Any:
    return side.get(side.bound.delay(1))


@rows.row(
    "`self.app`, `current_app`, `current_task`",
    plain="the app and the task that runs",
    expect=["compat", True, "compat.its_app"],
)
def app(side: Side) -> Any:
    return side.get(side.its_app.delay())


@rows.row("`name`, unset", plain="module and function", expect="tests.compat.rows.options.unnamed")
def default_name(side: Side) -> Any:
    def unnamed() -> None: ...

    return side.app.task(unnamed, base=type(side.add).__mro__[1], shared=False).name


@rows.row("a base class of one’s own", plain="its attributes live as long as the process", expect=["connected", 1],
          note="`class Base(Worker)`, or a mixin in front of `Worker`.")  # fmt: skip
def inheritance(side: Side) -> Any:
    return side.get(side.connected.delay())


@rows.row("a base class that overrides `apply_async`", plain="is asked at each call", expect=[1, "by the class"])
def overridden_call(side: Side) -> Any:
    return side.get(side.prepared.delay(1))


@rows.row(
    "class-based tasks (`app.register_task`)",
    plain="`run` is called; the instance lives as long as the process",
    expect=[1, True, 0],
)
def class_task(side: Side) -> Any:
    return side.get(side.counter.delay(1))


@rows.row("`shadow_name()`", plain="the name in events and logs", expect="compat.named_by_me")
def shadow_name(side: Side) -> Any:
    result = side.renamed.delay(who="me")
    return until(lambda: side.events(result, "task-received"), "it is received")[0]["name"]


@rows.row(
    "`Task.Request`, a request class of one’s own", plain="its methods are called in the worker’s main process", expect=["accepted"],
    differs=Differs(shows=[], worker="not used", because="There is no message to make it of; use signals and hooks."),
)  # fmt: skip
def request_class(side: Side) -> Any:
    result = side.with_request.delay()
    side.get(result)
    return side.notes(result) if side.is_worker else side.noted(result)


@rows.row("`ignore_result=True` of the task", plain="`get()` gives `None` at once", expect=[None, True])
def ignore_result(side: Side) -> Any:
    result = side.ignored.delay(3)
    return [result.get(timeout=1), result.ignored]


@rows.row(
    "`pydantic=True`",
    plain="arguments are validated, models are serialised",
    expect={"order": 7, "total": 4.0},
    postgresql=True,
)
def pydantic(side: Side) -> Any:
    return side.get(side.pay.delay({"number": "7", "lines": ["a", "b"]}))


@rows.row(
    "… an argument that is a model",
    plain="is serialised at the call",
    expect={"order": 7, "total": 2.0},
    note="Celery 5.7.",
)
def pydantic_argument(side: Side) -> Any:
    return side.get(side.pay.delay(Order(number=7, lines=["a"]), price=2))


@rows.row("… an argument that is not valid", plain="the task fails with `ValidationError`", expect=True)
def pydantic_invalid(side: Side) -> Any:
    result = side.ended(side.pay.delay({"number": "seven"}))
    return result.state == "FAILURE" and "ValidationError" in (result.traceback or "")


@rows.row(
    "an annotated model without `pydantic=True`", plain="the task is given what was sent", expect="dict",
    differs=Differs(shows="Order", worker="the model", because="A Worker always validates arguments annotated with models."),
)  # fmt: skip
def annotated_model(side: Side) -> Any:
    return side.get(side.annotated.delay({"number": 1}))


@rows.row("`throws`", plain="these exceptions are logged as INFO, without a traceback", expect=["INFO", "ERROR"])
def throws(side: Side) -> Any:
    expected, unexpected = side.throwing.delay(), side.failing_loudly.delay()
    lines = [
        until(lambda task=each.id: side.log_lines(task, "raise"), "it is logged")[0]  # type: ignore[misc]
        for each in (expected, unexpected)
    ]
    return [next(level for level in ("INFO", "ERROR") if f"{level}/" in line) for line in lines]


@rows.row("`trail=False`", plain="what it calls is not recorded as its children", expect=[[], []])
def trail(side: Side) -> Any:
    result = side.without_trail.delay()
    return [side.get(result), list(result.children or ())]


@rows.row("`get_task_logger`", plain="lines with the task’s name and id", expect=True)
def task_logger(side: Side) -> Any:
    result = side.logging_task.delay()
    side.ended(result)
    return bool(until(lambda: side.log_lines(f"compat.logging_task[{result.id}]: hello from the task"), "it is logged"))


@rows.row("`print()` in a task", plain="goes to the log as a warning", expect=True)
def printed(side: Side) -> Any:
    side.ended(side.printing.delay())
    return bool(until(lambda: side.log_lines("WARNING", "printed by the task"), "it is logged"))


@rows.row("the worker’s log", plain="`received`, `succeeded in …`, `raised unexpected …`", expect=[True, True, True])
def worker_log(side: Side) -> Any:
    good, bad = side.add.delay(1, 2), side.fail.delay()
    side.ended(good, bad)
    wanted = [f"[{good.id}] received", f"[{good.id}] succeeded in", f"[{bad.id}] raised unexpected: ValueError('no')"]
    return [
        bool(until(lambda words=words: side.log_lines(words), words))  # type: ignore[misc]
        for words in wanted
    ]


@rows.row("`priority`, `expires` of the task", plain="are those of its calls", expect=[4, True])
def task_defaults(side: Side) -> Any:
    return side.get(side.with_defaults.delay())


@rows.row("`task_annotations`", plain="change attributes of tasks", expect=["7/m", 5])
def task_annotations(side: Side) -> Any:
    other = side.other_app(task_annotations={"compat.add": {"rate_limit": "7/m"}, "*": {"max_retries": 5}})
    return [other.add.rate_limit, other.add.max_retries]


@rows.row(
    "`s()`, `si()`, `signature()`, `subtask()`",
    plain="signatures of the task",
    expect=[["compat.add", [1]], True, ["compat.add", {"y": 2}], True],
)
def signatures(side: Side) -> Any:
    plain, immutable = side.add.s(1), side.add.si(1, 2)
    full = side.add.signature(kwargs={"y": 2})
    return [
        [plain.task, list(plain.args)],
        immutable.immutable,
        [full.task, full.kwargs],
        side.add.subtask((1,)) == plain,
    ]


@rows.row("`signature_from_request()`", plain="the call that runs, as a signature", expect=1)
def from_request(side: Side) -> Any:
    return side.get(side.again.delay(2))
