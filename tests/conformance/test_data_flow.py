"""From outputs to inputs: mergers, what they refuse, and the size limits."""

from __future__ import annotations

from typing import Any

import pytest

from celery_workmanager import (
    ArrayCreatingInputMerger,
    Data,
    OneTimeWorkRequest,
    OverwritingInputMerger,
    WorkContinuation,
    WorkQuery,
)
from tests.conformance.workers import BrokenMerger, Sum, act, actions, ran


@pytest.fixture
def joined(wm, works, kit):
    """Run two works with outputs and a third after them; return what the third got, or its info."""

    def run(merger, one, two, **own):
        actions["one"], actions["two"] = (lambda _: one), (lambda _: two)
        seen = []
        actions["see"] = lambda self: seen.append(dict(self.input_data))
        third = OneTimeWorkRequest(act, {"do": "see", **own}, input_merger=merger)
        wm.begin_with([works.request("one"), works.request("two")]).then(third).enqueue()
        kit.run_until_idle()
        return seen[0] if seen else works.info(third)

    return run


def test_outputs_of_prerequisites_replace_own_input_and_null_does_too(joined):
    got = joined(OverwritingInputMerger, {"a": 1, "b": 1}, {"c": None}, a=0, c=0, d=0)
    assert got == {"do": "see", "a": 1, "b": 1, "c": None, "d": 0}


def test_the_array_merger_makes_a_list_of_every_key(wm, works, kit):
    seen = []
    actions["one"] = lambda _: {"a": 1, "list": ["x"], "text": None}
    actions["two"] = lambda _: {"a": 2, "list": "y", "text": "z"}
    actions["see"] = lambda self: seen.append({key: sorted(map(str, value)) for key, value in self.input_data.items()})
    last = OneTimeWorkRequest(act, {"a": 0}, input_merger=ArrayCreatingInputMerger)
    actions["nothing"] = actions["see"]
    wm.begin_with([works.request("one"), works.request("two")]).then(last).enqueue()
    kit.run_until_idle()
    assert seen == [{"a": ["0", "1", "2"], "list": ["x", "y"], "text": ["None", "z"]}]


def test_a_root_goes_through_its_merger_too(wm, works, kit):
    got = []
    actions["nothing"] = lambda self: got.append(dict(self.input_data))
    wm.enqueue(OneTimeWorkRequest(act, {"a": 1, "b": [2, 3]}, input_merger=ArrayCreatingInputMerger))
    kit.run_until_idle()
    assert got == [{"a": [1], "b": [2, 3]}]


def test_a_merger_of_ones_own_gets_the_own_input_first_and_each_output(wm, works, kit):
    got = []
    actions["one"], actions["two"] = (lambda _: {"n": 20}), (lambda _: None)
    actions["nothing"] = lambda self: got.append(dict(self.input_data))
    last = OneTimeWorkRequest(act, {"n": 1}, input_merger=Sum)
    wm.begin_with([works.request("one"), works.request("two")]).then(last).enqueue()
    kit.run_until_idle()
    assert got == [{"total": 21, "inputs": 3}]


@pytest.mark.parametrize(
    ("merger", "one", "two", "error"),
    [
        (ArrayCreatingInputMerger, {"a": 1}, {"a": "x"}, "MergeError"),
        (ArrayCreatingInputMerger, {"a": 1}, {"a": None}, "MergeError"),
        (ArrayCreatingInputMerger, {"a": 1}, {"a": 1.0}, "MergeError"),
        (BrokenMerger, {}, {}, "RuntimeError"),
        (OverwritingInputMerger, {"a": "x" * 6000}, {"b": "y" * 6000}, "DataTooLarge"),
    ],
)
def test_an_input_that_cannot_be_merged_fails_the_work_without_a_start(wm, works, joined, merger, one, two, error):
    info = joined(merger, one, two)
    assert (info.state.name, info.error.exc_type) == ("FAILED", error)
    assert (info.run_attempt_count, info.runs, info.started_at) == (0, 0, None)
    assert info.output_data == Data.EMPTY


def test_what_waits_for_a_work_that_could_not_be_merged_fails_too(wm, works, kit):
    bad, child = works.request(input_merger=BrokenMerger), works.request()
    wm.begin_with(bad).then(child).enqueue()
    kit.run_until_idle()
    assert works.states(bad, child) == ["FAILED", "FAILED"]
    assert ran == []


def test_indirect_ancestors_hand_on_only_through_their_children(wm, works, kit):
    got = []
    actions["one"] = lambda _: {"far": 1}
    actions["two"] = lambda _: {"near": 2}
    actions["see"] = lambda self: got.append(dict(self.input_data))
    wm.begin_with(works.request("one")).then(works.request("two")).then(works.request("see")).enqueue()
    kit.run_until_idle()
    assert got == [{"do": "see", "near": 2}]


def test_everything_after_a_join_sees_lists(wm, works, kit):
    got = []
    actions["one"] = lambda _: {"x": 1}
    actions["see"] = lambda self: got.append(self.input_data["x"])
    WorkContinuation.combine([wm.begin_with(works.request("one"))]).then(works.request("see")).enqueue()
    kit.run_until_idle()
    assert got == [[1]]


def test_types_survive_the_store(wm, works, kit):
    data: dict[str, Any] = {
        "none": None,
        "bool": True,
        "int": 2**53 + 1,
        "float": 1.0,
        "text": "ñ\0\u2028😀",
        "nested": {"a": [{}]},
    }
    got = []

    def echo(self):
        got.append(dict(self.input_data))
        return got[0]

    actions["nothing"] = echo
    operation = wm.enqueue(OneTimeWorkRequest(act, data))
    kit.run_until_idle()
    info = works.info(operation.id)
    assert got == [data]
    assert info.input_data == info.output_data == Data(data)
    assert info.output_data.get_int("float", -1) == -1
    assert info.output_data.get_float("float") == 1.0


def test_input_over_androids_limit_is_refused_and_nothing_is_stored(wm, works):
    fits = OneTimeWorkRequest(act, {"x": "y" * (10_240 - len('{"x":""}'))})
    large = OneTimeWorkRequest(act, {"x": "y" * (10_241 - len('{"x":""}'))})
    assert wm.enqueue(fits).applied
    with pytest.raises(ValueError, match="at most 10240 bytes as JSON, got: 10241 bytes"):
        wm.enqueue([works.request(), large])
    assert len(wm.get_work_infos(WorkQuery())) == 1


def test_output_over_the_limit_or_no_json_fails_the_work(wm, works, kit):
    actions["large"] = lambda _: {"x": "y" * 10_240}
    actions["odd"] = lambda _: {"x": {1, 2}}
    large, odd = works.enqueue("large"), works.enqueue("odd")
    kit.run_until_idle()
    assert (works.state(large), works.info(large).error.exc_type) == ("FAILED", "DataTooLarge")
    assert (works.state(odd), works.info(odd).error.exc_type) == ("FAILED", "DataNotStorable")


def test_a_server_takes_more(server_kit):
    assert server_kit.work_manager.enqueue(OneTimeWorkRequest(act, {"x": "y" * 60_000})).applied
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        server_kit.work_manager.enqueue(OneTimeWorkRequest(act, {"x": "y" * 66_000}))
