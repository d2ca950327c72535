"""Whether something answers from here: a TCP port, or an HTTP server."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

__all__ = ("probe",)

#: From here on the server says that it can't serve.
_SERVER_ERROR = 500


def probe(target: str, timeout: float) -> dict[str, Any]:
    """Say whether `target` (``tcp://host:port`` or a URL) is ``reachable``, and if not, why. Waits `timeout` seconds.

    A port must accept a connection, an HTTP server must answer a GET with a status below 500.
    """
    parts = urlsplit(target)
    host = str(parts.hostname)
    try:
        if parts.scheme == "tcp":
            socket.create_connection((host, parts.port), timeout).close()
            return {"reachable": True}
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        status = _get(parts.scheme, host, parts.port, path, timeout)
    except TimeoutError:
        return {"reachable": False, "why": f"no answer in {timeout:g} s"}
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return {"reachable": False, "why": str(error) or type(error).__name__}
    return {"reachable": status < _SERVER_ERROR, "why": f"status {status}"}


def _get(scheme: str, host: str, port: int | None, path: str, timeout: float) -> int:
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        if scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    try:
        connection.request("GET", path, headers={"User-Agent": "celery-workmanager"})
        return connection.getresponse().status
    finally:
        connection.close()
