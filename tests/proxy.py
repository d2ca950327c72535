"""A TCP proxy in front of a server: what goes through it can be delayed, refused, or held up without a word.

Tests that need a bad way to a store or a broker share it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import make_url

_CHUNK = 65536


class Proxy:
    """Listens on one port, at one address or more, and forwards to `port` of the `server`, by default this machine."""

    def __init__(self, port: int, hosts: tuple[str, ...] = ("127.0.0.1",), *, server: str = "127.0.0.1") -> None:
        self._target, self._hosts = (server, port), hosts
        self.port = 0
        #: Seconds that each packet is held: of those who ask, and of the server.
        self._delays = (0.0, 0.0)
        self._refusing = False
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._open())

    def heal(self) -> None:
        """Forward everything at once."""
        self._do(self._set())

    def slow(self, seconds: float) -> None:
        """Hold every packet for so long, in both directions."""
        self._do(self._set(delays=(seconds, seconds)))

    def answer_late(self, seconds: float) -> None:
        """Hold what comes back for so long; what is asked arrives at once."""
        self._do(self._set(delays=(0.0, seconds)))

    def refuse(self) -> None:
        """Reset all connections, and every new one."""
        self._do(self._set(refusing=True))

    def swallow(self) -> None:
        """Take what is sent and hold it up: a network that has gone dark."""
        self._do(self._set(flowing=False))

    def close(self) -> None:
        """End it and its connections."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    async def _open(self) -> None:
        self._flowing.set()
        for host in self._hosts:
            server = await asyncio.start_server(self._serve, host, self.port)
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _set(
        self, *, delays: tuple[float, float] = (0.0, 0.0), refusing: bool = False, flowing: bool = True
    ) -> None:
        self._delays, self._refusing = delays, refusing
        (self._flowing.set if flowing else self._flowing.clear)()
        if refusing:
            self._reset()

    def _reset(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            if not self._refusing:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a connection that was reset, a server that isn't there, or the proxy's own end
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._writers.add(back)
        ways = (reader, back), (there, writer)
        pipes = [asyncio.ensure_future(self._pipe(number, *way)) for number, way in enumerate(ways)]
        try:
            # The one end closes when the other does.
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*pipes, return_exceptions=True)
            self._writers.discard(back)
            back.transport.abort()

    async def _pipe(self, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if delay := self._delays[way]:
                    await asyncio.sleep(delay)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server of `url`, and the URL that leads through it."""
    server = make_url(url)
    proxy = Proxy(server.port or 5432, server=server.host or "127.0.0.1")
    try:
        yield proxy, server.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    finally:
        proxy.close()
