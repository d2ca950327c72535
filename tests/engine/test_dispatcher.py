"""The dispatcher: what it claims, hands over, marks, stops and gives back."""

from __future__ import annotations

import pytest
from kombu.utils.limits import TokenBucket

from celery_workmanager.outcome import Ending
from celery_workmanager.pace import MOST_TOGETHER
from celery_workmanager.work import StopReason


def test_nothing_is_claimed_without_a_lease(world):
    world.enqueue()
    node = world.node()
    node.dispatcher.step()
    assert node.engine.batches == []
    node.join()
    assert len(node.running) == 1


def test_works_that_may_be_long_are_taken_one_for_each_process_and_handed_over_alone(world):
    ids = world.enqueue(6)
    node = world.node(concurrency=2).join()
    node.settle()
    assert node.engine.batches == [[ids[0]], [ids[1]]]
    node.ended(ids[0], seconds=3.0)
    node.settle()
    assert node.running == [ids[1], ids[2]]


def test_another_node_takes_what_a_busy_one_has_no_process_for(world):
    ids = world.enqueue(4)
    first, second = world.node().join(), world.node().join()
    assert (first.running, second.running) == (ids[:2], ids[2:])


def test_short_works_are_taken_ahead_and_handed_over_together(world):
    world.enqueue(200)
    node = world.node(most=64)
    node.learn()
    node.join()
    assert len(node.running) == 64
    assert all(1 < len(batch) <= MOST_TOGETHER for batch in node.engine.batches)


def test_works_with_a_time_limit_are_handed_over_alone(world):
    world.enqueue(4, time_limit=5)
    node = world.node()
    node.learn()
    node.join()
    assert [len(batch) for batch in node.engine.batches] == [1, 1, 1, 1]


def test_no_more_is_taken_when_what_used_to_be_short_becomes_long(world):
    world.enqueue(200)
    node = world.node(concurrency=2, most=64)
    node.learn()
    node.join()
    before = len(node.running)
    for work_id in node.running[:2]:
        node.ended(work_id, seconds=5.0)
    node.settle()
    assert len(node.running) == before - 2


def test_only_the_lanes_a_node_serves_are_claimed(world):
    world.enqueue()
    node = world.node()
    node.worker = "another"
    node.join()
    assert node.running == []


# -- starts -------------------------------------------------------------------------------------------------------


