"""`work doctor` says who keeps time, and finds entries that nobody fires or that two do."""

from __future__ import annotations

import json
import os

import pytest
from celery import Celery

from celery_workmanager import WorkManager
from celery_workmanager.doctor import Severity, examine
from celery_workmanager.store import scheduling
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND

ENTRIES = {"tidy": {"task": "shop.tidy", "schedule": 60.0}}


def node(store, name, *, kind=None):
    now = store.clock.now()
    facts = {"queues": ["celery"], "workers": []} if kind is None else {"kind": kind}
    store.register(NodeRow(name, f"{name}@host", "host/1/1", 7, 1, now, now + 15 * SECOND, json.dumps(facts)))


def beat(store, name="beat", *, holds=True):
    node(store, name, kind="beat")
    if holds:
        scheduling.take(store, "shop", name, 7 * SECOND)


@pytest.fixture
def look(store, tmp_path):
    """What is said of time, by an app with these settings: the sentence, and the findings by code."""
    apps = []

    def examined(**conf):
        app = Celery("shop", broker="memory://", set_as_current=False)
        apps.append(app)
        app.conf.update({"beat_schedule_filename": str(tmp_path / "celerybeat-schedule"), **conf})
        manager = WorkManager(app, store_url=store.database.url.render_as_string(hide_password=False))
        vars(manager).update(store=store, clock=store.clock)
        monkey = pytest.MonkeyPatch()
        # The doctor asks the database for the time, which stands still for the others here.
        monkey.setattr("celery_workmanager.doctor.examination.time_of", lambda _: store.clock.now())
        try:
            (check,) = (check for check in examine(manager, patience=0.1) if check.name == "time")
        finally:
            monkey.undo()
        return check.told, {finding.code: finding for finding in check.findings}

    yield examined
    for app in apps:
        app.close()


def test_who_keeps_time_is_told(look, store):
    assert look() == ("Nobody keeps time.", {})
    node(store, "one")
    assert look()[0] == "Time is kept by 1 worker."
    node(store, "two")
    beat(store)
    assert look() == (
        "Time is kept by 2 workers and beat@host; beat@host (pid 7) fires the entries of beat_schedule.", {},
    )  # fmt: skip


def test_a_beat_alone_keeps_time_and_runs_nothing(look, store):
    beat(store, holds=False)
    assert look()[0] == "Time is kept by beat@host."


def test_entries_that_nobody_fires_are_complained_of_where_our_scheduler_is_set(look, store):
    node(store, "one")
    found = look(beat_schedule=ENTRIES, beat_scheduler="workmanager")[1]["no-beat"]
    assert (found.severity, "tidy" in found.seen) == (Severity.WARNING, True)
    beat(store)
    assert look(beat_schedule=ENTRIES, beat_scheduler="workmanager")[1] == {}


def test_entries_that_are_left_to_another_scheduler_are_noted(look, store):
    assert look(beat_schedule=ENTRIES)[1]["no-beat"].severity is Severity.NOTE


def test_entries_of_a_beat_whose_lease_has_ended_are_fired_by_nobody(look, store):
    beat(store)
    store.clock.move(8 * SECOND)
    assert set(look(beat_schedule=ENTRIES)[1]) == {"no-beat"}


def test_a_setting_that_names_another_scheduler_is_a_second_one(look, store):
    conf = {"beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler"}
    assert look(**conf)[1] == {}
    beat(store)
    assert look(**conf)[1]["second-scheduler"].severity is Severity.WARNING


@pytest.mark.parametrize("suffix", ["", ".db"])
def test_a_file_that_celerys_own_scheduler_wrote_lately_is_a_second_one(look, store, tmp_path, suffix):
    file = tmp_path / f"celerybeat-schedule{suffix}"
    file.touch()
    os.utime(file, times=(store.clock.now() / SECOND - 120,) * 2)
    assert look()[1] == {}
    beat(store)
    assert str(file) in look()[1]["second-scheduler"].seen
    os.utime(file, times=(store.clock.now() / SECOND - 3600,) * 2)
    assert look()[1] == {}


def test_a_beat_is_no_node_for_works(store, look):
    """Where only beats live, the doctor says that works wait for a worker."""
    beat(store)
    app = Celery("other", broker="memory://", set_as_current=False)
    manager = WorkManager(app, store_url=store.database.url.render_as_string(hide_password=False))
    vars(manager).update(store=store, clock=store.clock)
    codes = {finding.code for check in examine(manager, patience=0.1) for finding in check.findings}
    assert "no-node" in codes
    app.close()
