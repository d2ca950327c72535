"""Rate limits of works: a real worker claims no more than there are tokens, and everybody else's works go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult, allow_join_result

from celery_workmanager.hosting import buckets_of
from tests.celery.control_site import Site

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=["prefork", "threads"])
def running_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worker without a broker: rate limits need none."""
    folder = tmp_path_factory.mktemp(request.param)
    conf = {"broker_url": "memory://", "task_default_queue": "celery"}
    site = Site(folder, conf, "-P", request.param, "-c", "2", "-Q", "celery,a,b")
    site.start_and_wait()
    yield site
    site.close()


@pytest.fixture
def site(running_site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("CONTROL_FOLDER", str(running_site.folder))
    yield running_site
    running_site.manager.cancel_all_work()


def starts(site: Site, works: list[AsyncResult]) -> list[float]:
    """When those of them that were started were, in seconds."""
    return sorted(line["at"] for each in works for line in site.notes(each))


def test_a_limited_worker_gets_its_tokens_and_others_do_not_wait_for_it(site: Site) -> None:
    """Five a second: what has no token is left in the store, and another worker's hundred go through in between."""
    limited = site.call("limited", count=60)
    free = site.call("mark", count=100)
    site.wait_for("SUCCEEDED", *free)
    left = [info for info in site.manager.infos_of([each.id for each in limited]) if not info.runs]
    assert len(left) > 1
    # One may have been claimed this very moment; none is held while it waits.
    assert sum(info.node is not None for info in left) <= 1
    site.manager.cancel_all_work()
    begun = starts(site, limited)
    assert 1 <= len(begun) <= 2 + 5 * (time.monotonic() - begun[0])


def test_the_queues_of_a_limited_worker_share_its_tokens(site: Site) -> None:
    works = [site.one("limited", queue=queue) for queue in "abababab"]
    site.wait_for("SUCCEEDED", *works)
    begun = starts(site, works)
    # 1.4 s; a late start of the first makes it shorter.
    assert begun[-1] - begun[0] > 1.0


# -- where the limits come from -------------------------------------------------------------------------------------


def _nothing() -> None: ...


class _Worker:
    """As much of a worker as buckets need: Celery's own, for an app with limits."""

    def __init__(self, *, disable_rate_limits: bool | None = None, **conf: Any) -> None:
        app = Celery("limits", broker="memory://", set_as_current=False)
        app.conf.update(conf)
        app.task(name="slow", rate_limit="2/m", shared=False)(_nothing)
        app.task(name="fast", rate_limit="400/s", shared=False)(_nothing)
        app.task(name="free", shared=False)(_nothing)
        # Making a worker forbids waiting for results in its process, which this one is not.
        with allow_join_result():
            self.consumer = app.WorkController(disable_rate_limits=disable_rate_limits).consumer


def test_buckets_are_those_of_the_consumer() -> None:
    worker = _Worker()
    bucket_of = buckets_of(worker)
    assert bucket_of("free") is bucket_of("unknown") is None
    assert bucket_of("slow") is worker.consumer.task_buckets["slow"]
    assert (bucket_of("slow").capacity, bucket_of("slow").fill_rate) == (1, 2 / 60)
    worker.consumer.app.tasks["slow"].rate_limit = None
    worker.consumer.reset_rate_limits()
    assert bucket_of("slow") is None


def test_a_fast_rate_goes_by_handfuls() -> None:
    """One by one, it would be a claim every few milliseconds."""
    bucket = buckets_of(_Worker())("fast")
    assert (bucket.capacity, bucket.fill_rate) == (20, 400)


def test_a_default_limit_is_for_those_without_their_own() -> None:
    bucket_of = buckets_of(_Worker(task_default_rate_limit="4/s"))
    assert (bucket_of("free").fill_rate, bucket_of("slow").fill_rate) == (4, 2 / 60)


def test_limits_are_disabled_as_in_celery() -> None:
    assert buckets_of(_Worker(disable_rate_limits=True))("slow") is None
    assert buckets_of(_Worker(worker_disable_rate_limits=True))("slow") is None


def test_there_is_no_limit_before_there_is_a_consumer() -> None:
    assert buckets_of(object())("slow") is None
