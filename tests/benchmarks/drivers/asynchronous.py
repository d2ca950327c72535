"""Drivers of systems with an asyncio API: a loop of enqueues is one coroutine, as its users would write it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.benchmarks.drivers.driver import Driver

T = TypeVar("T")


class AsyncDriver(Driver):
    """One event loop for the life of the driver."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to its end."""
        return self._loop.run_until_complete(coroutine)

    async def open(self) -> None:
        """Connect."""
        raise NotImplementedError

    async def add(self, number: int) -> Any:
        """`enqueue`."""
        raise NotImplementedError

    async def end(self, handle: Any) -> None:
        """`wait`."""
        raise NotImplementedError

    def enqueue(self, number: int) -> Any:
        return self.run(self.add(number))

    def wait(self, handle: Any) -> None:
        self.run(self.end(handle))

    def enqueue_each(self, first: int, count: int) -> None:
        async def each() -> None:
            for number in range(first, first + count):
                await self.add(number)

        self.run(each())
