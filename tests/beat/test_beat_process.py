"""Real beats: what they send, how they end, and how they live without their store or their broker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
from kombu.connection import Connection

from celery_workmanager import WorkManager, schema
from celery_workmanager.store import scheduling
from tests import services
from tests.beat import beat_app, processes
from tests.story.cluster import running_cluster
from tests.story.cluster import why_not as why_no_cluster
from tests.story.workers import freeze_between_commits, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(180)]


class Site:
    """A store, a broker, and the beats and workers of a test."""

    def __init__(self, folder, store, broker):
        self.folder, self.store_url, self.broker = folder, store, broker
        self.app = beat_app.build(store, broker)
        self.manager = WorkManager.get_instance(self.app)
        schema.migrate(self.manager.store.database)
        self.processes = []
        self.ids = []

    def beat(self, *arguments, **options):
        return self._started(processes.beat(self.folder, self.store_url, self.broker, *arguments, **options))

    def worker(self, *arguments, **options):
        arguments = ("worker", "-c", "1", "-Q", "beat.works", *arguments)
        return self._started(processes.Process(self.folder, self.store_url, self.broker, *arguments, **options))

    def _started(self, process):
        self.processes.append(process)
        return process

    def messages(self, number, deadline=60):
        """Wait for so many messages more, and return them."""
        found: list[Any] = []
        with Connection(self.broker) as connection, connection.SimpleQueue(beat_app.MESSAGES) as queue:
            while len(found) < number:
                try:
                    message = queue.get(timeout=deadline)
                except Empty:
                    raise AssertionError(f"expected {number} messages, got: {len(found)}") from None
                message.ack()
                found.append(message)
        self.ids += [message.headers["id"] for message in found]
        return found

    def runs(self):
        path = self.folder / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def holder(self):
        with self.manager.store.database.plain() as connection:
            return [row.holder for row in scheduling.schedules(connection)]

    def close(self):
        for process in self.processes:
            process.end()
        self.manager.store.close()
        with Connection(self.broker) as connection:
            for name in (beat_app.MESSAGES, "beat.works"):
                connection.default_channel.queue_delete(name)


@pytest.fixture
def site(tmp_path, store_url, redis_url) -> Iterator[Site]:
    made = Site(tmp_path, store_url, redis_url)
    yield made
    made.close()


def test_beat_sends_an_ordinary_entry_once_a_second_and_ends_at_once(site):
    beat = site.beat()
    messages = site.messages(4)
    assert all(message.headers["celery_beat_task"] for message in messages)
    assert len(set(site.ids)) == 4
    (entry,) = site.manager.store.nodes()
    assert (entry.runs_works, entry.pid) == (False, beat.pid)
    assert beat.terminate() < 3
    assert beat.exit_code == 0
    # It said goodbye: others needn't wait for anything.
    assert site.manager.store.nodes() == []
    assert site.holder() == [None]
    assert [file.name for file in site.folder.glob("celerybeat*")] == []
    # A beat that starts again goes on, and doesn't begin anew.
    site.beat()
    assert site.messages(1)[0].headers["id"] not in site.ids[:-1]


def test_the_schedule_of_a_killed_beat_goes_on_at_another_one(site):
    first = site.beat(name="one")
    site.messages(1)
    site.beat(name="two")
    wait_until(lambda: len(site.manager.store.nodes()) == 2, what="both are there")
    first.signal(signal.SIGKILL)
    wait_until(lambda: first.exit_code is not None)
    site.messages(3)
    assert len(set(site.ids)) == 4


def test_a_beat_that_froze_sends_nothing_when_it_comes_back(site):
    first = site.beat(name="one")
    site.messages(1)
    site.beat(name="two")
    wait_until(lambda: len(site.manager.store.nodes()) == 2, what="both are there")
    freeze_between_commits(first.pid, site.manager.store.database)
    (was,) = site.holder()
    wait_until(lambda: site.holder() != [was], what="another takes it over")
    first.signal(signal.SIGCONT)
    site.messages(4)
    wait_until(lambda: "another beat has taken the schedule" in first.log, what="it notices")
    assert len(set(site.ids)) == 5


def test_a_worker_with_beat_keeps_the_schedule_too(site):
    worker = site.worker("-B", "--scheduler", "workmanager")
    site.messages(2)
    wait_until(lambda: sum(not node.runs_works for node in site.manager.store.nodes()) == 1)
    assert worker.terminate() < 10
    assert [file.name for file in site.folder.glob("celerybeat*")] == []
    wait_until(lambda: site.manager.store.nodes() == [], what="both said goodbye")


def test_beat_waits_for_its_broker_and_keeps_time_meanwhile(tmp_path, free_redis):
    site = Site(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", free_redis.url)
    try:
        beat = site.beat()
        site.messages(1)
        free_redis.stop()
        wait_until(lambda: "what is due is sent later" in beat.log, what="it notices")
        (mine,) = site.holder()
        free_redis.start()
        site.messages(2)
        assert site.holder() == [mine]
        assert len(set(site.ids)) == 3
    finally:
        free_redis.start()
        site.close()


@pytest.mark.postgresql
def test_beat_survives_an_absence_of_its_store_and_ends_at_once_in_it(tmp_path, redis_url):
    reason = why_no_cluster()
    if reason:
        pytest.skip(f"without a PostgreSQL of its own: {reason}")
    with running_cluster() as cluster:
        site = Site(tmp_path, cluster.url, redis_url)
        try:
            beat = site.beat()
            site.messages(2)
            cluster.stop("fast")
            wait_until(lambda: "The store is away" in beat.log, what="it notices")
            cluster.start()
            site.messages(2)
            assert len(set(site.ids)) == 4
            cluster.stop("fast")
            wait_until(lambda: beat.log.count("The store is away") == 2, what="it notices again")
            assert beat.terminate() < 5
            assert beat.exit_code == 0
            cluster.start()
        finally:
            site.close()


def test_without_a_broker_beat_ends_at_once_too(tmp_path):
    site = Site(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}", f"redis://127.0.0.1:{services.free_port()}/0")
    beat = site.beat()
    try:
        wait_until(lambda: "what is due is sent later" in beat.log, what="it notices")
        assert beat.terminate() < 3
    finally:
        beat.end()
        site.manager.store.close()
