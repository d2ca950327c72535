"""Which commits wait for the disk: all but claims, which are merely made again."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from celery_workmanager.database import Database
from celery_workmanager.outcome import Ending
from celery_workmanager.store import Store
from tests.conftest import FEW_STORES
from tests.stores import end, job, put, put_chain, register, start, take, take_one

_ASKED = {"sqlite": "PRAGMA synchronous", "postgresql": "SHOW synchronous_commit"}
_WAITS, _DOES_NOT = {2, "on"}, {1, "off"}


def waits(connection: Connection) -> Any:
    return connection.execute(text(_ASKED[connection.dialect.name])).scalar_one()


@pytest.mark.parametrize("store_url", FEW_STORES, indirect=True)
@pytest.mark.parametrize("listener", [None, lambda _events: None], ids=["unheard", "heard"])
def test_a_transaction_waits_for_the_disk_unless_it_says_otherwise(store_url: str, listener: Any):
    database = Database(store_url)
    database.listener = listener
    try:
        assert database.run(waits) in _WAITS
        assert database.run_single(waits) in _WAITS
        assert database.run(waits, relaxed=True) in _DOES_NOT
        with database.plain() as connection:
            assert waits(connection) in _WAITS
        with database.transaction() as connection:
            assert waits(connection) in _WAITS
    finally:
        database.close()


def test_only_claims_do_not_wait(store: Store):
    """Whatever is accepted, ended or changed is on the disk when the call returns."""
    if store.database.is_mysql:
        pytest.skip("MySQL makes no difference between commits")
    commits: list[Connection] = []
    event.listen(store.database.engine(relaxed=True), "commit", commits.append)
    put(store, "a", "b", "c", "d")
    put_chain(store, "e", "f")
    register(store)
    store.cancel("d")
    store.update(job("b", priority=3), "celery")
    claims = [take_one(store, each) for each in ("a", "b", "c")]
    commits.clear()
    start(store, *claims)
    end(store, claims[0])
    end(store, claims[1], ending=Ending.FAILED)
    end(store, claims[2], ending=Ending.RETRY, after=0.0)
    store.retry("a", "again")
    store.cancel_all()
    store.give_up(["node"])
    while store.heal(store.clock.now()):
        pass
    store.prune(only_expired=False)
    assert commits == []
    put(store, "g")
    assert [claim.id for claim in take(store)] == ["g"]
