"""How long results are kept, and how works and nodes find each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.lanes import lane_of, lanes_of
from celery_workmanager.retention import prune_at

DAY = 86_400_000_000
names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


def test_on_android_results_are_kept_from_the_enqueue():
    assert prune_at(10 * DAY, 8 * DAY, 0, DAY, from_enqueue=True) == 9 * DAY
    assert prune_at(10 * DAY, 8 * DAY, 3 * DAY, DAY, from_enqueue=True) == 12 * DAY


def test_on_android_a_work_that_was_never_enqueued_may_go_at_once():
    assert prune_at(10 * DAY, None, 0, DAY, from_enqueue=True) < 2 * DAY


def test_on_a_server_results_are_kept_from_the_finish():
    assert prune_at(10 * DAY, 8 * DAY, 0, DAY, from_enqueue=False) == 11 * DAY
    assert prune_at(10 * DAY, None, 2 * DAY, DAY, from_enqueue=False) == 13 * DAY


def test_a_lane_is_the_same_number_in_every_process():
    assert lane_of("celery", "shop.blur") == lane_of("celery", "shop.blur") == 8702376129335170588


@given(names, names, names, names)
def test_two_lanes_are_one_only_if_queue_and_worker_are(queue, worker, other_queue, other_worker):
    same = (queue, worker) == (other_queue, other_worker)
    assert (lane_of(queue, worker) == lane_of(other_queue, other_worker)) is same
    assert -(2**63) <= lane_of(queue, worker) < 2**63


def test_a_node_serves_a_lane_for_each_of_its_queues_and_workers():
    lanes = lanes_of(["a", "b"], ["x", "y", "z"])
    assert len(lanes) == 6
    assert lanes[lane_of("b", "y")] == "y"
    assert lanes_of([], ["x"]) == {}
