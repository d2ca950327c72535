"""Waiting for the system: until something can be read, or another thread has a reason to end the wait."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress

__all__ = ("Waker",)

# What a child that is forked meanwhile inherits of it shares no state with us, as an epoll would.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Waker:
    """Waits for the descriptors that it was given; `wake`, from any thread, ends the wait and all later ones."""

    def __init__(self) -> None:
        self._selector = _Selector()
        self._inner, self._outer = socket.socketpair()
        self._outer.setblocking(False)
        self._selector.register(self._inner, selectors.EVENT_READ)

    def watch(self, descriptor: int) -> None:
        """Wait for this one, too."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def wait(self, timeout: float) -> None:
        """Wait until one can be read, at most `timeout` seconds."""
        self._selector.select(timeout)

    def wake(self) -> None:
        """End the waiting. Nothing, when it is closed."""
        with suppress(OSError):
            self._outer.send(b"!")

    def close(self) -> None:
        """Give the descriptors back that are our own."""
        self._selector.close()
        self._inner.close()
        self._outer.close()
