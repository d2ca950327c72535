"""Limits over the whole fleet: how many works of a key run at once, and how many start in a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from string import Formatter
from typing import Any

from celery_workmanager.checks import ZERO, Duration, check_duration, check_text, check_whole
from celery_workmanager.errors import InvalidRequest, Unshown

__all__ = ("Limit", "Rate", "key_fields", "key_for")

MOST = 1_000_000
_set = object.__setattr__


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `n` works with this key run at once, wherever.

    A key may name entries of the input: ``"tenant:{tenant}"``. Raises InvalidRequest.
    """

    key: str
    n: int

    def __post_init__(self) -> None:
        _set(self, "key", _checked_key("limit's key", self.key))
        _set(self, "n", check_whole("limit's n", self.n, 1, MOST))

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types."""
        return {"key": self.key, "n": self.n}

    __json__ = to_json  # for kombu, which writes the options of signatures

    @classmethod
    def of(cls, value: Any) -> Limit:
        """Return `value` when it is one, or the one that a mapping of its parts says. Raises InvalidRequest."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or set(value) != {"key", "n"}:
            raise InvalidRequest("concurrency", "a Limit(key, n)", value)
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `n` works with this key start in `per` (a duration), wherever; the key as that of a `Limit`."""

    key: str
    n: int
    per: timedelta

    def __init__(self, key: str, n: int, per: Duration) -> None:
        _set(self, "key", _checked_key("rate's key", key))
        _set(self, "n", check_whole("rate's n", n, 1, MOST))
        _set(self, "per", check_duration("rate's per", per))
        if self.per == ZERO:
            raise InvalidRequest("rate's per", "more than zero", per)

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types; `per` in seconds."""
        return {"key": self.key, "n": self.n, "per": self.per.total_seconds()}

    __json__ = to_json

    @classmethod
    def of(cls, value: Any) -> Rate:
        """Return `value` when it is one, or the one that a mapping of its parts says. Raises InvalidRequest."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or set(value) != {"key", "n", "per"}:
            raise InvalidRequest("rate", "a Rate(key, n, per)", value)
        return cls(**value)


def key_fields(key: str) -> tuple[str, ...]:
    """The entries of the input that a key names, in order."""
    return tuple(name for _, name, _, _ in Formatter().parse(key) if name is not None)


def key_for(key: str, values: Mapping[str, Any]) -> str:
    """The key of a work with the input `values`. Raises InvalidRequest for an entry that is missing or no text."""
    for name in key_fields(key):
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            got = None if value is None else Unshown(value)
            raise InvalidRequest(f"input {name!r}", f"a str or an int, for the key {key!r} of a limit", got)
    return check_text("limit's key", key.format_map(values))


def _checked_key(what: str, key: Any) -> str:
    text = check_text(what, key)
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        parts = [("", "", "", None)]
    for _, name, spec, conversion in parts:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise InvalidRequest(what, "text with names of input entries in braces, such as 'tenant:{tenant}'", key)
    return text
