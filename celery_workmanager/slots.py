"""Slots of shared memory: how a node and the processes of its pool see each other without a query.

Every run that was handed to the pool owns one slot. The parent writes the stop and withdraw flags into
it; the process that runs the work writes its start, its progress and its outcome. A slot outlives the
process that wrote it, so what a killed child had already finished is not lost.
"""

from __future__ import annotations

import mmap
from math import inf
from threading import Lock
from zlib import crc32

from celery_workmanager.errors import DataTooLarge

__all__ = ("DEFAULT_AREA", "OUTCOME_AREA", "Slots", "fence")

#: Bytes for the newest progress of one run: the largest data there is, and a bit.
DEFAULT_AREA = 65 * 1024
#: Bytes for the outcome of one run; a larger one travels through the pool's pipe.
OUTCOME_AREA = 16 * 1024

_WORDS = 16
_RUN, _STOP, _WITHDRAWN, _START, _END, _PID = range(6)
_PROGRESS_SEQ, _PROGRESS_SIZE, _PROGRESS_CRC, _OUTCOME_SIZE, _OUTCOME_CRC, _FOREGROUND = range(6, 12)
#: Stop reasons may be negative; a word of 0 must mean "not stopped".
_REASON_OFFSET = 4096
_PAGE = mmap.PAGESIZE


