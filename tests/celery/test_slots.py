"""Slots: what two processes tell each other through shared memory."""

from __future__ import annotations

import os
import threading
from zlib import crc32

import pytest

from celery_workmanager.errors import DataTooLarge
from celery_workmanager.slots import Slots


@pytest.fixture
def slots() -> Slots:
    return Slots(4, area=2048, outcome_area=1024)


def taken(slots: Slots) -> tuple[int, int]:
    slot = slots.open()
    assert slot is not None
    return slot, slots.run_of(slot)


def in_child(work: object) -> None:
    """Run in a forked process and wait for its end."""
    pid = os.fork()
    if not pid:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_there_are_no_more_slots_than_that(slots: Slots) -> None:
    opened = [slots.open() for _ in range(5)]
    assert opened[4] is None
    assert sorted(filter(lambda slot: slot is not None, opened)) == [0, 1, 2, 3]  # type: ignore[type-var]
    slots.close(2)
    assert slots.open() == 2


def test_a_new_owner_sees_nothing_of_the_old_one(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.raise_stop(slot, 7)
    slots.withdraw(slot)
    slots.write_progress(slot, run, b"{}")
    slots.write_outcome(slot, run, b"x")
    slots.close(slot)
    again, number = taken(slots)
    assert again == slot
    assert number != run
    assert slots.stop_reason(slot) is None
    assert not slots.is_withdrawn(slot)
    assert (slots.started(slot), slots.ended(slot)) == (None, None)
    assert (slots.read_progress(slot), slots.read_outcome(slot)) == (None, None)


@pytest.mark.parametrize("reason", [-512, -256, -128, 0, 1, 15])
def test_every_stop_reason_arrives(slots: Slots, reason: int) -> None:
    slot, _ = taken(slots)
    slots.raise_stop(slot, reason)
    slots.raise_stop(slot, 3)
    assert slots.stop_reason(slot) == reason, "the first reason stays"


def test_a_stop_is_for_the_run_it_was_raised_for(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.raise_stop(slot, 1)
    assert slots.stop_reason(slot, run) == 1
    assert slots.stop_reason(slot, run + 1) is None


def test_what_a_child_process_writes_is_there_after_its_death(slots: Slots) -> None:
    slot, run = taken(slots)

    def child() -> None:
        assert slots.stamp_start(slot, 12.5, os.getpid())
        slots.write_progress(slot, run, b'{"step":1}')
        slots.write_outcome(slot, run, b"done")
        slots.stamp_end(slot, 13.0)

    in_child(child)
    assert (slots.started(slot), slots.ended(slot)) == (12.5, 13.0)
    assert slots.pid(slot) != os.getpid()
    found = slots.read_progress(slot)
    assert found is not None
    assert found[1] == b'{"step":1}'
    assert slots.read_outcome(slot) == b"done"


def test_a_withdrawn_run_does_not_start(slots: Slots) -> None:
    slot, _ = taken(slots)
    assert slots.withdraw(slot) is True
    assert slots.stamp_start(slot, 1.0, 1) is False
    assert slots.started(slot) is None


def test_no_run_begins_after_the_lease_of_its_node(slots: Slots) -> None:
    """A process that was frozen for longer than the lease must not begin what another node may run by now."""
    slot, _ = taken(slots)
    slots.may_start_until(10.0)
    assert slots.stamp_start(slot, 10.5, 1) is False
    assert slots.started(slot) is None
    slots.may_start_until(20.0)
    assert slots.stamp_start(slot, 10.5, 1) is True


def test_a_started_run_cannot_be_withdrawn(slots: Slots) -> None:
    slot, _ = taken(slots)
    assert slots.stamp_start(slot, 1.0, 1)
    assert slots.withdraw(slot) is False


def test_start_and_withdrawal_at_the_same_time_never_both_win(slots: Slots) -> None:
    """The parent may be told "maybe" while the run doesn't start, but never "it won't" while it does."""
    for _ in range(300):
        slot, _number = taken(slots)
        barrier = threading.Barrier(2)
        started: list[bool] = []

        def child(slot: int = slot, barrier: threading.Barrier = barrier, started: list[bool] = started) -> None:
            barrier.wait()
            started.append(slots.stamp_start(slot, 1.0, 1))

        thread = threading.Thread(target=child)
        thread.start()
        barrier.wait()
        withdrawn = slots.withdraw(slot)
        thread.join()
        assert not (withdrawn and started[0])
        slots.close(slot)


def test_the_latest_progress_wins(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.write_progress(slot, run, b"first")
    first = slots.read_progress(slot)
    slots.write_progress(slot, run, b"second one")
    second = slots.read_progress(slot)
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (b"first", b"second one")
    assert second[0] > first[0] == 2
    assert slots.progress_sequence(slot) == second[0]


def test_half_written_progress_is_not_read(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.write_progress(slot, run, b"whole")
    slots._words[slot * 16 + 6] |= 1
    assert slots.read_progress(slot) is None, "its writer is in the middle of it (or died there)"
    slots.write_progress(slot, run, b"next")
    found = slots.read_progress(slot)
    assert found is not None
    assert found[1] == b"next"


def test_torn_progress_is_not_read(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.write_progress(slot, run, b"whole")
    slots._words[slot * 16 + 8] = crc32(b"other")
    assert slots.read_progress(slot) is None


def test_progress_of_a_run_that_lost_its_slot_goes_nowhere(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.close(slot)
    _, number = taken(slots)
    slots.write_progress(slot, run, b"late")
    assert not slots.write_outcome(slot, run, b"late")
    assert (slots.read_progress(slot), slots.read_outcome(slot)) == (None, None)
    slots.write_progress(slot, number, b"mine")
    assert slots.read_progress(slot)


def test_progress_that_does_not_fit_is_refused(slots: Slots) -> None:
    slot, run = taken(slots)
    slots.write_progress(slot, run, b"x" * 2048)
    with pytest.raises(DataTooLarge, match="expected progress to be at most 2048 bytes"):
        slots.write_progress(slot, run, b"x" * 2049)


def test_slots_do_not_overlap(slots: Slots) -> None:
    both = [taken(slots) for _ in range(4)]
    for slot, run in both:
        slots.write_progress(slot, run, bytes([slot]) * 2048)
        assert slots.write_outcome(slot, run, bytes([slot + 10]) * 1024)
    for slot, _ in both:
        found = slots.read_progress(slot)
        assert found is not None
        assert found[1] == bytes([slot]) * 2048
        assert slots.read_outcome(slot) == bytes([slot + 10]) * 1024


def test_an_outcome_that_does_not_fit_is_not_kept(slots: Slots) -> None:
    slot, run = taken(slots)
    assert slots.write_outcome(slot, run, b"x" * 1025) is False
    assert slots.read_outcome(slot) is None
