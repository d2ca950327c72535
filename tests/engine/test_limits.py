"""Limits in a fleet: dispatchers of two nodes over one store, turned by hand."""

from __future__ import annotations

import pytest

from celery_workmanager.limits import Limit, Rate
from celery_workmanager.outcome import Ending
from celery_workmanager.work import StopReason
from tests.engine.scripted import Node, World

ONE, TWO = Limit("oven", 1), Limit("oven", 2)


@pytest.fixture
def fleet(world: World) -> tuple[Node, Node]:
    return world.node(concurrency=4).join(), world.node(concurrency=4).join()


def running(fleet: tuple[Node, Node]) -> list[str]:
    return sorted(fleet[0].running + fleet[1].running)


def turn(fleet: tuple[Node, Node]) -> None:
    for node in fleet:
        node.upkeep.step()
        node.settle()


def test_two_nodes_share_a_limit(world: World, fleet: tuple[Node, Node]):
    works = world.enqueue(6, concurrency=TWO)
    while works:
        turn(fleet)
        found = running(fleet)
        assert found == works[:2]
        for node in fleet:
            for each in node.running:
                node.ended(each)
        works = works[2:]
    turn(fleet)
    assert world.store.next_moment() is not None  # the last parked ones are looked at once more


def test_works_with_and_without_limits_take_turns(world: World):
    free = world.enqueue(8)
    bound = world.enqueue(8, concurrency=Limit("wide", 8))
    node = world.node(concurrency=2).join()
    seen: list[str] = []
    for _ in range(8):
        node.settle()
        seen += node.running
        for each in node.running:
            node.ended(each)
    assert set(seen) == {*free, *bound}
    assert 0 < sum(each in free for each in seen[:8]) < 8


def test_a_node_that_dies_lets_the_other_run_what_it_held(world: World, fleet: tuple[Node, Node]):
    first, second = world.enqueue(2, concurrency=ONE)
    fleet[0].settle()
    assert fleet[0].running == [first]
    fleet[0].began(first)
    turn(fleet)
    for _ in range(20):  # fleet[0] says nothing any more
        world.advance(1)
        fleet[1].lease.step()
        fleet[1].upkeep.step()
        fleet[1].settle()
    assert fleet[1].running == [first]
    fleet[1].ended(first)
    fleet[1].settle()
    assert fleet[1].running == [second]
    fleet[0].ended(first)
    fleet[0].settle()
    assert world.states(first, second)[0] == "SUCCEEDED"
    assert fleet[1].running == [second]


def test_a_stopped_run_makes_room(world: World, fleet: tuple[Node, Node]):
    first, second = world.enqueue(2, concurrency=ONE)
    turn(fleet)
    fleet[0].began(first)
    world.store.cancel(first)
    world.advance(1)
    fleet[0].lease.step(rung=True)
    assert [each[0] for each in fleet[0].engine.stops] == [first]
    fleet[0].ended(first, Ending.STOPPED, reason=StopReason.CANCELLED_BY_APP)
    turn(fleet)
    assert running(fleet) == [second]


def test_a_rate_holds_across_nodes(world: World, fleet: tuple[Node, Node]):
    world.enqueue(5, rate=Rate("mail", 2, 10))
    began = list[int]()
    for _ in range(30):
        for node in fleet:
            node.lease.step()
        turn(fleet)
        began.append(len(running(fleet)))
        world.advance(1)
    assert (began[0], began[4], began[5], began[10], began[15], began[29]) == (2, 2, 3, 4, 5, 5)


def test_a_works_key_that_cannot_be_filled_in_fails_it_and_the_rest_go_on(world: World, fleet: tuple[Node, Node]):
    [bad] = world.enqueue(concurrency=Limit("tenant:{tenant}", 1))
    [good] = world.enqueue(input_data={"tenant": 1}, concurrency=Limit("tenant:{tenant}", 1))
    turn(fleet)
    assert running(fleet) == [good]
    assert world.states(bad) == ["FAILED"]
