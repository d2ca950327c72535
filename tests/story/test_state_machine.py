"""Random walks over the real store and the reference model, side by side; the invariants are checked after each step.

`WORKMANAGER_SOAK=20` walks twenty times as often and further.
"""

from __future__ import annotations

import os
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from celery_workmanager import OneTimeWorkRequest, schema
from celery_workmanager.clock import HeldClock
from celery_workmanager.planning import Step
from celery_workmanager.settings import Settings
from celery_workmanager.store import Store
from celery_workmanager.terms import Terms
from celery_workmanager.timing import as_timedelta
from tests.story.draws import QUOTA, START
from tests.story.faults import FaultyDatabase
from tests.story.walk import StoreAndModel
from tests.story.walk_base import KEEP_RUNS, KEEP_STOPS, MAX_INTERRUPTIONS, RETENTION

SOAK = int(os.environ.get("WORKMANAGER_SOAK", "0"))


def new_store(url: str) -> Store:
    database = FaultyDatabase(url, lock_wait=0.5)
    schema.migrate(database)
    quota = {name: (n, as_timedelta(per)) for name, (n, per) in QUOTA.items()}
    terms = Terms.of(
        Settings(
            retention=RETENTION,
            max_interruptions=MAX_INTERRUPTIONS,
            keep_runs=KEEP_RUNS,
            keep_stops=KEEP_STOPS,
            expedited_quota=quota,
        )
    )
    return Store(database, HeldClock(START), terms, name_wait=5.0)


@pytest.mark.timeout(0 if SOAK else 400)
def test_store_and_model_agree_on_every_walk(store_url):
    """Enqueues, runs, crashes, cancels and time in any order leave the store as the words say."""
    store = new_store(store_url)
    walks = settings(
        max_examples=(40 if store.database.is_sqlite else 12) * max(1, SOAK),
        stateful_step_count=100 if SOAK else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(partial(StoreAndModel, store), settings=walks)  # type: ignore[arg-type]  # it only calls it
    finally:
        store.close()


def test_keep_swallows_what_follows_a_work_that_exists_already(store_url):
    """Whether or not the kept step's id is known, and whether or not another id of the call is."""
    store = new_store(store_url)

    def enqueue(*heads):
        steps = [Step((OneTimeWorkRequest("w.a", id=each),), parents, name) for each, parents, name in heads]
        return list(store.enqueue(steps, lambda _: "q").skipped)

    try:
        enqueue(("known", (), "name"), ("other", (), None))
        assert enqueue(("known", (), "name"), ("child", ("known",), "name")) == ["known", "child"]
        chain = ("known", (), "name"), ("child", ("known",), "name"), ("other", (), None)
        assert enqueue(*chain) == ["known", "child", "other"]
    finally:
        store.close()
