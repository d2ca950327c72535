"""Limits of the whole fleet as one work has them, and how much room each leaves. Pure.

A rate is a bucket of `n` tokens that fills up in `per`; all that is known of it is the moment at which it is full
again (the "generic cell rate algorithm"). A work's own `n` counts for it, whatever other works of its key say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_workmanager.limits import key_fields, key_for
from celery_workmanager.requests import WorkRequest


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit of one work, its key filled in."""

    key: str
    n: int
    #: Of a rate: in how many microseconds `n` may start. None: `n` may run at once.
    per: int | None = None

    @property
    def interval(self) -> int:
        """Of a rate: in how many microseconds one token comes back, rounded up."""
        return -(-(self.per or 0) // self.n)


def is_limited(options: Mapping[str, Any]) -> bool:
    """Whether a work with `options` has limits."""
    return "concurrency" in options or "rate" in options


def bounds_of(options: Mapping[str, Any], inputs: Sequence[str]) -> tuple[Bound, ...]:
    """The limits of a work with `options` and `inputs` (JSON: its own, then the outputs of its prerequisites).

    Of a field that several of them have, the last one's counts. Raises InvalidRequest when none has it.
    """
    named = [options[name] for name in ("concurrency", "rate") if name in options]
    values: dict[str, Any] = {}
    if any(key_fields(key) for key, *_ in named):
        for at, text in enumerate(inputs):
            given = json.loads(text)
            # A task call, and what one has returned, may be anything.
            values |= _fields(given["kwargs"] if at == 0 and "call" in options else given)
    return tuple(Bound(key_for(key, values), *rest) for key, *rest in named)


def _fields(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, dict) else {}


def check_keys(request: WorkRequest) -> None:
    """Raise InvalidRequest when the input of `request` hasn't all that the keys of its limits name."""
    limits = [limit for limit in (request.concurrency, request.rate) if limit is not None]
    if limits:
        call = request.call
        values = request.input_data if call is None else json.loads(call.arguments)["kwargs"]
        for limit in limits:
            key_for(limit.key, values)


def quota_bounds(quota: Mapping[str, tuple[int, int]]) -> dict[str, Bound]:
    """The limits that a quota of expedited works (`n` in so many microseconds, by "" or "tag:…") stands for."""
    # No key of a user's has a control character.
    return {name: Bound(f"\x1fexpedited {name}", n, per) for name, (n, per) in quota.items()}


def quota_of(options: Mapping[str, Any], worker: str, quota: Mapping[str, Bound]) -> tuple[Bound, ...]:
    """The limits of `quota` for an expedited work: the app's and those of its tags, with its worker's name."""
    names = ("", *(f"tag:{tag}" for tag in (worker, *options.get("tags", ()))))
    return tuple(quota[name] for name in names if name in quota)


def tokens(bound: Bound, full_at: int, now: int) -> int:
    """How many tokens of a rate are there at `now`, when its bucket is full at `full_at`."""
    return bound.n - -(-max(0, full_at - now) // bound.interval)


def next_token_at(bound: Bound, full_at: int) -> int:
    """From which moment on one token of a rate is there."""
    return full_at - (bound.n - 1) * bound.interval


class Room:
    """What is left under some keys at `now`, while works are judged one after the other.

    `running`: how many count under each key. `full_at`: when the bucket of each is full.
    """

    def __init__(self, running: Mapping[str, int], full_at: Mapping[str, int], now: int) -> None:
        self.running = Counter(running)
        self.full_at = dict(full_at)
        self.now = now

    def copy(self) -> Room:
        """The same, to go on with apart."""
        return Room(self.running, self.full_at, self.now)

    def under(self, bound: Bound) -> int:
        """How many works with this limit could begin now."""
        if bound.per is None:
            return bound.n - self.running[bound.key]
        return tokens(bound, self.full_at[bound.key], self.now)

    def lacking(self, bounds: Iterable[Bound]) -> Bound | None:
        """The first limit that leaves no room; None: there is room."""
        return next((bound for bound in bounds if self.under(bound) <= 0), None)

    def take(self, bounds: Iterable[Bound]) -> None:
        """Let a work with these limits begin."""
        for bound in bounds:
            if bound.per is None:
                self.running[bound.key] += 1
            else:
                self.full_at[bound.key] = max(self.now, self.full_at[bound.key]) + bound.interval

    def opens_at(self, bound: Bound) -> int | None:
        """When time alone makes room under a limit; None: it doesn't."""
        return None if bound.per is None else next_token_at(bound, self.full_at[bound.key])
