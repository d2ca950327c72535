"""Limits as rules: keys from the input, room for runs at once, tokens of a rate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.bounds import Bound, Room, bounds_of, check_keys
from celery_workmanager.call import Call
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.limits import Limit, Rate
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.timing import SECOND

TENANT = {"concurrency": ["tenant:{tenant}", 2]}


def test_a_work_has_as_many_bounds_as_limits():
    assert bounds_of({}, ["{}"]) == ()
    assert bounds_of({"concurrency": ["a", 2], "rate": ["b", 3, SECOND]}, ["{}"]) == (
        Bound("a", 2),
        Bound("b", 3, SECOND),
    )


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        (['{"tenant": "x"}'], "tenant:x"),
        (['{"tenant": 7}'], "tenant:7"),
        (["{}", '{"tenant": "from a prerequisite"}'], "tenant:from a prerequisite"),
        (['{"tenant": "own"}', '{"tenant": "first"}', '{"tenant": "last"}', "{}"], "tenant:last"),
        (['{"tenant": "own"}', "[1]"], "tenant:own"),
    ],
)
def test_a_key_is_filled_in_from_the_input_as_the_worker_sees_it(inputs: list[str], key: str):
    assert bounds_of(TENANT, inputs) == (Bound(key, 2),)


def test_a_key_of_a_task_call_is_filled_in_from_its_keyword_arguments():
    options: dict[str, Any] = {**TENANT, "call": {}}
    assert bounds_of(options, ['{"args": [1], "kwargs": {"tenant": 7}}']) == (Bound("tenant:7", 2),)
    check_keys(OneTimeWorkRequest("w", call=Call('{"args": [], "kwargs": {"a": 1}}'), concurrency=Limit("{a}", 1)))


def test_doubled_braces_are_braces():
    assert bounds_of({"concurrency": ["{{tenant}}", 1]}, ["{}"])[0].key == "{tenant}"


@pytest.mark.parametrize("text", ["{}", '{"tenant": null}', '{"tenant": [1]}', '{"tenant": true}', "[]"])
def test_a_field_that_is_missing_or_no_text_is_an_error_that_names_it(text: str):
    with pytest.raises(InvalidRequest, match="tenant"):
        bounds_of(TENANT, [text])


def test_a_request_whose_input_lacks_a_field_is_refused():
    check_keys(OneTimeWorkRequest("w", {"tenant": "x"}, concurrency=Limit("tenant:{tenant}", 1)))
    with pytest.raises(InvalidRequest, match=r"'tenant'.*got: None"):
        check_keys(OneTimeWorkRequest("w", {"other": "x"}, rate=Rate("tenant:{tenant}", 1, 60)))


def test_a_filled_in_key_that_is_too_long_is_refused():
    with pytest.raises(InvalidRequest, match="key"):
        check_keys(OneTimeWorkRequest("w", {"tenant": "x" * 300}, concurrency=Limit("tenant:{tenant}", 1)))


def test_the_own_number_of_a_work_counts_for_it():
    room = Room({"a": 2}, {}, 0)
    assert room.lacking([Bound("a", 3)]) is None
    assert room.lacking([Bound("a", 2)]) == Bound("a", 2)
    room.take([Bound("a", 3)])
    assert room.under(Bound("a", 3)) == 0
    assert room.under(Bound("a", 1)) < 0


def test_a_rate_gives_n_at_once_and_then_one_after_the_other():
    bound, room = Bound("a", 3, 3 * SECOND), Room({}, {"a": 0}, SECOND)
    for left in (3, 2, 1):
        assert room.under(bound) == left
        room.take([bound])
    assert room.lacking([bound]) == bound
    assert room.opens_at(bound) == 2 * SECOND
    assert Room({}, room.full_at, 2 * SECOND - 1).under(bound) == 0
    assert Room({}, room.full_at, 2 * SECOND).under(bound) == 1
    assert Room({}, room.full_at, 4 * SECOND).under(bound) == 3
    assert Room({}, room.full_at, 400 * SECOND).under(bound) == 3


def test_the_first_of_two_limits_that_leaves_no_room_is_named():
    both = [Bound("a", 1), Bound("b", 1, SECOND)]
    room = Room({}, {"a": 0, "b": 0}, 5)
    room.take(both)
    assert room.lacking(both) == both[0]
    room.running.clear()
    assert room.lacking(both) == both[1]
    assert room.opens_at(both[0]) is None


@given(
    n=st.integers(1, 50),
    per=st.integers(1, 10 * SECOND),
    steps=st.lists(st.integers(0, SECOND), min_size=1, max_size=200),
)
def test_no_more_start_in_any_stretch_of_time_than_the_bucket_and_what_came_back(n: int, per: int, steps: list[int]):
    bound, full_at, now = Bound("a", n, per), {"a": 0}, 0
    starts = list[int]()
    for wait in steps:
        now += wait
        room = Room({}, full_at, now)
        while room.lacking([bound]) is None:
            room.take([bound])
            starts.append(now)
            assert len(starts) < 20_000
        full_at = room.full_at
        opens = room.opens_at(bound)
        assert opens is not None
        assert now < opens <= now + bound.interval
        assert Room({}, full_at, opens).under(bound) == 1
    for at, first in enumerate(starts):
        for later in range(at, min(at + 3 * n, len(starts))):
            # To the rounding of one interval: n at once, and n more for each `per` that has passed.
            assert later - at + 1 <= n + (starts[later] - first) * n // per + 1
