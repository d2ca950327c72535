"""How hand-overs of every size reach the processes of a pool."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from select import PIPE_BUF

import pytest

from celery_workmanager import pools
from tests.celery.pool_worker import PoolWorker, wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends, which never block."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a pipe holds")
def test_an_empty_pipe_takes_whole_what_it_holds(pipe: tuple[int, int]):
    reading, writing = pipe
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    assert pools._takes_whole(writing, capacity)
    assert not pools._takes_whole(writing, capacity + 1)
    assert os.write(writing, b"x" * capacity) == capacity
    os.read(reading, capacity - 1)
    assert not pools._takes_whole(writing, PIPE_BUF + 1)
    assert pools._takes_whole(writing, PIPE_BUF)
    os.read(reading, 1)
    assert pools._takes_whole(writing, capacity)


def test_a_system_that_does_not_tell_is_not_asked(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pools, "_CAPACITY", None)
    assert not pools._takes_whole(pipe[1], PIPE_BUF + 1)
    assert pools._takes_whole(pipe[1], PIPE_BUF)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", [100, 1_500, 6_000], ids=["within PIPE_BUF", "within a pipe", "beyond it"])
def test_a_hand_over_of_any_size_runs_once(tmp_path: Path, size: int):
    with PoolWorker(tmp_path, "-c", "2", batch="32", depth="4") as worker:
        worker.claim("noop", *(f"w{n}" for n in range(320)), input={"n": 7, "text": "x" * size})
        wait_until(lambda: len(worker.outcomes("SUCCEEDED")) >= 320, 30)
        assert len({each["id"] for each in worker.outcomes("SUCCEEDED")}) == len(worker.outcomes("SUCCEEDED")) == 320
        # What waits behind a run that gets no processor for a moment goes back, and comes again.
        assert {each["ending"] for each in worker.outcomes()} <= {"SUCCEEDED", "GIVEN_BACK"}
