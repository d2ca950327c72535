"""Data: what it holds, what it refuses, how it compares, and its way through JSON."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.data import MAX_DEPTH, Data
from celery_workmanager.errors import DataNotStorable, DataTooLarge, InvalidRequest

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
mappings = st.dictionaries(texts, values, max_size=5)


class Colour(str, Enum):  # noqa: UP042  # the kind that is neither a StrEnum nor formats as one
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@given(mappings)
def test_what_goes_in_comes_out_of_json_as_the_same_data_and_the_same_plain_values(mapping):
    data = Data(mapping)
    again = Data.from_json(data.to_json())
    assert again == data
    assert hash(again) == hash(data)
    assert again.to_dict() == mapping
    assert list(again) == list(mapping)
    assert pickle.loads(pickle.dumps(data)) == data


@given(mappings)
def test_json_is_ascii_and_size_counts_the_bytes_of_the_unescaped_compact_text(mapping):
    data = Data(mapping)
    size = len(json.dumps(mapping, ensure_ascii=False, separators=(",", ":")).encode())
    assert data.to_json().isascii()
    assert data.size == Data.from_json(data.to_json()).size == size
    data.check_size(size)
    with pytest.raises(DataTooLarge):
        data.check_size(size - 1)


@given(mappings, mappings)
def test_equal_data_have_equal_hashes(one, other):
    if Data(one) == Data(other):
        assert hash(Data(one)) == hash(Data(other))


def test_nothing_is_the_one_empty_data():
    assert Data.from_json("{}") is Data.EMPTY
    assert Data.of(None) is Data.EMPTY
    assert Data.of({}) is Data.EMPTY
    assert Data() == Data.EMPTY == {}
    assert not Data.EMPTY
    assert Data.EMPTY.to_json() == "{}"


def test_of_returns_data_as_it_is_and_adds_keywords():
    data = Data(a=1)
    assert Data.of(data) is data
    assert Data.of(data, "input_data", b=2) == {"a": 1, "b": 2}


def test_a_mapping_and_keywords_may_be_given_together_and_keywords_win():
    assert Data({"a": 1, "self": 2, "mapping": 3}, a=4, mapping=5) == {"a": 4, "self": 2, "mapping": 5}


def test_text_is_only_parsed_when_somebody_looks_into_it():
    data = Data.from_json("not parsed")
    assert data.to_json() == "not parsed"
    with pytest.raises(ValueError, match="Expecting value"):
        data["key"]


def test_the_text_of_something_else_than_an_object_is_refused_on_the_first_look():
    with pytest.raises(InvalidRequest, match="expected the JSON of Data to be an object, got: a str [(]not shown"):
        len(Data.from_json("[1]"))


def test_text_from_elsewhere_with_other_characters_is_escaped():
    data = Data.from_json('{"städte": "Köln"}')
    assert data.to_json() == '{"st\\u00e4dte":"K\\u00f6ln"}'
    assert data["städte"] == "Köln"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2,)), [1, [2]]),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (Data(a=1), {"a": 1}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        ({Colour.RED: 1}, {"red": 1}),
        ("\x00", "\x00"),
        ("🐈", "🐈"),
        (-(10**40), -(10**40)),
    ],
)
def test_values_become_plain_json_types(value, plain):
    data = Data(key=value)
    for held in (data["key"], Data.from_json(data.to_json())["key"]):
        assert held == plain
        assert type(held) is type(plain)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "path", "got"),
    [
        ({"a": [1, 2, {3}]}, "input_data['a'][2]", "got: set$"),
        ({"a": {"b": b""}}, "input_data['a']['b']", "got: bytes$"),
        ({"a": datetime.now(UTC)}, "input_data['a']", "got: datetime$"),
        ({"a": Unprintable()}, "input_data['a']", "got: Unprintable$"),
        ({"a": float("nan")}, "input_data['a']", r"got: float \(nan\)"),
        ({"a": [float("-inf")]}, "input_data['a'][0]", r"got: float \(-inf\)"),
        ({"a": "\ud800"}, "input_data['a']", r"got: str \(with a lone surrogate\)"),
        ({"\udfff": 1}, r"input_data['\udfff']", r"got: str \(with a lone surrogate\)"),
        ({1: 1}, "input_data[1]", r"got: int \(as a key\)"),
        ({"a": {None: 1}}, "input_data['a'][None]", r"got: NoneType \(as a key\)"),
        ({"a": 1 << 5000}, "input_data['a']", r"got: int \(of more than 4096 bits\)"),
        ({"a": int}, "input_data['a']", "got: type$"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value, path, got):
    with pytest.raises(DataNotStorable, match=got) as caught:
        Data.of(value, "input_data")
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: expected JSON (None, bool, int, ")
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


def test_a_container_that_holds_itself_is_refused():
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(DataNotStorable, match=f"nested deeper than {MAX_DEPTH}"):
        Data(circle=circle)


@pytest.mark.parametrize("value", [[1], "text", 5])
def test_something_else_than_a_mapping_is_refused(value):
    with pytest.raises(InvalidRequest, match="expected data to be a mapping with str keys, got: "):
        Data(value)


def test_pydantic_models_are_dumped():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Point", x=(int, ...), at=(datetime, ...))
    point = model(x=1, at=datetime(2024, 1, 2, tzinfo=UTC))
    assert Data(points=[point]) == {"points": [{"x": 1, "at": "2024-01-02T00:00:00Z"}]}
    assert Data(point) == {"x": 1, "at": "2024-01-02T00:00:00Z"}


def test_nobody_can_change_data_from_outside():
    source = {"list": [1], "map": {"a": [1]}}
    data = Data(source)
    source["list"] = [2]
    copies: list[Any] = [data.to_dict(), dict(data)]
    for copy in copies:
        copy["list"].append(3)
        copy["map"]["a"].append(3)
    assert data == {"list": [1], "map": {"a": [1]}}
    with pytest.raises(TypeError):
        data["list"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        data.other = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (None, 0),
        ("1", 1),
        ([1], [1.0]),
        ({"x": 1}, {"x": True}),
        ([1], [1, 1]),
    ],
)
def test_values_of_another_type_are_not_equal(one, other):
    assert Data(key=one) != Data(key=other)
    assert Data(key=one) != {"key": other}


def test_an_absent_key_is_not_equal_to_none_and_order_does_not_matter():
    assert Data(a=None) != Data()
    assert Data(a=1, b=2) == Data(b=2, a=1)
    assert Data(a=[1, {"b": (2,)}]) == {"a": [1, {"b": [2]}]}
    assert Data() != {"a": object()}
    assert Data() != 5


def test_merging_replaces_values_and_leaves_the_original_alone():
    data = Data(a=1, b=2)
    assert data.merged({"b": 3}, c=4) == {"a": 1, "b": 3, "c": 4}
    assert data | {"b": 3} == Data(a=1, b=3)
    assert {"b": 3, "d": 5} | data == Data(b=2, d=5, a=1)
    assert data == {"a": 1, "b": 2}
    with pytest.raises(TypeError):
        data | 5  # type: ignore[operator]


def test_typed_getters_give_the_default_for_an_absent_key_and_for_another_type():
    data = Data(flag=True, count=3, ratio=0.5, name="x", nothing=None)
    assert data.get_bool("flag") is True
    assert data.get_int("count") == 3
    assert data.get_float("ratio") == 0.5
    assert data.get_string("name") == "x"
    assert data.get_int("flag", 7) == data.get_int("ratio", 7) == data.get_int("absent", 7) == 7
    assert data.get_float("count") is None
    assert data.get_bool("count", default=False) is False
    assert data.get_string("nothing", "d") == "d"
    assert data.get("nothing", "d") is None


def test_array_getters_want_every_element_of_their_type():
    data = Data(flags=[True], counts=[1, 2], ratios=[1.0], names=["a"], holes=["a", None], mixed=[1, True], none=[])
    assert data.get_bool_array("flags") == [True]
    assert data.get_int_array("counts") == [1, 2]
    assert data.get_float_array("ratios") == [1.0]
    assert data.get_string_array("names") == ["a"]
    assert data.get_string_array("holes") is None
    assert data.get_nullable_string_array("holes") == ["a", None]
    assert data.get_int_array("mixed") is None
    assert data.get_int_array("absent") is None
    assert data.get_float_array("none") == []


def test_has_key_with_value_of_type_tells_types_apart_and_never_counts_none():
    data = Data(flag=True, nothing=None, items=[], inner={})
    assert data.has_key_with_value_of_type("flag", bool)
    assert not data.has_key_with_value_of_type("flag", int)
    assert not data.has_key_with_value_of_type("nothing", type(None))
    assert data.has_key_with_value_of_type("items", list)
    assert data.has_key_with_value_of_type("inner", dict)
    assert not data.has_key_with_value_of_type("absent", str)


def test_too_large_data_say_how_large_and_what_may_be():
    with pytest.raises(DataTooLarge, match="expected output_data to be at most 5 bytes as JSON, got: 7 bytes"):
        Data(a=11).merged(a=1).check_size(5, "output_data")
    Data(a="é" * 10).check_size(28)


def test_the_repr_can_be_read_back():
    data = Data(a=[1, None])
    assert repr(data) == "Data({'a': [1, None]})"
    assert "a" in data
    assert len(data) == 1
