"""What may be an argument or a result: the same as in plain Celery with JSON, side by side; and never a pickle."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from celery import VERSION, Celery, chain
from kombu.exceptions import EncodeError, OperationalError

from celery_workmanager import Worker, WorkManager
from celery_workmanager.errors import ConfigurationError, DataNotStorable, InvalidRequest
from celery_workmanager.payloads import is_pickle
from tests.celery.intake_app import Box
from tests.celery.intake_place import Place, make_place, store_of
from tests.stores import sqlite_template  # noqa: F401

pytestmark = pytest.mark.slow


class Colour(enum.StrEnum):
    RED = "red"


VALUES = {
    "datetime": datetime(2026, 2, 3, 4, 5, 6, 789),  # noqa: DTZ001  # naive on purpose
    "aware datetime": datetime(2026, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))),
    "date": date(2026, 2, 3),
    "time": time(4, 5, 6),
    "uuid": uuid.UUID(int=7),
    "decimal": Decimal("1.10"),
    "bytes": b"text",
    "other bytes": b"\xff\x00",
    "tuple": (1, (2, 3)),
    "str enum": Colour.RED,
    "int keys": {1: "one", None: "none"},
    "large int": 2**70,
    "floats": [1.0, 1e300, float("inf")],
    "text": "grüße \U0001f600 \u0000 \ud800",
    "nested": {"at": [datetime(2026, 2, 3, tzinfo=UTC), {"id": uuid.UUID(int=1), "sums": [Decimal(1), None, True]}]},
}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Place]:
    """One worker that has each task twice: over the store, and over Redis as ever. It accepts other content, too."""
    folder = tmp_path_factory.mktemp("payloads")
    if request.param == "postgresql":
        request.getfixturevalue("postgresql_url")
    with store_of(request.param, folder, request.getfixturevalue("sqlite_template")) as store_url:
        made = make_place(folder, redis_url, store_url, result_backend=redis_url)
        try:
            made.worker(accept_content=["json", "yaml", "msgpack"]).start()
            yield made
        finally:
            made.close()


def got(place: Place, canvas: Any) -> Any:
    return canvas.apply_async().get(timeout=30, interval=0.02)


@pytest.mark.redis
class TestSideBySide:
    @pytest.mark.parametrize("name", VALUES)
    def test_every_value_arrives_as_in_plain_celery(self, place: Place, name: str) -> None:
        value = VALUES[name]
        plain, ours = (
            {each: place.app.tasks[f"{kind}.{each}"] for each in ("seen", "echo")} for kind in ("plain", "shop")
        )
        arrives = got(place, plain["seen"].s(value, key=value))
        assert got(place, ours["seen"].s(value, key=value)) == arrives
        returns = got(place, plain["echo"].s(value))
        assert repr(got(place, ours["echo"].s(value))) == repr(returns)
        handed_on = got(place, chain(plain["echo"].s(value), plain["seen"].s()))
        for one, other in ((ours, ours), (ours, plain), (plain, ours)):
            assert got(place, chain(one["echo"].s(value), other["seen"].s())) == handed_on

    @pytest.mark.parametrize("name", VALUES)
    def test_every_value_can_be_looked_at(self, place: Place, name: str) -> None:
        call = place.app.tasks["shop.echo"].delay(VALUES[name])
        call.get(timeout=30, interval=0.02)
        info = place.info(call.id)
        assert info.input_data["value"] == info.output_data.get("result", dict(info.output_data))
        assert info.to_dict()

    def test_models(self, place: Place) -> None:
        box = Box(size=Decimal("1.5"), at=datetime(2026, 2, 3, tzinfo=UTC))
        # Before Celery 5.7 it was for the caller to dump them.
        given = box if VERSION[:2] >= (5, 7) else box.model_dump(mode="json")
        plain = got(place, place.app.tasks["plain.boxed"].s(given, other=given))
        ours = got(place, place.app.tasks["shop.boxed"].s(box, other=box))
        assert ours == plain == {"size": "3.0", "at": "2026-02-03T00:00:00Z"}

    def test_what_json_cannot_say(self, place: Place) -> None:
        plain, ours = place.app.tasks["plain.echo"], place.app.tasks["shop.echo"]
        for value in ({1, 2}, object(), [Colour]):
            with pytest.raises((EncodeError, OperationalError, TypeError)):
                plain.delay(value)
            with pytest.raises(DataNotStorable, match="kwargs\\['value'\\]: expected"):
                ours.delay(value)

    def test_a_result_that_json_cannot_say(self, place: Place) -> None:
        for kind in ("plain", "shop"):
            result = place.app.tasks[f"{kind}.unfit"].delay()
            with pytest.raises(Exception, match="set"):
                result.get(timeout=30)
            assert result.failed()

    @pytest.mark.parametrize("serializer", ["json", "yaml", "msgpack"])
    def test_messages_in_other_languages_than_json(self, place: Place, serializer: str) -> None:
        if serializer != "json":  # which the run with the lowest versions may lack
            pytest.importorskip("yaml" if serializer == "yaml" else "msgpack")
        sent = place.send("shop.seen", [1, {"a": None}], kwargs={"b": 1.5}, serializer=serializer)
        assert place.result(sent) == "(([1, {'a': None}],), {'b': 1.5})"


class TestPickle:
    @pytest.fixture
    def app(self) -> Iterator[Celery]:
        made = Celery("pickles", set_as_current=False)
        WorkManager(made, store_url="sqlite://")
        yield made
        made.close()

    @pytest.mark.parametrize("serializer", ["pickle", "application/x-python-serialize"])
    def test_a_call_that_asks_for_it(self, app: Celery, serializer: str) -> None:
        @app.task(base=Worker, shared=False)
        def plain() -> None: ...

        with pytest.raises(InvalidRequest, match="expected serializer to be one that carries JSON .* got: '"):
            plain.apply_async(serializer=serializer)
        app.conf.task_always_eager = True
        with pytest.raises(InvalidRequest):
            plain.apply_async(serializer=serializer)

    def test_a_worker_that_asks_for_it(self, app: Celery) -> None:
        @app.task(base=Worker, shared=False, serializer="pickle", name="bad")
        def bad() -> None: ...

        with pytest.raises(ConfigurationError, match="serializer of worker 'bad' to be .* got: 'pickle'"):
            app.finalize()

    def test_an_app_whose_ordinary_tasks_have_it(self, app: Celery) -> None:
        """Works are stored as JSON whatever the app's messages are; what isn't JSON is named."""
        app.conf.task_serializer = "pickle"

        @app.task(base=Worker, shared=False)
        def keep(value: Any) -> None: ...

        assert keep.delay(1).id
        with pytest.raises(DataNotStorable, match="kwargs\\['value'\\]"):
            keep.delay(object())

    def test_others_are_none(self) -> None:
        assert [kind for kind in (None, "json", "yaml", "application/json", "unheard-of") if is_pickle(kind)] == []
