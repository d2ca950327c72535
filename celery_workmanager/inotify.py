"""Linux tells who asks that a file was written to: by inotify, which the standard library doesn't reach."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ("Writes",)

# https://man7.org/linux/man-pages/man7/inotify.7.html
_MODIFY, _MOVED_TO, _CREATE, _OVERFLOW, _IGNORED = 0x2, 0x80, 0x100, 0x4000, 0x8000
_ONLY_FOLDERS = 0x01000000
_EVENT = struct.Struct("iIII")
_AT_ONCE = 65536


class Writes:
    """What is written to the file at `path`, whichever file that is: it may come later, or go and come again.

    Raises OSError where that can't be told: not on Linux, no folder, or the system's limits are reached.
    """

    def __init__(self, path: Path) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError(errno.ENOSYS, "no inotify on this system")
        self._path, self._name = os.fsencode(path), os.fsencode(path.name)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._watches = set[int]()
        try:
            # First the folder: of a file that comes meanwhile it is told.
            self._folder = self._add(os.fsencode(path.parent), _CREATE | _MOVED_TO | _ONLY_FOLDERS)
            self._add_file()
        except OSError:
            self.close()
            raise

    def _add(self, path: bytes, mask: int) -> int:
        watch = _checked(self._libc.inotify_add_watch(self.descriptor, path, ctypes.c_uint32(mask)))
        self._watches.add(watch)
        return watch

    def _add_file(self) -> None:
        with suppress(FileNotFoundError):  # it comes, and that is told
            self._add(self._path, _MODIFY)

    def take(self) -> bool:
        """Whether something was written since the last call, or may have been. Never waits."""
        told = False
        while True:
            try:
                events = os.read(self.descriptor, _AT_ONCE)
            except BlockingIOError:
                return told
            told |= self._take(events)

    def _take(self, events: bytes) -> bool:
        at, told = 0, False
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            is_ours = watch != self._folder or events[at : at + length].rstrip(b"\0") == self._name
            at += length
            if mask & _OVERFLOW or (watch == self._folder and is_ours):
                self._add_file()  # another file, in which something may stand already
                told = True
            elif mask & _IGNORED:
                self._watches.discard(watch)  # the file is gone
            elif mask & _MODIFY:
                told = True
        return told

    def close(self) -> None:
        """Be told no more. A descriptor that a forked child has inherited tells nothing from then on, either."""
        for watch in self._watches:
            self._libc.inotify_rm_watch(self.descriptor, watch)  # it fails for files that are gone
        os.close(self.descriptor)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
