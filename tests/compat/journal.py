"""Notes that tasks, hooks and signal handlers leave in Redis for the scenario that waits for them."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from celery import Celery, current_app
from redis import Redis

KEPT = 600


@cache
def _client(url: str, _pid: int) -> Redis:
    return Redis.from_url(url)


def _place(app: Celery, key: str) -> tuple[Redis, str]:
    return _client(app.conf.compat_redis, os.getpid()), f"{app.conf.compat_space}:notes:{key}"


def note(key: str, value: Any, app: Celery | None = None) -> None:
    """Leave a note under a key, mostly the id of a task."""
    client, place = _place(app or current_app, key)
    client.rpush(place, json.dumps(value))
    client.expire(place, KEPT)


def notes(key: str, app: Celery | None = None) -> list[Any]:
    """The notes under a key, oldest first."""
    client, place = _place(app or current_app, key)
    return [json.loads(text) for text in client.lrange(place, 0, -1)]
