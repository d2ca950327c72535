"""What may happen to one real worker, and to the store under it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from celery_workmanager import ExistingWorkPolicy, OneTimeWorkRequest, State, WorkManager, database, schema
from celery_workmanager.errors import StoreUnavailable
from celery_workmanager.query import WorkQuery
from celery_workmanager.store.leasing import NodeRow
from tests import services
from tests.conftest import FEW_STORES
from tests.story import story_app
from tests.story.cluster import Cluster, running_cluster
from tests.story.cluster import why_not as why_no_cluster
from tests.story.workers import StoryWorker, freeze_between_commits, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Story:
    """A store, a manager and workers that come when they are called."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        self.manager = WorkManager.get_instance(story_app.build(url))
        schema.migrate(self.manager.store.database)
        self.workers: list[StoryWorker] = []

    def worker(self, name="one", **options):
        worker = StoryWorker(self.folder, self.url, name=name, **options)
        self.workers.append(worker)
        worker.start()
        return worker

    def request(self, nap=0.0, until="", **options):
        return OneTimeWorkRequest("story.step", {"nap": nap, "until": until}, **options)

    def infos(self, *ids):
        return self.manager.infos_of(ids)

    def wait_for(self, *ids, deadline=60.0):
        """Wait until they have finished, and say how."""
        wait_until(lambda: all(info.state.is_finished for info in self.infos(*ids)), deadline, f"{ids} end")
        return [info.state for info in self.infos(*ids)]

    def starts(self, work_id):
        return [line for line in story_app.lines(self.folder) if line["event"] == "start" and line["id"] == work_id]

    def ends(self, work_id):
        return [line for line in story_app.lines(self.folder) if line["event"] == "end" and line["id"] == work_id]

    def wait_for_start(self, work_id, times=1):
        return wait_until(
            lambda: len(self.starts(work_id)) >= times and self.starts(work_id), what=f"{work_id} starts"
        )[-1]

    def wait_for_running(self, work_id):
        wait_until(lambda: self.infos(work_id)[0].state is State.RUNNING, what=f"{work_id} is RUNNING")

    def close(self):
        for worker in self.workers:
            worker.end()
        self.manager.store.close()


@pytest.fixture
def story(tmp_path, store_url) -> Iterator[Story]:
    told = Story(tmp_path, store_url)
    yield told
    told.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_no_cluster()
    if reason:
        pytest.skip(f"without a PostgreSQL of its own: {reason}")
    with running_cluster() as server:
        yield server


def test_a_chain_goes_on_soon_after_its_worker_was_killed_and_started_again(story):
    """SIGKILL in the middle of a long work: a new worker sees the dead process and doesn't wait for its lease."""
    first, second, third = story.request(), story.request(nap=4), story.request()
    chain = story.manager.begin_with(first).then(second).then(third)
    # With a lease of ten minutes only the look at dead processes can be the reason.
    worker = story.worker(lease=600)
    chain.enqueue()
    story.wait_for_start(second.id)
    story.wait_for_running(second.id)
    worker.kill()
    worker.start()
    assert story.wait_for(first.id, second.id, third.id) == [State.SUCCEEDED] * 3
    assert Counter(len(story.starts(each.id)) for each in (first, third)) == {1: 2}
    assert len(story.starts(second.id)) == 2
    assert story.infos(second.id)[0].interruptions == 1