def test_a_run_is_marked_as_running_only_after_20_milliseconds(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    node.began(work_id)
    began = world.info(work_id).enqueued_at
    world.advance(0.019)
    node.dispatcher.step()
    assert world.states(work_id) == ["ENQUEUED"]
    world.advance(0.001)
    node.dispatcher.step()
    info = world.info(work_id)
    assert (info.state.name, info.run_attempt_count, info.runs, info.started_at) == ("RUNNING", 1, 1, began)
    assert info.node == node.lease.node


def test_a_run_that_ends_before_that_is_never_marked_and_counts_all_the_same(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    version = world.info(work_id).version
    node.ended(work_id, seconds=0.004, output='{"a":1}')
    node.settle()
    info = world.info(work_id)
    assert (info.state.name, info.run_attempt_count, info.runs, info.version) == ("SUCCEEDED", 1, 1, version + 1)
    assert info.output_data["a"] == 1


def test_a_marked_run_is_not_counted_twice(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    node.began(work_id)
    world.advance(1)
    node.dispatcher.step()
    node.ended(work_id, seconds=1.0)
    node.settle()
    info = world.info(work_id)
    assert (info.run_attempt_count, info.runs) == (1, 1)


def interrupted(world, number: int = 1) -> list[str]:
    """Works whose process was lost before."""
    ids = world.enqueue(number)
    node = world.node(concurrency=number).join()
    for work_id in ids:
        node.ended(work_id, Ending.LOST)
    node.dispatcher.accepting = False
    node.settle()
    assert [world.info(each).interruptions for each in ids] == [1] * number
    return ids


def test_an_interrupted_work_is_marked_before_the_hand_over_and_handed_over_alone(world):
    ids = interrupted(world, 3)
    node = world.node(concurrency=4)
    node.learn()
    states_at_hand_over = []
    hand_over = node.engine.hand_over

    def seen(batch):
        states_at_hand_over.append(world.states(*(claim.id for claim in batch)))
        hand_over(batch)

    node.engine.hand_over = seen
    node.join()
    assert states_at_hand_over == [["RUNNING"]] * 3
    assert sorted(node.engine.batches) == sorted([each] for each in ids)


def test_what_was_marked_in_advance_and_never_began_is_no_attempt(world):
    [work_id] = interrupted(world)
    node = world.node().join()
    assert world.states(work_id) == ["RUNNING"]
    node.dispatcher.accepting = False
    node.ended(work_id, Ending.GIVEN_BACK, seconds=-1)
    node.settle()
    info = world.info(work_id)
    assert (info.state.name, info.run_attempt_count, info.interruptions) == ("ENQUEUED", 0, 1)


# -- while they run -----------------------------------------------------------------------------------------------


def test_progress_is_written_with_the_batches_and_only_for_runs_that_own_their_works(world):
    first, second = world.enqueue(2)
    node = world.node().join()
    world.store.cancel(second)
    node.engine.news = [(node.engine.claims[each], '{"percent":5}') for each in (first, second)]
    world.advance(0.05)
    node.dispatcher.step()
    assert world.info(first).progress["percent"] == 5
    assert len(world.info(second).progress) == 0


def test_a_work_that_is_cancelled_is_noticed_and_told_to_stop_once(world):
    ids = world.enqueue(2)
    node = world.node().join()
    world.advance(2)
    world.store.cancel(ids[0])
    node.lease.step()
    node.lease.step()
    assert node.engine.stops == [(ids[0], StopReason.CANCELLED_BY_APP, 10.0)]
    node.ended(ids[0], Ending.STOPPED, seconds=2.0, reason=StopReason.CANCELLED_BY_APP)
    node.dispatcher.accepting = False
    node.settle()
    assert world.info(ids[0]).stop_reason is StopReason.NOT_STOPPED
    assert world.states(*ids) == ["CANCELLED", "ENQUEUED"]


def test_a_ring_makes_it_look_sooner(world):
    [work_id] = world.enqueue()
    node = world.node().join()
    world.advance(2)
    node.lease.step()
    world.store.cancel(work_id)
    world.advance(0.3)
    node.lease.step()
    assert node.engine.stops == []
    node.lease.step(rung=True)
    assert len(node.engine.stops) == 1


def test_a_run_that_an_operator_terminated_gets_no_grace(world):
    ids = world.enqueue(2)
    node = world.node().join()
    world.advance(2)
    for each in ids:
        node.began(each)
    node.settle()
    world.advance(2)
    node.settle()
    world.store.revoke(ids[:1], StopReason.USER)
    world.store.revoke(ids[1:], StopReason.CANCELLED_BY_APP)
    node.lease.step()
    assert node.engine.stops == [(ids[0], StopReason.USER, 0.0), (ids[1], StopReason.CANCELLED_BY_APP, 10.0)]


def test_a_revoked_task_is_a_cancelled_work(world):
    first, second = world.chain()
    node = world.node().join()
    node.dispatcher.revoked(node.engine.claims[first])
    node.dispatcher.step()
    assert world.states(first, second) == ["CANCELLED", "CANCELLED"]
    node.ended(first, Ending.STOPPED, reason=StopReason.USER)
    node.settle()
    assert world.states(first, second) == ["CANCELLED", "CANCELLED"]


# -- shutting down ------------------------------------------------------------------------------------------------


def test_a_warm_shutdown_gives_back_what_has_not_begun_and_claims_nothing_more(world):
    ids = world.enqueue(3)
    node = world.node(concurrency=2).join()
    node.began(ids[0])
    node.dispatcher.close_to_new()
    assert node.engine.gave_back
    node.ended(ids[1], Ending.GIVEN_BACK, seconds=-1)
    node.settle()
    assert node.running == [ids[0]]
    assert (world.states(ids[1]), world.info(ids[1]).runs) == (["ENQUEUED"], 0)
    node.ended(ids[0], seconds=0.5)
    node.settle()
    assert node.dispatcher.is_idle
    assert world.states(*ids) == ["SUCCEEDED", "ENQUEUED", "ENQUEUED"]
    world.advance(5)
    node.lease.step()
    node.dispatcher.step()
    assert node.running == []
    other = world.node(concurrency=4).join()
    assert set(other.running) == {ids[1], ids[2]}


def test_a_cold_shutdown_writes_what_is_known(world):
    ids = world.enqueue(2)
    node = world.node().join()
    node.began(ids[0])
    world.advance(1)
    node.dispatcher.step()
    node.dispatcher.abandon(StopReason.SYSTEM_PROCESSING)
    first, second = (world.info(each) for each in ids)
    assert (first.state.name, first.stop_reason, first.runs) == ("ENQUEUED", StopReason.SYSTEM_PROCESSING, 1)
    assert (second.state.name, second.stop_reason, second.runs) == ("ENQUEUED", StopReason.NOT_STOPPED, 0)


@pytest.mark.parametrize("ending", [Ending.SUCCEEDED, Ending.FAILED, Ending.RETRY, Ending.STOPPED, Ending.LOST])
def test_a_stale_end_is_dropped(world, ending):
    first, second = world.chain()
    node = world.node().join()
    world.store.cancel(first)
    before = world.info(first)
    node.ended(first, ending, seconds=1.0)
    node.settle()
    assert world.info(first) == before
    assert world.states(second) == ["CANCELLED"]
    assert node.dispatcher.is_idle


def test_a_process_that_was_frozen_for_longer_than_its_lease_claims_nothing_before_it_has_renewed(world):
    node = world.node().join()
    world.advance(3600)
    world.enqueue()
    node.dispatcher.step()
    assert node.engine.batches == []
    node.lease.step()
    node.dispatcher.step()
    assert len(node.engine.batches) == 1


def test_what_is_claimed_in_the_name_of_a_lost_node_is_never_handed_over(world):
    ids = world.enqueue()
    node = world.node().join()
    node.settle()
    taken = node.engine.claims[ids[0]]
    node.ended(ids[0], Ending.GIVEN_BACK)
    node.settle()
    before = list(node.engine.batches)
    node.dispatcher.lost()
    node.dispatcher.take([taken])
    assert node.engine.batches == before
    assert node.dispatcher.is_idle is False


# -- rate limits --------------------------------------------------------------------------------------------------


def test_a_limited_worker_is_claimed_by_tokens_and_the_next_one_is_waited_for(world):
    world.enqueue(3)
    bucket = TokenBucket(1 / 60)
    node = world.node(concurrency=4, bucket_of=lambda name: {"w": bucket}[name]).join()
    assert len(node.running) == 1
    node.settle()
    assert len(node.running) == 1
    assert node.dispatcher._throttle.next_token() == pytest.approx(60, abs=5)
    bucket.capacity = bucket._tokens = 2
    node.settle()
    assert len(node.running) == 3
