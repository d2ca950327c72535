"""Coroutine workers and soft time limits: a signal whose handler raises, wherever the process is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded

from celery_workmanager.coroutines import drive


@pytest.fixture(autouse=True)
def soft_limit() -> Iterator[Callable[..., None]]:
    """Celery's own handler, as in a process of its pool; what this returns lets the limit come."""
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield lambda *_: os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler
    signal.signal(signal.SIGUSR1, before)


def run(work: Any, stopping: Callable[[], bool] = lambda: False) -> Any:
    return drive(work, stopping, lambda: None)


async def waiting(seen: list[str], call: Callable[[], None] = lambda: None) -> None:
    asyncio.get_running_loop().call_soon(call)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise


def test_a_limit_that_comes_in_the_loops_own_code_is_not_lost(soft_limit: Callable[..., None]) -> None:
    seen: list[str] = []
    with pytest.raises(SoftTimeLimitExceeded):
        run(waiting(seen, soft_limit))
    assert seen == ["cancelled"]


def test_a_limit_that_comes_while_the_stop_flag_is_looked_at_is_not_lost(soft_limit: Callable[..., None]) -> None:
    seen: list[str] = []

    def stopping() -> bool:
        soft_limit()
        return False

    with pytest.raises(SoftTimeLimitExceeded):
        run(waiting(seen), stopping)
    assert seen == ["cancelled"]


def test_a_limit_interrupts_a_coroutine_that_runs_and_may_be_caught(soft_limit: Callable[..., None]) -> None:
    async def busy() -> str:
        try:
            soft_limit()
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            return "caught"
        return "never"

    assert run(busy()) == "caught"


def test_the_next_coroutine_knows_nothing_of_it(soft_limit: Callable[..., None]) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        run(waiting([], soft_limit))

    async def fine() -> int:
        await asyncio.sleep(0)
        return 1

    assert run(fine()) == 1
