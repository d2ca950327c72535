"""The databases themselves keep what befalls works, and when."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest
from sqlalchemy import text

from celery_workmanager.outcome import Ending
from celery_workmanager.store import Store
from celery_workmanager.work import State
from tests.chaos import history
from tests.chaos.history import Step
from tests.stores import end, put, take_one

#: SQLite tells its time in milliseconds, and the machine's two clocks are read one after the other.
_PRECISION = 0.01


@pytest.fixture
def kept(store: Store) -> Iterator[Store]:
    history.keep(store.database.engine())
    yield store
    on = " ON workmanager_work" if store.database.engine().dialect.name == "postgresql" else ""
    with store.database.engine().begin() as connection:
        for event in ("made", "changed", "gone") if not on else ("insert", "update", "delete"):
            connection.execute(text(f"DROP TRIGGER chaos_{event}{on}"))
            if on:
                connection.execute(text(f"DROP FUNCTION chaos_{event}"))
        connection.execute(text("DROP TABLE chaos_history"))


def _steps(store: Store) -> list[Step]:
    with store.database.plain() as connection:
        return history.steps(connection)


def test_each_change_is_kept_with_its_moment(kept: Store) -> None:
    before = monotonic()
    put(kept, "a")
    claim = take_one(kept, "a")
    given_back = monotonic()
    end(kept, claim, ending=Ending.GIVEN_BACK)
    after = monotonic()
    made, claimed, back = _steps(kept)
    assert (made.was, made.became, made.heir) == (None, State.ENQUEUED, None)
    assert (claimed.owner, claimed.heir) == (None, claim.token)
    assert (back.owner, back.heir, back.became) == (claim.token, None, State.ENQUEUED)
    assert before - _PRECISION <= made.at <= claimed.at <= back.at <= after + _PRECISION
    assert back.at >= given_back - _PRECISION
