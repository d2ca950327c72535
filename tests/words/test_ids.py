"""Ids: time-ordered, unique, and safe after a fork."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager import ids
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.ids import check_id, new_id


def test_an_id_is_a_version_7_uuid_of_this_moment():
    before = time.time_ns() // 1_000_000
    text = new_id()
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert before <= parsed.int >> 80 <= before + 60_000


def test_ids_only_grow_within_a_process():
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


@given(st.lists(st.integers(0, 2**47), min_size=2, max_size=50))
def test_ids_grow_however_the_clock_jumps(moments):
    generate = ids._Generator()
    clock = iter(moments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celery_workmanager.ids.time.time_ns", lambda: next(clock) * 1_000_000)
        made = [generate() for _ in moments]
    assert made == sorted(set(made))


def test_a_full_tail_carries_into_the_milliseconds():
    generate = ids._Generator()
    generate._millis, generate._tail = 2**47, ids._CARRY - 1
    assert uuid.UUID(generate()).int >> 80 == 2**47 + 1


def test_threads_never_get_the_same_id():
    made: list[list[str]] = [[] for _ in range(4)]
    barrier = threading.Barrier(4)

    def fill(mine: list[str]) -> None:
        barrier.wait()
        mine.extend(new_id() for _ in range(2_000))

    threads = [threading.Thread(target=fill, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for mine in made for one in mine}) == 8_000
    assert all(mine == sorted(mine) for mine in made)


def _send_ids(pipe) -> None:
    pipe.send([new_id() for _ in range(100)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_goes_on_above_its_parent_and_apart_from_it(monkeypatch):
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(ids._generate, "_millis", 2**47)  # a clock that stands still makes collisions likely
    before = new_id()
    receivers = []
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send_ids, args=(sender,))
        child.start()
        receivers.append((child, receiver))
    made = [new_id() for _ in range(100)]
    for child, receiver in receivers:
        theirs = receiver.recv()
        child.join()
        assert min(theirs) > before
        made += theirs
    assert len(set(made)) == 400


def test_ids_of_users_may_be_any_short_line():
    given_uuid = uuid.uuid4()
    assert check_id(given_uuid) == str(given_uuid)
    assert check_id("order-17 ü") == "order-17 ü"
    assert check_id("x" * 155) == "x" * 155


@pytest.mark.parametrize("value", ["", "x" * 156, "a\nb", "a\x00", "\x85", "\ud800", 5, None, b"x"])
def test_other_ids_are_refused(value):
    with pytest.raises(InvalidRequest, match="expected id to be a non-empty str of at most 155 characters"):
        check_id(value)
