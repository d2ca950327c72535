"""A request that is too large is refused before it is read: neither memory nor disk fills up.

Django under ASGI takes the whole body before anything of the project runs, so this stands in front of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import sync_to_async
from django.template.loader import render_to_string

from example_project.website.middleware import POLICY
from example_project.website.uploads import MAX_BYTES, MAX_SIZE

#: A photograph, and the other fields of its form.
MAX_BODY = MAX_BYTES + 64 * 1024

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class _TooLargeError(Exception):
    """More has come than was announced or is allowed."""


class BodyLimit:
    """An ASGI application around another one."""

    def __init__(self, application: Application, most: int = MAX_BODY) -> None:
        self._application = application
        self._most = most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer 413 by what the request announces, or as soon as more than that has come."""
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        if _announced(scope) > self._most:
            return await _refuse(send)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise _TooLargeError
            return message

        try:
            await self._application(scope, counted, send)
        except _TooLargeError:
            await _refuse(send)
        return None


def _announced(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


async def _refuse(send: Send) -> None:
    page = (await sync_to_async(render_to_string)("blur_o_matic/too_large.html", {"max_size": MAX_SIZE})).encode()
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-length": str(len(page)),
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 413, "headers": encoded})
    await send({"type": "http.response.body", "body": page})
