"""A way to a server that can be made slow, or carry nothing at all without breaking: a proxy of a test's own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import make_url


class SlowLink:
    """Passes bytes on: what comes back from the server `delay` seconds late, and nothing at all while it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._open = threading.Event()
        self._open.set()
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay = 0.0
        self._start(self._accept)

    def cut(self) -> None:
        """Carry nothing any more; connections stay open, as behind a pooler or a switch that has lost its way."""
        self._open.clear()

    def mend(self) -> None:
        """Carry on, with what was held back first."""
        self._open.set()

    def close(self) -> None:
        self._over.set()
        self._open.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._over.is_set():
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self._start(self._carry, client, server, False)
                self._start(self._carry, server, client, True)

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while some := source.recv(65536):
                if is_answer and self.delay:
                    self._over.wait(self.delay)
                self._open.wait()
                target.sendall(some)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def slow_link(url: str) -> Iterator[tuple[SlowLink, str]]:
    """A link to the server of `url`, and the URL that leads through it."""
    server = make_url(url)
    link = SlowLink(server.host or "127.0.0.1", server.port or 5432)
    try:
        yield link, server.set(host="127.0.0.1", port=link.port).render_as_string(hide_password=False)
    finally:
        link.close()
