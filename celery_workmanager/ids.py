"""Identities of works: time-ordered UUIDs (version 7) as text, which are Celery task ids too."""

from __future__ import annotations

import os
import threading
import time
import uuid
from array import array

from celery_workmanager.checks import check_text

#: The width of a task id's column in Celery's own database backend.
LONGEST_ID = 155

_TAIL_BITS = 74
_CARRY = 1 << _TAIL_BITS
_LOW_62 = (1 << 62) - 1
_VARIANT = 0b10 << 62
#: The system is asked for the randomness of so many ids at once.
_STRIDES_AT_ONCE = 256
_DERIVED = uuid.UUID("a2b7a1de-6c63-5d8c-9a0b-64f27b3c9a51")


class _Generator:
    """Milliseconds, then 74 bits that only grow within one of them (RFC 9562, 6.2, method 2)."""

    def __init__(self) -> None:
        self._millis = 0
        self._tail = 0
        self._strides = array("I")
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millis:
                self._millis, self._tail = now, _fresh_tail()
            else:  # the same millisecond, or a clock that was set back
                self._advance()
            millis, tail = self._millis, self._tail
        text = f"{millis:012x}7{tail >> 62:03x}{_VARIANT | tail & _LOW_62:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _advance(self) -> None:
        if not self._strides:
            self._strides.frombytes(os.urandom(_STRIDES_AT_ONCE * self._strides.itemsize))
        self._tail += 1 + self._strides.pop()
        if self._tail >= _CARRY:
            self._millis, self._tail = self._millis + 1, _fresh_tail()

    def forked(self) -> None:
        """Leave the parent's sequence for one of our own, above every id made before the fork."""
        self._lock = threading.Lock()
        self._strides = array("I")
        self._millis, self._tail = self._millis + 1, _fresh_tail()


def _fresh_tail() -> int:
    # The highest bit stays free, so that a burst within one millisecond has room to grow.
    return int.from_bytes(os.urandom(10), "big") >> 7


_generate = _Generator()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generate.forked)


def new_id() -> str:
    """Return a new UUIDv7 as text, greater than every other that this process made before."""
    return _generate()


def derived_id(*parts: object) -> str:
    """Return the id that is made of `parts`: the same for the same ones, wherever it is made."""
    return str(uuid.uuid5(_DERIVED, "\n".join(map(str, parts))))


def check_id(value: str | uuid.UUID) -> str:
    """Return ``value`` as the text of an id (1–155 characters); raises InvalidRequest."""
    if isinstance(value, uuid.UUID):
        return str(value)
    return check_text("id", value, LONGEST_ID)
