"""Types of arguments and results."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.compat.apps import task
from tests.compat.registry import Differs, Group
from tests.compat.side import Side

rows = Group("Types of arguments and results")


class Colour(Enum):
    RED = "red"


@task()
def echo(value: Any) -> Any:
    return [type(value).__name__, value]


def _round(side: Side, value: Any) -> Any:
    """The type of a value in the task, and whether task and caller see what was sent."""
    kind, back = side.get(side.echo.delay(value))
    return [kind, type(back).__name__, back == value]


@rows.row("`None`, `bool`, `int`, `float`, `str`", plain="as they are",
          expect=[["NoneType", "NoneType", True], ["bool", "bool", True], ["int", "int", True], ["float", "float", True], ["str", "str", True]])  # fmt: skip
def scalars(side: Side) -> Any:
    return [_round(side, value) for value in (None, True, 2**70, 0.1, "Zoë \u2603 \x00")]


@rows.row("`list`, `dict`", plain="as they are", expect=[["list", "list", True], ["dict", "dict", True]])
def containers(side: Side) -> Any:
    return [_round(side, [1, [2, {}]]), _round(side, {"a": {"b": []}})]


@rows.row("`tuple`", plain="becomes a list", expect=["list", "list", False])
def tuples(side: Side) -> Any:
    return _round(side, (1, 2))


@rows.row("keys that are no strings", plain="become strings", expect=["dict", "dict", False])
def keys(side: Side) -> Any:
    return _round(side, {1: "one"})


@rows.row(
    "`datetime` with and without a time zone",
    plain="as they are",
    expect=[["datetime", "datetime", True], ["datetime", "datetime", True]],
    postgresql=True,
)
def datetimes(side: Side) -> Any:
    moments = (datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), datetime(2030, 1, 2, 3, 4, 5))  # noqa: DTZ001
    return [_round(side, moment) for moment in moments]


@rows.row("`datetime` in a named time zone", plain="the same moment", expect=["datetime", "datetime", True])
def zoned(side: Side) -> Any:
    return _round(side, datetime(2030, 7, 2, 3, 4, 5, tzinfo=ZoneInfo("Europe/Madrid")))


@rows.row("`date`, `time`", plain="as they are", expect=[["date", "date", True], ["time", "time", True]])
def dates(side: Side) -> Any:
    return [_round(side, date(2030, 1, 2)), _round(side, time(3, 4, 5))]


@rows.row(
    "`UUID`, `Decimal`, `bytes`",
    plain="as they are",
    expect=[["UUID", "UUID", True], ["Decimal", "Decimal", True], ["bytes", "bytes", True]],
    postgresql=True,
)
def others(side: Side) -> Any:
    return [_round(side, value) for value in (UUID(int=7), Decimal("1.10"), b"\x00\xff")]


@rows.row("`timedelta`, `set`, `Enum`", plain="refused at the call", expect=["EncodeError"] * 3,
          differs=Differs(shows=["DataNotStorable"] * 3, worker="refused at the call with `DataNotStorable`, which names the argument",
                          because="Our own error (a `ValueError` and a `TypeError`)."))  # fmt: skip
def refused(side: Side) -> Any:
    return [_refusal(side, value) for value in (timedelta(seconds=1), {1}, Colour.RED)]


def _refusal(side: Side, value: Any) -> Any:
    try:
        return _round(side, value)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__


@rows.row(
    "`OrderedDict`, subclasses of `str`",
    plain="become `dict` and `str`",
    expect=[["dict", "dict", True], ["str", "str", True]],
)
def subclasses(side: Side) -> Any:
    return [_round(side, OrderedDict(a=1)), _round(side, type("Name", (str,), {})("x"))]


@rows.row("NaN and infinity", plain="as they are", expect=[["float", "float", True], False])
def not_a_number(side: Side) -> Any:
    return [_round(side, float("inf")), _round(side, float("nan"))[2]]


@rows.row("an object with `__json__`", plain="becomes what that returns", expect=["dict", {"x": 1}])
def own_json(side: Side) -> Any:
    class Own:
        def __json__(self) -> Any:
            return {"x": 1}

    return side.get(side.echo.delay(Own()))


@rows.row("a result of 1 MB", plain="as it is", expect=1_000_000)
def large(side: Side) -> Any:
    return len(side.get(side.echo.delay("x" * 1_000_000))[1])
