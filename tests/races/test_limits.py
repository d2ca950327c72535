"""Claims under limits beside each other, and beside the ends, heals and looks that make room.

Who loses is named by each test. What holds in all of them: no more run than may, and none is left parked beside room.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Transaction, create_engine

from celery_workmanager.lanes import LIMIT, lane_of
from celery_workmanager.limits import Limit
from celery_workmanager.outcome import Claim, Ending
from celery_workmanager.store import Store, claiming, limiting
from celery_workmanager.timing import SECOND
from tests.stores import (
    QUEUE,
    REPLACE,
    WORKER,
    end,
    is_blocked,
    job,
    meanwhile,
    move,
    put,
    put_named,
    register,
    row,
    rows_of,
    start,
    states,
    together,
    twin,
    wait_until,
)

ONE: dict[str, Any] = {"concurrency": Limit("oven", 1)}
LANE = lane_of(QUEUE, WORKER, "", LIMIT)
ROUNDS = 10


def take(store: Store, node: str, limit: int = 1) -> list[Claim]:
    return store.claim_limited([LANE], node, hash((node, threading.get_ident())) & 0xFFFFFF, limit)


@contextmanager
def claiming_now(store: Store, node: str = "slow") -> Iterator[tuple[Transaction, limiting.Admission]]:
    """A node that has claimed and judged, and has not committed yet."""
    own = create_engine(store.database.url, isolation_level="READ COMMITTED")
    try:
        with own.connect() as connection, connection.begin() as transaction:
            now = store.clock.now()
            claims = claiming.claim(connection, [LANE], node=node, token=77, limit=1, now=now)
            yield transaction, limiting.admit(connection, claims, 1, now)
    finally:
        own.dispose()


def test_of_two_nodes_that_claim_the_last_room_the_second_parks(server: Store):
    """The second to lock the limit loses: it waits, and counts what the first has taken."""
    put(server, job("a", **ONE), job("b", **ONE))
    with claiming_now(server) as (slow, first), meanwhile(lambda: take(server, "fast")) as second:
        assert [claim.id for claim in first.claims] == ["a"]
        wait_until(lambda: is_blocked(server))
        slow.commit()
    assert second.result(timeout=30) == []
    assert (row(server, "a").node, row(server, "b").parked_by) == ("slow", "oven")


def test_two_nodes_at_the_same_moment_take_one_room(store: Store):
    """Either may lose."""
    with closing(twin(store)) as other:
        for n in range(ROUNDS):
            key: dict[str, Any] = {"concurrency": Limit(f"oven-{n}", 1)}
            put(store, job(f"a{n}", **key), job(f"b{n}", **key))
            found = together(lambda: take(store, "one"), lambda: take(other, "two"))
            assert len([claim for claims in found for claim in claims]) == 1
            end(store, *[claim for claims in found for claim in claims])
            (claim,) = take(store, "one")
            end(store, claim)
    assert set(states(store).values()) == {"SUCCEEDED"}


def test_an_end_beside_a_claim_that_still_counts_it_wakes_what_that_parks(server: Store):
    """The claim loses: it has seen no room, and what it parks is woken by the end, which waits for it."""
    put(server, job("a", **ONE))
    (a,) = take(server, "one")
    put(server, job("b", **ONE))
    with claiming_now(server) as (slow, admission), meanwhile(lambda: end(server, a)) as ending:
        assert [claim.id for claim, _ in admission.parked] == ["b"]
        wait_until(lambda: is_blocked(server))
        slow.commit()
    assert ending.result(timeout=30).accepted == {"a"}
    assert row(server, "b").parked_by is None
    assert [claim.id for claim in take(server, "two")] == ["b"]


def test_a_heal_beside_a_claim_that_still_counts_the_dead_wakes_what_that_parks(server: Store):
    """The claim loses, as beside an end."""
    register(server, "dead", lease=SECOND)
    put(server, job("a", **ONE))
    start(server, *take(server, "dead"))
    put(server, job("b", priority=1, **ONE))
    move(server, 2 * SECOND)
    with claiming_now(server) as (slow, admission), meanwhile(lambda: server.heal(server.clock.now())) as heal:
        assert [claim.id for claim, _ in admission.parked] == ["b"]
        wait_until(lambda: is_blocked(server))
        slow.commit()
    assert heal.result(timeout=30) is not None
    assert [claim.id for claim in take(server, "two", 5)] == ["b"]
    assert rows_of(server, "permit") == 1


def test_upkeep_leaves_a_limit_alone_that_a_claim_holds(server: Store):
    """Upkeep loses, and doesn't wait."""
    put(server, job("a", **ONE), job("b", **ONE))
    take(server, "one", 2)
    move(server, limiting.RECHECK)
    put(server, job("c", **ONE))
    with claiming_now(server):
        assert server.wake_limited() == 0
        assert server.forget_limits("") == ""
    assert server.wake_limited() == 1
    assert rows_of(server, "limit") == 1


def test_whatever_nodes_do_at_once_no_more_run_than_may_and_all_come_to_an_end(store: Store):
    keys = {"x": 1, "y": 2, "z": 3}
    put(store, *(job(f"{key}{n:02}", concurrency=Limit(key, most)) for key, most in keys.items() for n in range(12)))
    running, lock, over = Counter[str](), threading.Lock(), list[str]()

    def node(name: str, own: Store) -> None:
        while len(over) < 36:
            claims = take(own, name, 3)
            for claim in claims:
                with lock:
                    running[claim.id[0]] += 1
                    assert running[claim.id[0]] <= keys[claim.id[0]]
            for at, claim in enumerate(claims):
                again = claim.run_attempt_count == 0 and at == 1
                with lock:
                    running[claim.id[0]] -= 1
                ending = Ending.STOPPED if again else Ending.SUCCEEDED
                while end(own, claim, ending=ending).held:
                    pass  # as a node does with what others hold at this moment
                if not again:
                    over.append(claim.id)

    with closing(twin(store)) as second, closing(twin(store)) as third:
        found = together(*(lambda each=each: node(*each) for each in (("a", store), ("b", second), ("c", third))))
    assert found == [None, None, None]
    assert sorted(over) == sorted(states(store))
    assert rows_of(store, "permit") == 0


def test_a_users_open_transaction_that_replaces_a_run_keeps_no_claim_waiting(server: Store):
    """The user loses nothing, and neither does the node: until the commit the run counts, afterwards it doesn't."""
    put_named(server, "import", REPLACE, job("a", **ONE))
    (a,) = take(server, "one")
    users = create_engine(server.database.url, isolation_level="READ COMMITTED")
    with users.connect() as connection, connection.begin() as transaction:
        put_named(server, "import", REPLACE, job("b", **ONE), connection=connection)
        put(server, job("c", **ONE))
        assert take(server, "two", 5) == []
        move(server, limiting.RECHECK)
        assert server.wake_limited() == 1
        transaction.commit()
    users.dispose()
    assert end(server, a).stale == {"a"}
    assert [claim.id for claim in take(server, "two", 5)] == ["b"]
    assert rows_of(server, "permit") == 1