@pytest.mark.redis
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_with_works_in_hand_gets_its_broker_back(tmp_path, free_redis, pool):
    """The broker is killed and comes back while a work runs: neither the work nor the worker is troubled by it."""
    story = Story(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    try:
        worker = story.worker(broker=free_redis.url, pool=pool)
        wait_until(lambda: "mingle: all alone" in worker.log, what="the worker is connected")
        work, after = story.request(nap=60), story.request()
        story.manager.enqueue([work])
        story.wait_for_running(work.id)
        free_redis.stop()
        wait_until(lambda: "Cannot connect to redis" in worker.log, what="it notices")
        free_redis.start()
        wait_until(lambda: worker.log.count("mingle: all alone") == 2, what="it is connected again")
        story.manager.enqueue(after)
        assert story.wait_for(after.id) == [State.SUCCEEDED]
        assert story.infos(work.id)[0].state is State.RUNNING
        story.manager.cancel_work_by_id(work.id)
        assert wait_until(lambda: story.ends(work.id))[0]["said"] == "stopped"
        assert len(story.starts(work.id)) == 1
    finally:
        story.close()


@pytest.mark.postgresql
def test_works_outlive_an_absence_of_the_store_and_enqueue_says_so_at_once(cluster, tmp_path):
    """The database stops while works run: they end and are written when it is back, once each."""
    story = Story(tmp_path, cluster.url)
    try:
        story.worker(lease=30)
        works = [story.request(nap=nap) for nap in (2.0, 2.0)]
        after = story.request()
        story.manager.begin_with(works).then(after).enqueue()
        for each in works:
            story.wait_for_start(each.id)
        cluster.stop("fast")
        try:
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                story.manager.enqueue(story.request())
            assert time.monotonic() - begun < 5
            # They end while nobody can be told.
            wait_until(lambda: all(story.ends(each.id) for each in works))
        finally:
            cluster.start()
        ids = [each.id for each in (*works, after)]
        assert story.wait_for(*ids) == [State.SUCCEEDED] * 3
        assert [len(story.starts(each)) for each in ids] == [1, 1, 1]
    finally:
        story.close()


@pytest.mark.postgresql
def test_a_node_that_froze_inside_a_transaction_is_healed_all_the_same(postgresql_url, tmp_path, monkeypatch):
    """The database takes its locks away, so that the others get at its row and its works."""
    monkeypatch.setattr(database, "IDLE_AT_MOST", 1)
    services.empty_database(postgresql_url)
    story = Story(tmp_path, postgresql_url)
    store = story.manager.store
    try:
        store.register(NodeRow("frozen", "n", "h", 1, 1, 0, 1, "{}"))
        work = story.request()
        story.manager.enqueue(work)
        assert store.claim(store.ready_lanes(), "frozen", 1, 1)
        with store.database.engine().connect() as connection:
            connection.execute(text("UPDATE workmanager_node SET lease_until = lease_until"))
            assert store.heal(store.clock.now()) is None
            wait_until(lambda: store.heal(store.clock.now()) is not None, what="its row is free")
            with pytest.raises(DBAPIError):
                connection.execute(text("SELECT 1"))
        assert story.infos(work.id)[0].node is None
    finally:
        story.close()


@pytest.mark.postgresql
def test_an_open_transaction_of_a_caller_stalls_no_node_and_no_other_name(postgresql_url, tmp_path):
    """It holds a parent's row and a unique name; all else goes on, and what is held ends when it lets go."""
    services.empty_database(postgresql_url)
    story = Story(tmp_path, postgresql_url)
    try:
        story.worker()
        parent, child = story.request(until="let go"), story.request()
        story.manager.begin_with(parent).then(child).enqueue()
        story.wait_for_running(parent.id)
        with create_engine(postgresql_url, poolclass=NullPool).begin() as connection:
            held = story.request()
            story.manager.enqueue_unique_work("held", ExistingWorkPolicy.REPLACE, held, connection)
            row = {"id": parent.id}
            connection.execute(text("SELECT id FROM workmanager_work WHERE id = :id FOR UPDATE"), row)
            (tmp_path / "let go").touch()
            wait_until(lambda: story.ends(parent.id))
            # The node has tried to write that end; others end before and after it, again and again.
            for _ in range(10):
                others = [story.request() for _ in range(5)]
                story.manager.enqueue(others)
                named = story.request()
                story.manager.enqueue_unique_work("free", ExistingWorkPolicy.REPLACE, named)
                assert set(story.wait_for(*(each.id for each in others), named.id)) == {State.SUCCEEDED}
            assert not story.infos(parent.id)[0].state.is_finished
            assert story.infos(child.id)[0].state is State.BLOCKED
            assert story.infos(held.id) == []
        assert set(story.wait_for(parent.id, child.id, held.id)) == {State.SUCCEEDED}
        assert [len(story.starts(each.id)) for each in (parent, child, held)] == [1, 1, 1]
    finally:
        story.close()


@pytest.mark.parametrize("store_url", FEW_STORES, indirect=True)
def test_a_worker_frozen_for_longer_than_its_lease_comes_back_as_another(story):
    """SIGSTOP: its work runs elsewhere, its late finish is refused, and after SIGCONT it works under a new identity."""
    lease = 2.0
    frozen = story.worker("frozen", lease=lease)
    work, after = story.request(nap=1.0), story.request()
    story.manager.begin_with(work).then(after).enqueue()
    first = story.wait_for_start(work.id)
    story.wait_for_running(work.id)
    before = {node.id: node.pid for node in story.manager.store.nodes()}
    freeze_between_commits(frozen.pid, story.manager.store.database)
    try:
        # The child isn't frozen: it ends, and its parent can't say so.
        wait_until(lambda: story.ends(work.id))
        story.worker("other", lease=lease)
        again = story.wait_for_start(work.id, times=2)
        assert again["node"] != first["node"]
        assert story.wait_for(work.id, after.id) == [State.SUCCEEDED] * 2
    finally:
        final = story.infos(work.id, after.id)
        frozen.thaw()
    wait_until(lambda: _identities(story, frozen.pid) - before.keys(), what="a new identity")
    assert story.infos(work.id, after.id) == final
    story.workers[1].kill()
    last = story.request()
    story.manager.enqueue(last)
    assert story.wait_for(last.id) == [State.SUCCEEDED]
    assert [len(story.starts(each.id)) for each in (after, last)] == [1, 1]


def _identities(story: Story, pid: int) -> set[str]:
    return {node.id for node in story.manager.store.nodes() if node.pid == pid}


@pytest.mark.parametrize("store_url", FEW_STORES, indirect=True)
def test_nothing_is_left_behind_by_a_worker_that_ended_well(story):
    """A warm shutdown ends what runs, gives back the rest and takes the node off the list."""
    worker = story.worker()
    works = [story.request(nap=0.3) for _ in range(8)]
    story.manager.enqueue(works)
    story.wait_for_start(works[0].id)
    worker.terminate()
    assert story.manager.store.nodes() == []
    infos = story.manager.get_work_infos(WorkQuery())
    assert {info.state for info in infos} <= {State.SUCCEEDED, State.ENQUEUED}
    assert all(info.node is None and info.interruptions == 0 for info in infos)
    assert max(len(story.starts(each.id)) for each in works) == 1
