"""Workers in containers, with pytest-celery; ``make containers`` brings it, no other suite needs it.

Everything here is left out where pytest-celery isn't installed, and skipped where no Docker engine answers.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

if find_spec("pytest_celery") is None:
    collect_ignore = ["test_containers.py"]
else:
    import docker
    from pytest_celery import CeleryWorkerContainer, defaults
    from pytest_docker_tools import build, container

    class WorkContainer(CeleryWorkerContainer):
        """A worker of pytest-celery that runs works."""

        @classmethod
        def app_module(cls) -> ModuleType:
            from tests.containers import worker_app

            return worker_app

    work_image = build(path=".", dockerfile="tests/containers/Dockerfile", tag="celery-workmanager/worker")

    default_worker_container = container(
        image="{work_image.id}",
        environment="{default_worker_env}",
        network="{default_pytest_celery_network.name}",
        volumes={"{default_worker_volume.name}": defaults.DEFAULT_WORKER_VOLUME},
        wrapper_class=WorkContainer,
        timeout=defaults.DEFAULT_WORKER_CONTAINER_TIMEOUT,
        command=WorkContainer.command(),
    )

    @pytest.fixture
    def default_worker_container_cls() -> type[CeleryWorkerContainer]:
        return WorkContainer

    @pytest.fixture(scope="session")
    def default_worker_container_session_cls() -> type[CeleryWorkerContainer]:
        return WorkContainer

    @pytest.fixture
    def default_worker_tasks(default_worker_tasks: set[Any]) -> set[Any]:
        from tests.containers import works

        default_worker_tasks.add(works)
        return default_worker_tasks

    def _why_no_docker() -> str | None:
        try:
            docker.from_env().ping()
        except Exception as error:  # noqa: BLE001  # whatever the client raises, there is no engine
            return f"no Docker engine answers: {type(error).__name__}"
        return None

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Skip what needs an engine, in one line, where there is none."""
        mine = [item for item in items if "containers" in item.path.parts]
        reason = _why_no_docker() if mine else None
        for item in mine if reason else ():
            item.add_marker(pytest.mark.skip(reason=str(reason)))
