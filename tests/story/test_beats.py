"""Three beats that are killed and frozen at random, and a hundred works of one second each: no period twice, none lost.

The audit is of the works' own log. `WORKMANAGER_BEATS_SECONDS` lets it go on for longer, `WORKMANAGER_BEATS_SEED`
repeats the order of what happened.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from celery_workmanager import CatchUp, ExistingPeriodicWorkPolicy, PeriodicWorkRequest, WorkManager, schema
from celery_workmanager.store import scheduling
from celery_workmanager.timing import SECOND
from tests import services
from tests.story import story_app
from tests.story.workers import StoryBeat, StoryWorker, wait_until

SECONDS = float(os.environ.get("WORKMANAGER_BEATS_SECONDS", "20"))
SEED = int(os.environ.get("WORKMANAGER_BEATS_SEED", "0")) or random.randrange(1 << 30)
WORKS = 100
#: A short lease, so that a beat that is frozen is declared lost meanwhile.
LEASE = 5.0

pytestmark = [pytest.mark.slow, pytest.mark.postgresql, pytest.mark.timeout(SECONDS * 2 + 180)]


class Place:
    """A store, three beats and a worker."""

    def __init__(self, folder, url):
        self.folder = folder
        self.manager = WorkManager.get_instance(story_app.build(url))
        schema.migrate(self.manager.store.database)
        self.beats = [StoryBeat(folder, url, name=f"beat-{number}", lease=LEASE) for number in range(3)]
        self.worker = StoryWorker(folder, url, name="worker", lease=LEASE)
        for each in (*self.beats, self.worker):
            each.start()

    def periods(self):
        return [line for line in story_app.lines(self.folder) if line["event"] == "period"]

    def is_up(self):
        nodes = self.manager.store.nodes()
        return sum(not node.runs_works for node in nodes) >= len(self.beats) and any(node.runs_works for node in nodes)

    def close(self):
        for each in (*self.beats, self.worker):
            each.end()
        self.manager.store.close()


@pytest.fixture
def place(tmp_path, postgresql_url) -> Iterator[Place]:
    services.empty_database(postgresql_url)
    made = Place(tmp_path, postgresql_url)
    yield made
    made.close()
    services.empty_database(postgresql_url)


def trouble(place, dice, seconds):
    """Kill or freeze a beat every few seconds; says what was done."""
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        beat, how = dice.choice(place.beats), dice.choice(["kill", "freeze", "freeze for long"])
        done[how] += 1
        if how == "kill":
            beat.kill()
            _pass(min(left, dice.uniform(0, 1)))
            beat.start()
        else:
            beat.freeze()
            _pass(min(left, dice.uniform(0.2, 2) if how == "freeze" else dice.uniform(LEASE, LEASE + 3)))
            beat.thaw()
        _pass(min(max(0.0, end - time.monotonic()), dice.uniform(0.5, 3)))
    return done


def _pass(seconds):
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, deadline=seconds + 10)


def audit(lines, interval):
    """How many periods were fired twice, and how many are missing between each work's first and last one."""
    twice = lost = 0
    moments: dict[str, Counter[int]] = {}
    for line in lines:
        moments.setdefault(line["id"], Counter())[line["of"]] += 1
    for each in moments.values():
        twice += sum(each.values()) - len(each)
        lost += (max(each) - min(each)) // interval + 1 - len(each)
        assert all((at - min(each)) % interval == 0 for at in each)
    return twice, lost


def test_no_period_is_fired_twice_or_lost_while_beats_are_killed_and_frozen(place):
    wait_until(place.is_up, what="everybody is there")
    requests = [
        PeriodicWorkRequest("story.period", repeat_interval=1, fixed_rate=True, catch_up=CatchUp.ALL, keep_runs=0)
        for _ in range(WORKS)
    ]
    for number, request in enumerate(requests):
        policy = ExistingPeriodicWorkPolicy.KEEP
        place.manager.enqueue_unique_periodic_work(f"works-{number}", policy, request)
    done = trouble(place, random.Random(SEED), SECONDS)
    until = place.manager.clock.now()

    def caught_up():
        latest: dict[str, int] = {}
        for line in place.periods():
            latest[line["id"]] = max(latest.get(line["id"], 0), line["of"])
        return len(latest) == WORKS and min(latest.values()) >= until - SECOND

    wait_until(caught_up, deadline=60, what="all that was due until now has run")
    lines = place.periods()
    print(f"seed {SEED}: {dict(done)}; {len(lines)} periods; by how many nodes: {len(place.manager.store.nodes())}")
    assert audit(lines, SECOND) == (0, 0), f"seed {SEED}"
    assert len(lines) >= WORKS * (SECONDS - 1)


def test_the_schedule_has_a_holder_again_after_all_that(place):
    wait_until(place.is_up, what="everybody is there")
    trouble(place, random.Random(SEED + 1), min(SECONDS, 5))

    def is_held():
        with place.manager.store.database.plain() as connection:
            rows = scheduling.schedules(connection)
        return any(row.lease_until >= place.manager.clock.now() for row in rows)

    wait_until(is_held, deadline=20, what="a beat holds the schedule")


def test_the_audit_sees_what_it_looks_for():
    def lines(*moments):
        return [{"id": "a", "of": at * SECOND} for at in moments]

    assert audit(lines(1, 2, 3), SECOND) == (0, 0)
    assert audit(lines(1, 2, 2, 3), SECOND) == (1, 0)
    assert audit(lines(1, 4), SECOND) == (0, 2)
