"""Fixtures of the testing kit: ``work_kit``, ``work_manager``, ``work_driver``, ``work_clock``, ``work_node``.

Override ``work_app`` to return your Celery app, ``work_kit_options`` for a store or profile of your choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_workmanager.app import WorkManager
    from celery_workmanager.kit_engine import KitClock
    from celery_workmanager.kit_node import KitNode
    from celery_workmanager.testing import TestDriver, WorkManagerTestKit


@pytest.fixture
def work_app() -> Any:
    """The Celery app whose workers are run; ``None``: a new one with the shared tasks."""
    return None


@pytest.fixture
def work_kit_options() -> dict[str, Any]:
    """Further arguments of the kit: ``store_url``, ``profile``."""
    return {}


@pytest.fixture
def work_kit(work_app: Any, work_kit_options: dict[str, Any]) -> Iterator[WorkManagerTestKit]:
    """A testing kit, closed after the test."""
    # Imported here: the plugin is loaded in every test session, the package only where it is used.
    from celery_workmanager.testing import WorkManagerTestKit

    with WorkManagerTestKit(work_app, **work_kit_options) as kit:
        yield kit


@pytest.fixture
def work_manager(work_kit: WorkManagerTestKit) -> WorkManager:
    """The kit's WorkManager."""
    return work_kit.work_manager


@pytest.fixture
def work_driver(work_kit: WorkManagerTestKit) -> TestDriver:
    """The kit's test driver."""
    return work_kit.driver


@pytest.fixture
def work_clock(work_kit: WorkManagerTestKit) -> KitClock:
    """The kit's clock."""
    return work_kit.clock


@pytest.fixture
def work_node(work_kit: WorkManagerTestKit) -> KitNode:
    """What the kit's node reads: ``work_node.set(charging=False)``."""
    return work_kit.node
