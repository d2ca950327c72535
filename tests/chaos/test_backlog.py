"""Producers see how much waits."""

from __future__ import annotations

import pytest

from celery_workmanager import OneTimeWorkRequest, WorkManager, schema
from tests.chaos.backlog import LIMITED, Backlog
from tests.story import story_app


@pytest.fixture
def manager(tmp_path):
    made = WorkManager.get_instance(story_app.build(f"sqlite:///{tmp_path / 'store.sqlite3'}"))
    schema.migrate(made.store.database)
    yield made
    made.store.close()


def test_what_waits_to_be_run_fills_the_backlog(manager):
    first, second = (OneTimeWorkRequest("story.step") for _ in range(2))
    manager.begin_with(first).then(second).enqueue()
    assert Backlog(manager, most=2).is_full
    assert not Backlog(manager, most=3).is_full


def test_what_waits_for_a_moment_or_has_finished_does_not(manager):
    later, over = OneTimeWorkRequest("story.step", initial_delay=3600), OneTimeWorkRequest("story.step")
    manager.enqueue([later, over])
    manager.cancel_work_by_id(over.id)
    assert not Backlog(manager, most=1).is_full


def test_works_under_the_limit_of_the_fleet_are_counted_apart(manager):
    works = [OneTimeWorkRequest("story.step", tags={LIMITED}) for _ in range(2)]
    manager.enqueue([*works, OneTimeWorkRequest("story.step")])
    assert Backlog(manager, most_limited=3).has_room_for_limited
    assert not Backlog(manager, most_limited=2).has_room_for_limited
    manager.cancel_work_by_id(works[0].id)
    assert Backlog(manager, most_limited=2).has_room_for_limited
