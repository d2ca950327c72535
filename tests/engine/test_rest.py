"""How seldom an idle node looks: where it hears the bell, and nothing lies ready."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from celery_workmanager import bell, tables
from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.duties import Duties
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.node import Node
from celery_workmanager.outage import Outage
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store, pausing
from tests.engine.scripted import ScriptedEngine, World
from tests.stores import emptied, make_store, put, take, wait_until

HOUR = 3600.0


@pytest.fixture
def postgresql(postgresql_store_url: str) -> Iterator[Store]:
    made = make_store(emptied(postgresql_store_url))
    yield made
    made.close()


@pytest.fixture
def mariadb(mariadb_store_url: str) -> Iterator[Store]:
    made = make_store(emptied(mariadb_store_url))
    yield made
    made.close()


@pytest.mark.parametrize("tries", [True, False])
def test_an_ear_knows_that_it_hears_when_something_came_back(postgresql: Store, tries: bool):
    """LISTEN alone proves nothing: behind some poolers it succeeds, and nothing ever comes."""
    heard: list[int] = []
    ear: Any = bell.listen(postgresql.database, lambda: heard.append(1), tries=tries)
    ear.start()
    try:
        wait_until(lambda: heard, seconds=60)  # it listens
        if not tries:
            assert not ear.is_heard
            put(postgresql, "a")
        wait_until(lambda: ear.is_heard, seconds=60)
    finally:
        ear.stop()


def test_a_node_that_sees_nothing_knows_it_and_one_that_may_not_take_what_it_sees_looks_on(world):
    node = world.node().join()
    assert node.dispatcher.sees_nothing
    world.enqueue(constraints=Constraints(node_labels=("zone=elsewhere",)))
    node.dispatcher.step()
    assert node.running == []
    assert not node.dispatcher.sees_nothing


@pytest.fixture
def idle(world, monkeypatch: pytest.MonkeyPatch):
    """A node that has seen nothing and may wait five seconds for a ring; and how often it has looked since."""
    node, looks, look = world.node(concurrency=4).join(), [], world.store.look

    def counted(known):
        looks.append(1)
        return look(known)

    node.wait(5.0)
    node.settle()
    monkeypatch.setattr(world.store, "look", counted)
    return node, looks


def test_a_node_that_has_seen_nothing_looks_when_it_has_waited_long_enough(world, idle):
    node, looks = idle
    ids = world.enqueue()
    world.advance(4.9)
    node.settle()
    assert (node.running, looks) == ([], [])
    world.advance(0.1)
    node.settle()
    assert node.running == ids


@pytest.mark.parametrize("why", ["bell_rang", "look_again"])
def test_it_looks_when_it_is_told_to(world, idle, why: str):
    node, _ = idle
    ids = world.enqueue()
    getattr(node.dispatcher, why)()
    assert node.dispatcher.rung.is_set()
    node.settle()
    assert node.running == ids


def test_one_that_sees_what_others_may_take_looks_at_each_turn(world, idle):
    node, looks = idle
    world.enqueue(constraints=Constraints(node_labels=("zone=elsewhere",)))
    node.dispatcher.bell_rang()
    node.dispatcher.step()
    node.dispatcher.step()
    assert len(looks) == 2


def test_a_run_that_goes_on_is_no_reason_to_look(world, idle):
    node, looks = idle
    [long] = world.enqueue()
    node.dispatcher.bell_rang()
    node.settle()
    node.began(long)
    node.settle()  # sees that nothing is left
    looks.clear()
    for _ in range(20):
        world.advance(0.05)
        node.wait(5.0)
        node.settle()
    assert (looks, world.states(long)) == ([], ["RUNNING"])


def test_what_comes_back_is_looked_for(world, idle):
    node, _ = idle
    [work] = world.enqueue()
    node.dispatcher.bell_rang()
    node.settle()
    node.settle()
    assert node.dispatcher.sees_nothing
    node.ended(work, Ending.GIVEN_BACK, -1)
    node.settle()
    assert node.running == [work]


def test_after_an_outage_it_looks(world, idle, monkeypatch: pytest.MonkeyPatch):
    node, _ = idle
    ids = world.enqueue()
    look = world.store.look
    monkeypatch.setattr(node.dispatcher.rung, "wait", lambda _: True)
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "look", away)
        node.dispatcher.bell_rang()
        assert not node.dispatcher.guarded_step()
    assert world.store.look is look
    assert node.dispatcher.guarded_step()
    assert node.running == ids


def away(*_):
    raise StoreUnavailable("sqlite://", "gone")


def test_it_waits_no_longer_than_until_its_next_look(world, idle):
    node, _ = idle
    node.dispatcher.rung = rung = Rung()
    world.advance(2.0)
    node.dispatcher.wait(5.0)
    world.advance(3.0)
    node.dispatcher.wait(5.0)
    assert rung.patience == [3.0, 5.0]


def test_one_whose_row_somebody_holds_is_not_asked_for_again_and_again(postgresql_store_url: str):
    world = World(url=emptied(postgresql_store_url))
    node = world.node().join()
    [work] = world.enqueue()
    with world.database.engine().begin() as somebody:
        somebody.execute(select(tables.work.c.id).where(tables.work.c.id == work).with_for_update())
        assert not node.dispatcher.step()
        assert (node.running, node.dispatcher.sees_nothing) == ([], False)
    node.settle()
    assert node.running == [work]
    world.store.close()


class Rung(threading.Event):
    """Remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.patience: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.patience.append(timeout)
        return True


