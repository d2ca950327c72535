"""Lists as parameters of PostgreSQL's: one text each, which the server takes apart.

A driver quotes every item of an array by itself, in Python; joining them is a fiftieth of that. What is joined holds no
control characters: labels have been checked, and JSON escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, bindparam, cast, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY

_BETWEEN, _NULL = "\x1f", "\x1e"
_MARKS: tuple[ColumnElement[str], ...] = (literal_column("E'\\x1f'"), literal_column("E'\\x1e'"))


def joined(values: Sequence[Any]) -> str:
    """The parameter for `values`: texts that are not empty, whole numbers, or ``None``."""
    text = _BETWEEN.join([_NULL if value is None else str(value) for value in values])
    if text.count(_BETWEEN) != max(0, len(values) - 1) or text.count(_NULL) != values.count(None):
        raise ValueError("expected texts without control characters")
    return text


def hidden(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """`value`, unknown to PostgreSQL's planner: so that one plan is as good for it as for any other.

    Of a session's prepared statement it makes a plan for any values only when that seems as cheap as those for the
    values it saw. If these are short lists or small limits it never does, and plans anew each time, which may take
    longer than the statement itself (PostgreSQL's documentation: PREPARE, Notes).
    """
    return select(value).scalar_subquery()


def taken_apart(name: str, kind: Any = Text) -> ColumnElement[Any]:
    """The array of the parameter `name`, whose items are of that type."""
    array = func.string_to_array(hidden(bindparam(name, type_=Text)), *_MARKS, type_=ARRAY(Text))
    return array if kind is Text else cast(array, ARRAY(kind))


def is_among(what: Any, name: str) -> ColumnElement[bool]:
    """Whether the text `what` is one of those in the parameter `name`."""
    among: ColumnElement[bool] = what == any_(taken_apart(name))
    return among


def table_of(kinds: Mapping[str, Any]) -> Any:
    """The parameters named in `kinds` side by side, as a table with those names and types."""
    columns = (column(name, kind) for name, kind in kinds.items())
    arrays = (taken_apart(name, kind) for name, kind in kinds.items())
    return func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
