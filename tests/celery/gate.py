"""A way to a server that nobody may stop: the way can be shut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.services import free_port


class Gate:
    """Passes connections to a port of this machine on to a server, while it is open."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self.port = free_port()
        self._listening: socket.socket | None = None
        self._ends: list[socket.socket] = []

    def start(self) -> None:
        """Let connections through."""
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._let_in, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        """Break all connections, and refuse others."""
        if self._listening is not None:
            self._ends.append(self._listening)
            self._listening = None
        while self._ends:
            _break(self._ends.pop())

    def _let_in(self, listening: socket.socket) -> None:
        with suppress(OSError):  # it was shut
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(self._server)
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()
                if self._listening is not listening:
                    _break(near)
                    _break(far)

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        _break(one)
        _break(other)


def _break(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
