"""How many works of a limited worker a claim may take."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from kombu.utils.limits import TokenBucket

from celery_workmanager.outcome import Claim
from celery_workmanager.throttle import Throttle

#: Lanes 1 and 2 are two queues of one worker, 3 is another's, 4 one without a limit.
WORKERS = {1: "a", 2: "a", 3: "b", 4: "free"}
HOURLY = 1 / 3600


def throttle_of(**buckets: Any) -> Throttle:
    return Throttle(buckets.get)


def claims(*workers: str) -> list[Claim]:
    return [Claim(str(number), worker, "q", 1, "n", 0, 0, 0, ["{}"]) for number, worker in enumerate(workers)]


def test_without_limits_everything_is_allowed():
    for throttle in (Throttle(None), throttle_of()):
        ready = [1, 3, 4]
        assert throttle.allow(ready, WORKERS) == (ready, {})
        throttle.spend(claims("a", "free"))
        assert throttle.next_token() == inf


def test_a_lane_without_tokens_is_left_out_until_there_is_one():
    throttle = throttle_of(b=TokenBucket(HOURLY))
    assert throttle.allow([3, 4], WORKERS) == ([3, 4], {3: 1})
    throttle.spend(claims("b", "free", "free"))
    assert throttle.allow([3, 4], WORKERS) == ([4], {})
    assert throttle.next_token() == pytest.approx(3600, abs=10)
    assert throttle.next_token() == inf
    assert throttle.allow([4], WORKERS) == ([4], {})
    assert throttle.next_token() == inf


def test_the_shortest_wait_counts():
    throttle = throttle_of(a=TokenBucket(HOURLY), b=TokenBucket(0.1))
    throttle.spend(claims("a", "b"))
    assert throttle.allow([1, 3], WORKERS) == ([], {})
    assert throttle.next_token() == pytest.approx(10, abs=1)


def test_what_was_allowed_and_not_claimed_costs_no_token():
    throttle = throttle_of(b=TokenBucket(HOURLY))
    for _ in range(3):
        assert throttle.allow([3], WORKERS) == ([3], {3: 1})
        throttle.spend([])


def test_queues_of_one_worker_take_turns_at_its_tokens():
    throttle = throttle_of(a=TokenBucket(HOURLY))
    turns = [throttle.allow([1, 2, 4], WORKERS) for _ in range(4)]
    assert turns[:2] == turns[2:]
    assert {lane for _, caps in turns for lane in caps} == {1, 2}
    assert all(list(caps.values()) == [1] for _, caps in turns)
    assert all(set(lanes) == {*caps, 4} for lanes, caps in turns)


@pytest.mark.parametrize(("spent", "left"), [(0, 20), (5, 15), (20, 0)])
def test_a_fast_bucket_gives_as_many_as_it_holds(spent: int, left: int):
    throttle = throttle_of(b=TokenBucket(HOURLY, capacity=20))
    throttle.spend(claims(*["b"] * spent))
    lanes, caps = throttle.allow([3], WORKERS)
    assert (lanes, caps) == (([3], {3: left}) if left else ([], {}))


def test_tokens_come_back_in_time():
    throttle = throttle_of(b=TokenBucket(1e6))
    throttle.spend(claims("b"))
    lanes, caps = throttle.allow([3], WORKERS)
    while not lanes:
        assert throttle.next_token() < 1e-5
        lanes, caps = throttle.allow([3], WORKERS)
    assert caps == {3: 1}
