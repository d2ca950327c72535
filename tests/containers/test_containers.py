"""A worker in a container makes works of messages, and goes on with them after it was killed.

The test's own process is a producer that has never heard of works: their store is in the container.
"""

from __future__ import annotations

from pytest_celery import RESULT_TIMEOUT, CeleryTestSetup

ADD = "tests.containers.works.add"


def test_a_worker_in_a_container_runs_works(celery_setup: CeleryTestSetup) -> None:
    result = celery_setup.app.send_task(ADD, (1, 2), queue=celery_setup.worker.worker_queue)
    assert result.get(timeout=RESULT_TIMEOUT) == 3


def test_a_killed_container_goes_on_when_it_is_back(celery_setup: CeleryTestSetup) -> None:
    celery_setup.worker.kill()
    result = celery_setup.app.send_task(ADD, (1, 2), queue=celery_setup.worker.worker_queue)
    celery_setup.worker.restart()
    assert result.get(timeout=RESULT_TIMEOUT) == 3
