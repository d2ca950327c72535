"""Messages and canvases of whatever shape: they become works or are refused, and no worker crashes or loops."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.worker import state as worker_state
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message
from sqlalchemy.exc import DBAPIError

from celery_workmanager import State, Worker, WorkManager
from celery_workmanager.database import is_conflict
from celery_workmanager.errors import StoreError
from celery_workmanager.intake import work_of_call
from celery_workmanager.messages import call_in
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store, passage
from tests.celery.intake_place import make_place, wait_until
from tests.security.fuzz import SOAK, fuzzed, jsons

NAME = "fuzz.any"
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(0 if SOAK else 120)]

_HEADERS = [
    "id", "task", "lang", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id", "parent_id",
    "stamps", "stamped_headers", "shadow", "ignore_result", "replaced_task_nesting", "argsrepr", "reply_to", "x-death",
    "workmanager_released", "taskset", "headers", "priority",
]  # fmt: skip
_OPTIONS = [
    "task_id", "link", "link_error", "chord", "chain", "queue", "priority", "eta", "countdown", "expires", "tags",
    "constraints", "input_merger", "concurrency", "rate", "deadline", "max_retries", "as_data", "group_id", "stamps",
    "stamped_headers", "headers", "backoff_policy", "expedited", "typing", "exchange", "routing_key", "shadow",
]  # fmt: skip
_KINDS = st.sampled_from([None, "chain", "group", "chord", "chunks", "xmap", "xstarmap", "nothing"])


def signatures() -> st.SearchStrategy[Any]:
    """Signatures as they stand in a message, right and wrong."""

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        parts = inner | jsons
        kwargs = st.fixed_dictionaries(
            {}, optional={"tasks": st.lists(parts, max_size=3) | jsons, "header": parts | st.lists(parts, max_size=3),
                          "body": parts, "task": parts, "it": jsons, "n": jsons},
        )  # fmt: skip
        options = st.dictionaries(st.sampled_from(_OPTIONS), parts | st.lists(parts, max_size=2), max_size=2)
        return st.fixed_dictionaries(
            {"task": st.sampled_from([NAME, "celery.chain", "celery.group", "celery.chord", "nobody"]) | jsons},
            optional={"args": jsons, "kwargs": kwargs, "options": options, "subtask_type": _KINDS, "immutable": jsons},
        )

    # New ones each time: Celery writes into signatures.
    new: st.SearchStrategy[dict[str, Any]] = st.builds(dict)
    whole: st.SearchStrategy[Any] = st.fixed_dictionaries(
        {"task": st.just(NAME), "args": st.builds(list), "kwargs": new, "options": new}
    )
    return st.recursive(whole, around, max_leaves=6)


_SEVERAL = signatures() | st.lists(signatures(), max_size=3) | jsons
_EMBEDDED = st.dictionaries(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), _SEVERAL)
_BODIES = st.one_of(
    jsons,
    st.tuples(st.lists(jsons, max_size=2), st.dictionaries(st.text(max_size=3), jsons, max_size=2), _EMBEDDED),
    st.tuples(jsons, jsons, jsons),
    st.dictionaries(st.sampled_from([*_HEADERS, "args", "kwargs", "callbacks", "errbacks", "chord"]), jsons),
)
_MESSAGES = st.tuples(st.dictionaries(st.sampled_from(_HEADERS), jsons, max_size=4), _BODIES, st.booleans())


def text_of(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):
        return "[" * 5000


def _anything(*_: Any, **__: Any) -> None:
    """Nobody runs it."""


@pytest.fixture
def manager(store: Store) -> Iterator[WorkManager]:
    app = Celery("fuzz", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.task(base=Worker, name=NAME, shared=False)(_anything)
    app.task(name="fuzz.plain", shared=False)(_anything)
    made = WorkManager(app, store_url=store.database.url.render_as_string(hide_password=False))
    vars(made).update(store=store, engine_store=store, clock=store.clock)
    yield made
    app.close()


def take_in(manager: WorkManager, headers: dict[str, Any], body: str) -> str | None:
    """What the intake does with a message; returns the id of its work, None when it is refused."""
    message = Message(body=body, content_type="application/json", content_encoding="utf-8", headers=headers)
    try:
        call = call_in(message)
        options = {**call.options, "queue": "celery"}
        found = work_of_call(manager.app.tasks[NAME], call, options, manager)
        revoked = call.id in worker_state.revoked
        arrival = passage.Arrival(call.id, manager.steps_of(found), call.retries, revoked, call.released)
    except Exception:  # noqa: BLE001 - whatever it is, it is this message's and ends with its refusal
        return None
    try:
        passage.take_in(manager.engine_store, [arrival], manager.queue_of)
    except Exception as error:  # noqa: BLE001
        # Such would be taken for a store that is away, and tried for ever.
        if isinstance(error, (StoreError, OSError)) or (isinstance(error, DBAPIError) and is_conflict(error)):
            pytest.fail(f"expected a message to be refused for good, got: {error!r}")
        return None
    return call.id


@fuzzed(200)
@given(_MESSAGES)
def test_messages_are_taken_in_or_refused(manager, message):
    headers, body, has_id = message
    if has_id:
        headers = {**headers, "id": str(uuid.uuid4()), "task": NAME}
    task_id = take_in(manager, headers, text_of(body))
    if task_id is not None:
        (info,) = manager.get_work_infos(WorkQuery.from_ids(task_id))
        assert info.id == task_id


def canvases() -> st.SearchStrategy[Any]:
    """Descriptions of canvases that Celery would take."""
    return st.recursive(
        st.sampled_from(["work", "work", "plain"]),
        lambda inner: st.tuples(st.sampled_from(["chain", "group", "chord"]), st.lists(inner, min_size=1, max_size=4)),
        max_leaves=12,
    )


def built(app: Celery, shape: Any) -> Any:
    if isinstance(shape, str):
        return app.tasks[NAME if shape == "work" else "fuzz.plain"].si()
    kind, parts = shape
    made = [built(app, part) for part in parts]
    if kind == "chain":
        return chain(*made, app=app)
    if kind == "group":
        return group(made, app=app)
    return chord(made[:-1] or [app.tasks[NAME].si()], made[-1], app=app)


@fuzzed(60)
@given(canvases())
def test_canvases_are_drawn_whole(manager, shape):
    continuation = manager.continuation_of(built(manager.app, shape))
    operation = manager.enqueue_continuation(continuation)
    found = {info.id: info for info in manager.infos_of(list(operation.ids))}
    assert len(found) == len(operation.ids) == len(set(operation.ids))
    # What depends on nothing may run, and all else waits for works that are there.
    for info in found.values():
        assert info.state is (State.BLOCKED if info.prerequisites else State.ENQUEUED)
        assert set(info.prerequisites) <= set(found)
    assert any(not info.prerequisites for info in found.values())


@fuzzed(150)
@given(signatures())
def test_canvases_that_are_none_are_refused_and_store_nothing(manager, signature):
    before = len(manager.get_work_infos(WorkQuery()))
    try:
        operation = manager.enqueue(signature)
    except Exception:  # noqa: BLE001 - Celery has words of its own for much of it
        assert len(manager.get_work_infos(WorkQuery())) == before
    else:
        assert len(manager.get_work_infos(WorkQuery())) == before + len(operation.ids)


@pytest.mark.redis
@pytest.mark.slow
def test_a_worker_outlives_malformed_messages(redis_url: str, sqlite_template: Path, tmp_path: Path):
    """Real ones over a broker; what is sent after them runs, and the broker keeps none of them."""
    store = tmp_path / "store.sqlite3"
    store.write_bytes(sqlite_template.read_bytes())
    place = make_place(tmp_path, redis_url, f"sqlite:///{store}")
    try:
        sent = Sent(place)
        sent.all()
        worker = place.worker().start()
        last = place.send("shop.add", 1)
        wait_until(lambda: (info := place.info(last)) is not None and info.state is State.SUCCEEDED, 60)
        wait_until(lambda: place.waiting_messages() == 0, 60)
        assert not worker.is_over
        worker.stop()
        assert place.waiting_messages() == 0
        assert "can't become a work and is rejected" in worker.log
        # Nobody writes lines of his own into the log.
        assert not any(line.startswith("FORGED") for line in worker.log.splitlines())
    finally:
        place.close()


class Sent:
    """Messages that should not be."""

    def __init__(self, place: Any) -> None:
        self.place = place

    def all(self) -> None:
        embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        good = [[1], {}, embedded]
        odd_headers: tuple[dict[str, Any], ...] = (
            {}, {"id": None}, {"id": "a\nFORGED line"}, {"id": "\x00"}, {"id": ["x"]}, {"id": "x" * 300},
            {"eta": "yesterday"}, {"expires": "never"}, {"retries": "many"}, {"retries": 10**30}, {"timelimit": "ab"},
            {"timelimit": 5}, {"stamps": [1]}, {"stamps": {"input_merger": "os:system"}}, {"stamped_headers": 7},
            {"stamps": {"a": 1}, "stamped_headers": {"a": 1}}, {"root_id": {}}, {"group": [[]]}, {"lang": 3},
            {"group_index": "x"}, {"replaced_task_nesting": "x"}, {"shadow": []}, {"eta": {}}, {"expires": -1e400},
        )  # fmt: skip
        for headers in odd_headers:
            self.one(good, **headers)
        odd_bodies: tuple[Any, ...] = (
            None, [], {}, 1, "x", [1, 2], [1, 2, 3, 4], [{}, [], {}], ["ab", {}, {}], [[], {"": None}, 5],
            [[], {}, {"chain": [None]}], [[], {}, {"chain": "x"}], [[], {}, {"callbacks": [1]}],
            [[], {}, {"chord": {"task": "nobody"}}], [[], {}, {"errbacks": [{"task": None}]}],
            [[], {}, {"chain": [{"task": "celery.chain", "subtask_type": "chain", "kwargs": {}}]}],
            [[], {}, {"callbacks": [{"task": "shop.add", "options": {"input_merger": "os:system"}}]}],
        )  # fmt: skip
        for body in odd_bodies:
            self.one(body)
        for text in ("[" * 5000, "{", "\ud800".encode("utf-8", "surrogatepass"), b"\xff" * 10, "9" * 5000, ""):
            self.raw(text)

    def one(self, body: Any, **headers: Any) -> None:
        self.raw(json.dumps(body), **headers)

    def raw(self, body: Any, **headers: Any) -> None:
        headers = {"id": str(uuid.uuid4()), "task": "shop.add", "lang": "py", **headers}
        with self.place.connection() as connection, connection.Producer() as producer:
            producer.publish(
                body, routing_key=self.place.queue, exchange="", headers=headers, content_type="application/json",
                content_encoding="utf-8",
            )  # fmt: skip
