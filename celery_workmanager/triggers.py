"""Content triggers: which paths they are about, and when the changes that were seen start a work. Pure.

Source of the two delays: WorkManager, ``Constraints.Builder.setTriggerContentUpdateDelay`` and
``setTriggerContentMaxDelay``; of the defaults and of the bound on what is told: its platform's JobScheduler.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.settings import Limits
from celery_workmanager.timing import SECOND, micros

#: A run is told so many changed URIs; of more, only where they are.
MOST_URIS = 50
UPDATE_DELAY, MAX_DELAY = 10 * SECOND, 120 * SECOND
_WILD = ("*", "?", "[")


@dataclass(frozen=True, slots=True)
class Target:
    """What a trigger is about.

    A path means itself and, if it is a folder, what is directly in it; a glob what fits it (``**``: any number of
    folders). With `is_deep` everything below counts, too.
    """

    #: The part without wildcards: what is looked at on the node.
    base: str
    #: What follows it, by components.
    pattern: tuple[str, ...]
    is_deep: bool
    #: Whether it was asked for, and is told, as a URI.
    is_uri: bool

    @classmethod
    def of(cls, trigger: ContentUriTrigger) -> Target:
        """Return that of `trigger`. A ``file://`` URI holds no wildcards."""
        is_uri = trigger.uri.startswith("file:")
        path = os.path.normpath(unquote(urlsplit(trigger.uri).path) if is_uri else trigger.uri)
        parts = path.split("/")
        wild = (at for at, part in enumerate(parts) if not is_uri and any(sign in part for sign in _WILD))
        first = next(wild, len(parts))
        base = "/".join(parts[:first]) or "/"
        return cls(base, tuple(parts[first:]), trigger.trigger_for_descendants, is_uri)

    @property
    def looks_below(self) -> bool:
        """Whether what it is about may lie deeper than directly in its base."""
        return self.is_deep or len(self.pattern) > 1 or "**" in self.pattern

    def covers(self, path: str) -> bool:
        """Whether a change of `path` counts."""
        if path == self.base:
            return not self.pattern
        start = self.base.rstrip("/") + "/"
        if not path.startswith(start):
            return False
        below = path[len(start) :].split("/")
        if self.pattern:
            return _fits(below, self.pattern, is_deep=self.is_deep)
        return self.is_deep or len(below) == 1

    def told(self, path: str) -> str:
        """`path` in the manner in which it was asked for."""
        return f"file://{quote(path)}" if self.is_uri else path


def _fits(parts: Sequence[str], pattern: Sequence[str], *, is_deep: bool) -> bool:
    if is_deep:
        pattern = (*pattern, "**")
    at = fitted = 0
    #: Where the latest "**" is in the pattern, and how far it reaches: only that one may have to take more.
    last, taken = -1, 0
    while at < len(parts):
        if fitted < len(pattern) and pattern[fitted] == "**":
            last, taken, fitted = fitted, at, fitted + 1
        elif fitted < len(pattern) and fnmatchcase(parts[at], pattern[fitted]):
            at, fitted = at + 1, fitted + 1
        elif last >= 0:
            taken += 1
            at, fitted = taken, last + 1
        else:
            return False
    return all(each == "**" for each in pattern[fitted:])


@dataclass(frozen=True, slots=True)
class Triggered:
    """The changes that started a work."""

    #: What has changed; empty when that is more than `MOST_URIS`.
    uris: tuple[str, ...]
    #: Where: the folders of it, or, if these are more than `MOST_URIS`, what was asked for.
    authorities: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types."""
        return {"uris": [*self.uris], "authorities": [*self.authorities]}


class Changes:
    """What has changed for one work, and when that starts it. Moments are in microseconds."""

    def __init__(self, constraints: Constraints, limits: Limits, since: int) -> None:
        self._triggers = constraints.content_uri_triggers
        self.targets = tuple(map(Target.of, self._triggers))
        self.since = since
        self._update_delay = _delay(
            constraints.trigger_content_update_delay, UPDATE_DELAY, limits.min_trigger_update_delay
        )
        self._max_delay = _delay(constraints.trigger_content_max_delay, MAX_DELAY, limits.min_trigger_max_delay)
        self._first_at: int | None = None
        self._last_at = 0
        self._uris: dict[str, None] = {}
        self._folders: dict[str, None] = {}

    def note(self, path: str, at: int) -> bool:
        """Take notice of a change of `path` at `at`; whether it counts."""
        target = next((each for each in self.targets if each.covers(path)), None)
        if target is None or at < self.since:
            return False
        self._first_at = at if self._first_at is None else min(at, self._first_at)
        self._last_at = max(at, self._last_at)
        _keep(self._uris, target.told(path))
        _keep(self._folders, target.told(path.rpartition("/")[0] or "/"))
        return True

    @property
    def fires_at(self) -> int | None:
        """When it starts the work; ``None``: nothing has changed yet."""
        if self._first_at is None:
            return None
        return min(self._last_at + self._update_delay, self._first_at + self._max_delay)

    @property
    def triggered(self) -> Triggered:
        """What the run is told."""
        uris = tuple(self._uris) if len(self._uris) <= MOST_URIS else ()
        folders: Iterable[str] = self._folders
        if len(self._folders) > MOST_URIS:
            folders = (each.uri for each in self._triggers)
        return Triggered(uris, tuple(folders))


def _delay(asked: Any, default: int, least: Any) -> int:
    return default if asked is None else max(micros(asked), micros(least))


def _keep(some: dict[str, None], text: str) -> None:
    if len(some) <= MOST_URIS:  # one more tells that there are more
        some[text] = None