@pytest.mark.parametrize("is_drained", [True, False], ids=["drained", "without a lease"])
def test_a_node_that_may_claim_nothing_does_not_wake_for_files_that_have_changed(world, *, is_drained: bool):
    node = world.node(name="w@host").join()
    world.enqueue(constraints=Constraints(content_uri_triggers=(ContentUriTrigger("/in"),)))
    node.dispatcher.step()
    node.files.changed([("/in/a", 0)])
    world.advance(11)
    if is_drained:
        pausing.pause(world.store, PauseTarget(PauseKind.NODE, "w@host"))
    else:
        node.dispatcher.lost()
    rung = node.dispatcher.rung = Rung()
    for _ in range(2):
        node.dispatcher.step()
        node.dispatcher.wait(1.0)
    # It may have been due to turn when it still might claim.
    assert rung.patience[1:] == [1.0]
    assert node.running == []


def test_a_rest_tells_whether_something_was_told():
    duties = Duties(Outage())
    duties.stopped.set()  # it doesn't wait for the calm after a ring
    duties.told.set()
    assert duties.rest(HOUR)
    assert not duties.rest(0)


@pytest.mark.parametrize(
    ("heard", "nothing_waits", "poll", "seconds"),
    [
        (True, True, 1.0, 5.0),
        (True, False, 1.0, 1.0),
        (False, True, 1.0, 1.0),
        (True, True, 0.1, 0.5),
        (True, True, 4.0, 5.0),  # a third of the lease
        (True, True, 300.0, 300.0),
    ],
)
def test_where_the_bell_is_heard_and_nothing_waits_it_rests_longer(heard, nothing_waits, poll, seconds):
    node: Any = SimpleNamespace(
        _settings=Settings(store_url="sqlite://", lease=15.0, poll_interval=poll), _ear=SimpleNamespace(is_heard=heard)
    )
    assert Node._patience(node, nothing_waits=nothing_waits) == seconds


def test_a_node_is_told_at_once_what_it_has_promoted_itself(world):
    """Its own ring comes back to it later, if at all."""
    node = Node(
        world.store, ScriptedEngine(1), world.clock, Settings(store_url="sqlite://"),
        name="node", lanes=dict, facts=dict,
    )  # fmt: skip
    world.enqueue(initial_delay=10)
    node.upkeep.step()
    assert not node.dispatcher.rung.is_set()
    world.advance(10)
    node.upkeep.step()
    assert node.dispatcher.rung.is_set()


def test_who_has_to_look_rests_longer_only_while_the_same_work_lies_there(mariadb: Store):
    """Works that are taken as they come are found at each look, too: those must not make it look more seldom."""
    heard: list[int] = []
    pauses: list[float] = []
    ear: Any = bell.listen(mariadb.database, lambda: heard.append(1))
    meanwhile = iter(
        [
            lambda: put(mariadb, "a"),
            lambda: None,
            lambda: None,
            lambda: (take(mariadb), put(mariadb, "b")),
            lambda: (take(mariadb), put(mariadb, "c")),
            lambda: take(mariadb),
        ]
    )

    def wait(pause: float) -> bool:
        pauses.append(pause)
        happens = next(meanwhile, None)
        if happens is not None:
            happens()
        return happens is None

    ear._stopped = SimpleNamespace(wait=wait)
    ear._listen()
    assert pauses == [0.05, 0.05, 0.1, 0.2, 0.05, 0.05, 0.05]
    assert len(heard) == 5


def test_a_ring_wakes_the_lease_only_while_something_runs(world):
    """What it tells of is claimed sooner with one thread less; the lease learns of it with its next step."""
    node: Any = Node(
        world.store, ScriptedEngine(1), world.clock, Settings(store_url="sqlite://"),
        name="node", lanes=dict, facts=dict,
    )  # fmt: skip
    node._on_ring()
    assert node.dispatcher.rung.is_set()
    assert node.dispatcher.prompt.was_rung
    assert (node._rung.is_set(), node._is_rung) == (False, True)
    node.dispatcher.runs["a"] = SimpleNamespace()
    node._on_ring()
    assert node._rung.is_set()


def test_the_upkeep_lets_what_is_claimed_go_first(monkeypatch: pytest.MonkeyPatch):
    duties = Duties(Outage())
    pauses: list[float | None] = []
    monkeypatch.setattr(duties.stopped, "wait", pauses.append)
    duties.told.set()
    duties.rest(1.0)
    assert pauses == [0.1, 0.005]
    assert not duties.told.is_set()
    duties.rest(0.05)
    assert pauses[2:] == [0.05]
