"""How much a node takes at once: never more than it can begin soon, never too little to keep it busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.outcome import Claim
from celery_workmanager.pace import AHEAD, HAND_OVER, MOST_TOGETHER, SHORT, Pace

MOST = 128
processes = st.integers(1, 64)
brief = st.floats(0, SHORT * 0.9)
long = st.floats(SHORT, 3600)


def claim(worker: str = "short", **fields: Any) -> Claim:
    return Claim("w", worker, "q", 1, "n", 0, fields.pop("interruptions", 0), 0, ["{}"], **fields)


@dataclass
class InHand:
    claim: Claim
    started_at: float | None = None


def learned(*runtimes: float, worker: str = "short", most: int = MOST) -> Pace:
    pace = Pace(most)
    for runtime in runtimes:
        pace.learn(worker, runtime)
    return pace


def test_a_worker_counts_as_short_after_three_short_runs():
    assert not learned(0.001, 0.001).is_short("short")
    assert learned(0.001, 0.001, 0.001).is_short("short")
    assert not Pace(MOST).is_short("unknown")


@given(st.lists(brief, min_size=3, max_size=10), long)
def test_one_long_run_makes_a_worker_long_at_once(before, runtime):
    assert not learned(*before, runtime * 1.001).is_short("short")


@given(st.lists(brief, min_size=3, max_size=20))
def test_the_expected_time_lies_between_what_was_seen_and_the_cost_of_a_hand_over(runtimes):
    expected = learned(*runtimes).expected("short")
    assert min([*runtimes, 0.0002]) <= expected <= max([*runtimes, 0.0002])


@given(processes, st.integers(0, 100))
def test_works_that_may_be_long_never_outnumber_the_processes(count, in_hand):
    """Long works must not pile up claimed behind each other while another node is idle."""
    runs = [InHand(claim("unknown"), 1.0) for _ in range(in_hand)]
    room = Pace(MOST).room(["unknown"], runs, count, now=2.0)
    assert max(0, room) + len(runs) <= max(count, len(runs))


@given(processes, st.lists(brief, min_size=3, max_size=5), st.integers(0, MOST), st.integers(1, 500))
def test_short_works_are_taken_ahead_within_the_limit_in_flight(count, runtimes, in_hand, most):
    pace = learned(*runtimes, most=most)
    runs = [InHand(claim()) for _ in range(in_hand)]
    room = pace.room(["short"], runs, count, now=2.0)
    assert len(runs) + max(0, room) <= max(most, len(runs))
    if in_hand == 0:
        assert room >= min(most, count)
        assert room <= max(count, count * AHEAD / pace.expected("short") + 1)


def test_a_process_that_is_busy_with_a_long_run_takes_nothing_ahead():
    pace = learned(0.001, 0.001, 0.001)
    stuck = [InHand(claim(), started_at=0.0) for _ in range(4)]
    assert pace.room(["short"], stuck, 4, now=10.0) == 0
    assert pace.room(["short"], stuck[:2], 4, now=10.0) > 0


def test_one_long_worker_among_those_that_are_ready_makes_the_node_take_one_each():
    assert learned(0.001, 0.001, 0.001).room(["short", "unknown"], [], 4, now=0.0) == 4


claims = st.lists(
    st.sampled_from(["short", "unknown"]).flatmap(
        lambda worker: st.builds(
            lambda limited, careful: claim(
                worker, options={"time_limit": 5.0} if limited else {}, start_written=careful
            ),
            st.booleans(),
            st.booleans(),
        )
    ),
    max_size=60,
)


@given(claims, processes, st.floats(0, SHORT * 0.5))
def test_every_claim_is_handed_over_once_and_only_short_unlimited_ones_share_a_hand_over(some, count, runtime):
    pace = learned(runtime, runtime, runtime)
    batches = list(pace.batches(some, count))
    assert sorted(map(id, (each for batch in batches for each in batch))) == sorted(map(id, some))
    for batch in batches:
        assert 1 <= len(batch) <= MOST_TOGETHER
        if len(batch) > 1:
            assert all(each.worker == "short" and not each.options and not each.start_written for each in batch)
            assert pace.expected("short") * len(batch) <= HAND_OVER + 1e-9


@given(st.integers(1, 200), processes)
def test_short_works_are_spread_over_the_processes(number, count):
    pace = learned(0.0001, 0.0001, 0.0001)
    fair = -(-number // count)
    assert all(len(batch) <= fair for batch in pace.batches([claim() for _ in range(number)], count))
