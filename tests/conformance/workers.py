"""The workers of the conformance suite: one that does what a test tells it, and one of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, shared_task

from celery_workmanager import InputMerger, Result, Worker

app = Celery("conformance", broker="memory://", set_as_current=False)
app.conf.task_default_queue = "celery"

#: What each run did, in order: the work's id, or what an action left here.
ran: list[Any] = []
#: What `act` does, by the word in its input; set by tests, emptied after each.
actions: dict[str, Callable[[Any], Any]] = {}


@app.task(base=Worker, shared=False, bind=True, name="act")
def act(self, **given):
    ran.append(self.input_data.get("n", self.work_id))
    action = actions.get(self.input_data.get_string("do", "nothing"))
    return action(self) if action else None


@app.task(base=Worker, shared=False, bind=True, name="other")
def other(self, **given):
    ran.append(("other", dict(self.input_data)))


@app.task(base=Worker, shared=False, name="blur")
def blur(image: str, level: int = 1) -> dict[str, Any]:
    ran.append((image, level))
    return {"image": f"{image}.{level}", "level": level}


@app.task(base=Worker, shared=False, name="add")
def add(x, y=10):
    return x + y


@app.task(base=Worker, shared=False, name="boom")
def boom():
    raise ValueError("the boiler is cold")


@shared_task(base=Worker, name="shared")
def shared(word: str = "") -> str:
    return word.upper()


class CleanupWorker(Worker):
    """A class-based worker, as on Android."""

    name = "images.cleanup"

    def do_work(self):
        return Result.success(folder=self.input_data["folder"], run=self.run_attempt_count)


app.register_task(CleanupWorker())


class Sum(InputMerger):
    """A merger of one's own."""

    def merge(self, inputs):
        from celery_workmanager import Data

        return Data(total=sum(data.get_int("n", 0) for data in inputs), inputs=len(inputs))


class BrokenMerger(InputMerger):
    def merge(self, inputs):
        raise RuntimeError("no glue")
