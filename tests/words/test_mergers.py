"""Input mergers: overwriting, arrays, and how a worker finds those of users."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest, MergeError
from celery_workmanager.mergers import (
    ArrayCreatingInputMerger,
    InputMerger,
    OverwritingInputMerger,
    load_merger,
    merger_path,
)


class FirstMerger(InputMerger):
    def merge(self, inputs: Sequence[Data]) -> Data:
        return inputs[0]

    class Inner(OverwritingInputMerger):
        pass


class Unfinished(InputMerger):
    pass


def arrays(*inputs: Data) -> Data:
    return ArrayCreatingInputMerger().merge(inputs)


def test_overwriting_keeps_the_last_value_of_each_key_and_none_overwrites_too():
    merged = OverwritingInputMerger().merge([Data(a=1, b=1), Data(b="x", c=[1]), Data(a=None), Data.EMPTY])
    assert merged == {"a": None, "b": "x", "c": [1]}


def test_overwriting_one_input_gives_that_input():
    only = Data(a=1)
    assert OverwritingInputMerger().merge([only]) is only
    assert OverwritingInputMerger().merge([]) == Data.EMPTY


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (1, 2, [1, 2]),
        ([1], 2, [1, 2]),
        (1, [2, 3], [1, 2, 3]),
        ([1], [2], [1, 2]),
        ("a", None, ["a", None]),
        (None, "a", [None, "a"]),
        ([None], "a", [None, "a"]),
        ([], 1, [1]),
        (1, [], [1]),
        ([], [], []),
        ({"x": 1}, {"x": 2}, [{"x": 1}, {"x": 2}]),
        ([[1]], [["a"]], [[1], ["a"]]),
        ([1, "a"], ["b", 2], [1, "a", "b", 2]),
    ],
)
def test_arrays_append_scalars_and_concatenate_lists_of_one_type(one, other, merged):
    assert arrays(Data(key=one), Data(key=other)) == {"key": merged}


def test_even_a_single_input_becomes_arrays():
    assert arrays(Data(a=1, b=[2], c=None)) == {"a": [1], "b": [2], "c": [None]}
    assert arrays() == Data.EMPTY


@pytest.mark.parametrize(
    ("one", "other", "expected", "got"),
    [
        (1, "a", "int", "str"),
        (1, 1.0, "int", "float"),
        (1, True, "int", "bool"),
        (1, None, "int", "str"),
        ([1.5], [True], "float", "bool"),
        ({"x": 1}, [1], "mapping", "int"),
        ([1, "a"], 1, "int and str", "int"),
    ],
)
def test_arrays_refuse_a_clash_of_types(one, other, expected, got):
    sentence = f"expected values of input key 'key' to be {expected} as before, got: {got}"
    with pytest.raises(MergeError, match=sentence):
        arrays(Data(key=one), Data(key=other))


@pytest.mark.parametrize("merger", [OverwritingInputMerger, ArrayCreatingInputMerger, FirstMerger, FirstMerger.Inner])
def test_a_worker_finds_the_merger_by_its_path(merger):
    assert type(load_merger(merger_path(merger))) is merger


def test_the_two_of_ours_have_short_paths():
    assert merger_path(OverwritingInputMerger) == "overwriting"
    assert merger_path(ArrayCreatingInputMerger) == "array"
    assert merger_path(FirstMerger.Inner) == f"{__name__}:FirstMerger.Inner"


def test_a_merger_that_no_worker_could_import_is_refused():
    class Local(OverwritingInputMerger):
        pass

    with pytest.raises(InvalidRequest, match="to be defined where a worker can import it"):
        merger_path(Local)


@pytest.mark.parametrize("merger", [Unfinished, InputMerger, str, OverwritingInputMerger(), "array", None])
def test_something_else_than_a_finished_merger_class_has_no_path(merger):
    with pytest.raises(InvalidRequest, match="expected input_merger to be a subclass of InputMerger"):
        merger_path(merger)


@pytest.mark.parametrize("path", ["nowhere.at_all:X", "json:nothing", "", "json:JSONEncoder", "json:dumps"])
def test_a_path_that_leads_nowhere_says_so(path):
    with pytest.raises(InvalidRequest, match="expected input_merger to be a subclass of InputMerger in a module that"):
        load_merger(path)


def test_nothing_is_imported_for_a_path(tmp_path, monkeypatch):
    (tmp_path / "merger_of_nobody.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidRequest):
        load_merger("merger_of_nobody:Merger")
    assert "merger_of_nobody" not in sys.modules