def fence() -> None:
    """Order the memory accesses before this call with those after it, in this process."""
    # Any lock's own atomic instructions do, so one that nobody else knows of is never waited for.
    lock = Lock()
    lock.acquire()
    lock.release()


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class Slots:
    """``count`` slots over one anonymous shared mapping, made before the pool forks.

    ``area`` and ``outcome_area`` are in bytes. Pages are only touched when used, so unused slots and areas
    cost address space and nothing else. Each word is written with one aligned store of eight bytes, so no
    word is ever seen half written; texts carry a checksum and are read again when it doesn't fit.
    """

    def __init__(self, count: int = 1024, area: int = DEFAULT_AREA, outcome_area: int = OUTCOME_AREA) -> None:
        self.count, self.area, self.outcome_area = count, area, outcome_area
        #: Behind the slots: until when runs may begin (``time.monotonic()``).
        self._deadline = count * _WORDS
        size = (self._deadline + 1) * 8
        self._data = _whole_pages(size)
        self._stride = _whole_pages(area + outcome_area)
        self._map = mmap.mmap(-1, self._data + count * self._stride)
        header = memoryview(self._map)[:size]
        self._words = header.cast("q")
        self._times = header.cast("d")
        self._times[self._deadline] = inf
        self._last_run = 0
        # Last in, first out: the same few pages stay in use.
        self._free = list(range(count - 1, -1, -1))

    # Parent side: who owns a slot

    @property
    def available(self) -> int:
        """Slots nobody owns."""
        return len(self._free)

    def open(self) -> int | None:
        """Take a slot for a new run and clear it; ``None`` when all are taken."""
        if not self._free:
            return None
        slot = self._free.pop()
        words, base = self._words, slot * _WORDS
        words[base + _STOP] = words[base + _WITHDRAWN] = words[base + _START] = words[base + _END] = 0
        words[base + _PROGRESS_SEQ] = words[base + _OUTCOME_SIZE] = words[base + _FOREGROUND] = 0
        self._last_run += 1
        words[base] = self._last_run
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back. Only when no process can write into it any more."""
        self._words[slot * _WORDS] = 0
        self._free.append(slot)

    def run_of(self, slot: int) -> int:
        """The number of the run that owns a slot, unique in this node; 0 for nobody."""
        return self._words[slot * _WORDS]

    # Flags of the parent

    def may_start_until(self, moment: float) -> None:
        """Let no run begin after ``moment`` (``time.monotonic()``): the node's lease ends then."""
        self._times[self._deadline] = moment

    def raise_stop(self, slot: int, reason: int) -> None:
        """Ask the run to stop. The first reason stays."""
        at = slot * _WORDS + _STOP
        if not self._words[at]:
            self._words[at] = reason + _REASON_OFFSET

    def stop_reason(self, slot: int, run: int | None = None) -> int | None:
        """Why the run was asked to stop, ``None`` if it wasn't (or if the slot has another owner by now)."""
        base = slot * _WORDS
        word = self._words[base + _STOP]
        if not word or (run is not None and self._words[base] != run):
            return None
        return word - _REASON_OFFSET

    def withdraw(self, slot: int) -> bool:
        """Forbid the start of a run; ``True`` when it is certain that it hasn't started and never will.

        ``False`` means that a start stamp is already there: either it runs, or it saw the flag in the same
        instant and tells so by itself.
        """
        base = slot * _WORDS
        self._words[base + _WITHDRAWN] = 1
        fence()
        return not self._words[base + _START]

    def is_withdrawn(self, slot: int) -> bool:
        """Whether the parent forbade the start."""
        return bool(self._words[slot * _WORDS + _WITHDRAWN])

    # Stamps of the process that runs it

    def stamp_start(self, slot: int, now: float, pid: int) -> bool:
        """Stamp the start (``time.monotonic()``); ``False`` when the run must not begin.

        It was withdrawn, or the node's lease is over (its process was frozen meanwhile, say): the work may have been
        given to another node. The stamp is written before the flag is read, and the parent does the reverse, so they
        can't miss each other.
        """
        if now > self._times[self._deadline]:
            return False
        base = slot * _WORDS
        self._words[base + _PID] = pid
        self._times[base + _START] = now
        fence()
        if not self._words[base + _WITHDRAWN]:
            return True
        self._words[base + _START] = 0
        return False

    def stamp_end(self, slot: int, now: float) -> None:
        """Stamp the end, after the outcome was written."""
        self._times[slot * _WORDS + _END] = now

    def stamp_foreground(self, slot: int, run: int, now: float) -> None:
        """Stamp that a run is in the foreground from now on; the first moment stays."""
        base = slot * _WORDS
        if self._words[base] == run and not self._words[base + _FOREGROUND]:
            self._times[base + _FOREGROUND] = now

    def foreground(self, slot: int) -> float | None:
        """``time.monotonic()`` of the moment since which the run is in the foreground, ``None`` when it isn't."""
        return self._times[slot * _WORDS + _FOREGROUND] or None

    def started(self, slot: int) -> float | None:
        """``time.monotonic()`` of the start, ``None`` before it."""
        return self._times[slot * _WORDS + _START] or None

    def ended(self, slot: int) -> float | None:
        """``time.monotonic()`` of the end, ``None`` before it."""
        return self._times[slot * _WORDS + _END] or None

    def pid(self, slot: int) -> int:
        """The process that started the run."""
        return self._words[slot * _WORDS + _PID]

    # Texts of the process that runs it

    def write_progress(self, slot: int, run: int, progress: bytes) -> None:
        """Replace the progress of a run; :class:`DataTooLarge` when it doesn't fit the slot."""
        size = len(progress)
        if size > self.area:
            raise DataTooLarge("progress", size, self.area)
        words, base = self._words, slot * _WORDS
        if words[base] != run:
            return
        # An odd number says "being written"; the next even one says "there is something new".
        sequence = words[base + _PROGRESS_SEQ] | 1
        words[base + _PROGRESS_SEQ] = sequence
        at = self._data + slot * self._stride
        self._map[at : at + size] = progress
        words[base + _PROGRESS_SIZE] = size
        words[base + _PROGRESS_CRC] = crc32(progress)
        words[base + _PROGRESS_SEQ] = sequence + 1

    def progress_sequence(self, slot: int) -> int:
        """Grows with every progress; 0 before the first one."""
        return self._words[slot * _WORDS + _PROGRESS_SEQ]

    def read_progress(self, slot: int) -> tuple[int, bytes] | None:
        """The newest progress and its sequence number; ``None`` when there is none or it was torn: ask again."""
        words, base = self._words, slot * _WORDS
        sequence = words[base + _PROGRESS_SEQ]
        size = words[base + _PROGRESS_SIZE]
        if not sequence or sequence & 1 or not 0 <= size <= self.area:
            return None
        at = self._data + slot * self._stride
        progress = self._map[at : at + size]
        torn = words[base + _PROGRESS_SEQ] != sequence or crc32(progress) != words[base + _PROGRESS_CRC]
        return None if torn else (sequence, progress)

    def write_outcome(self, slot: int, run: int, outcome: bytes) -> bool:
        """Keep an outcome in the slot; ``False`` when it is too large for it (or the slot isn't ours any more)."""
        size = len(outcome)
        base = slot * _WORDS
        if size > self.outcome_area or self._words[base] != run:
            return False
        at = self._data + slot * self._stride + self.area
        self._map[at : at + size] = outcome
        self._words[base + _OUTCOME_CRC] = crc32(outcome)
        self._words[base + _OUTCOME_SIZE] = size
        return True

    def read_outcome(self, slot: int) -> bytes | None:
        """The outcome in the slot; ``None`` when none was written whole."""
        base = slot * _WORDS
        size = self._words[base + _OUTCOME_SIZE]
        if not 0 < size <= self.outcome_area:
            return None
        at = self._data + slot * self._stride + self.area
        outcome = self._map[at : at + size]
        return outcome if crc32(outcome) == self._words[base + _OUTCOME_CRC] else None
