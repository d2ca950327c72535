"""Every error of this package; each class words its own sentence from the facts it is given."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

#: Longer numbers take Python a while to write, or are refused.
_LONGEST_INT_BITS = 4096


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > _LONGEST_INT_BITS:
            return f"an int of {x.bit_length()} bits"
        return super().repr_int(x, level)


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = 100


class Unshown:
    """Stands for a value that no error may show."""

    def __init__(self, value: object) -> None:
        self._kind = type(value).__name__

    def __repr__(self) -> str:
        return f"a {self._kind} (not shown: it may be secret)"


def _rebuild(cls: type[WorkManagerError], args: tuple[Any, ...], facts: dict[str, Any]) -> WorkManagerError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class WorkManagerError(Exception):
    """The root of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take facts, while ``args`` holds the sentence: the default would call them with it.
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidRequest(WorkManagerError, ValueError):
    """What was asked for cannot be: "expected … to be …, got: …".

    ``got`` is kept as a (shortened) repr, so that the error can cross processes whatever the value was.
    """

    def __init__(self, what: str | None, expected: str, got: object) -> None:
        self.what, self.expected, self.got = what, expected, _short.repr(got)
        subject = f"{what} to be {expected}" if what else expected
        super().__init__(f"expected {subject}, got: {self.got}")

    def _say(self, sentence: str) -> None:
        self.args = (sentence,)


class ConstraintsWarning(UserWarning):
    """Constraints that can hardly be met, or contradict each other."""


class DataNotStorable(InvalidRequest, TypeError):
    """A value that isn't JSON; ``path`` says where it stands, ``why`` what is wrong if its type is right."""

    _EXPECTED = "JSON (None, bool, int, finite float, str, list, mapping with str keys)"

    def __init__(self, path: str, value: object, why: str = "") -> None:
        super().__init__(path, self._EXPECTED, value)
        self.path = path
        got = type(value).__qualname__ + (f" ({why})" if why else "")
        self._say(f"{path}: expected {self._EXPECTED}, got: {got}")


class DataTooLarge(InvalidRequest):
    """More bytes than may be stored; ``size`` and ``limit`` in bytes."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, f"at most {limit} bytes", size)
        self.size, self.limit = size, limit
        self._say(f"expected {what} to be at most {limit} bytes as JSON, got: {size} bytes")


class DuplicateWorkId(InvalidRequest):
    """One id for two works."""

    def __init__(self, id: str) -> None:
        super().__init__("work id", "given to one request only", id)
        self.id = id


class CyclicChain(InvalidRequest):
    """A work that would wait for itself; ``ids`` are the works of the circle, in order."""

    _SHOWN = 10

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__("chain", "free of cycles", ids)
        self.ids = tuple(ids)
        more = len(self.ids) > self._SHOWN
        shown = (*self.ids[: self._SHOWN], "…", self.ids[-1]) if more else self.ids
        self._say(f"expected the chain to be free of cycles, got: {' -> '.join(shown)}")


class UnknownWorker(WorkManagerError, LookupError):
    """No worker of that name is registered in this process."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        super().__init__(f"expected a registered worker, got: {name!r}{_did_you_mean(name, known)}")


class WorkNotFound(WorkManagerError, LookupError):
    """No work has that id: it never existed, or it was pruned."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"expected the id of a stored work, got: {id!r} (unknown or pruned)")


class UniqueNameBusy(WorkManagerError, TimeoutError):
    """Another transaction holds the unique name for longer than ``workmanager_name_wait``."""

    def __init__(self, name: str, waited: float) -> None:
        self.name, self.waited = name, waited
        super().__init__(
            f"expected unique name {name!r} to become free, got: still held by another transaction"
            f" after {waited:g} s (setting workmanager_name_wait)"
        )


class ConfigurationError(WorkManagerError, ValueError):
    """The configuration can't be worked with."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)


class UnknownSetting(ConfigurationError):
    """A setting with our prefix that doesn't exist."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        super().__init__(f"expected a known setting, got: {name!r}{_did_you_mean(name, known)}")


class InvalidSetting(ConfigurationError):
    """A setting of the wrong type or out of range."""

    def __init__(self, name: str, expected: str, got: object) -> None:
        self.name, self.expected, self.got = name, expected, _short.repr(got)
        super().__init__(f"expected setting {name} to be {expected}, got: {self.got}")


class UnknownConstraint(ConfigurationError, LookupError):
    """No custom constraint of that name is known to this node."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        super().__init__(f"expected a known custom constraint, got: {name!r}{_did_you_mean(name, known)}")


class AlreadyInitialized(WorkManagerError, RuntimeError):
    """A second WorkManager for one app."""

    def __init__(self, app_name: str) -> None:
        self.app_name = app_name
        super().__init__(f"expected one WorkManager for an app, got: a second one for {app_name!r}")


class NotInitialized(WorkManagerError, RuntimeError):
    """The app has no WorkManager."""

    def __init__(self, app_name: str) -> None:
        self.app_name = app_name
        super().__init__(f"expected WorkManager(app) to be called first, got: app {app_name!r} without one")


class StoreError(WorkManagerError):
    """Something is wrong with the store."""


class StoreNotMigrated(StoreError):
    """The schema is missing or of another version; ``url`` without its password, ``command`` brings it up to date."""

    def __init__(self, url: str, found: str | None, wanted: str, command: str) -> None:
        self.url, self.found, self.wanted, self.command = url, found, wanted, command
        super().__init__(f"expected store {url} to have schema {wanted}, got: {found or 'none'}; run `{self.command}`")


class StoreTooNew(StoreError):
    """A later version has given up what this one needs of the schema; ``oldest`` is the oldest that it still fits."""

    def __init__(self, url: str, found: str, oldest: str, wanted: str) -> None:
        self.url, self.found, self.oldest, self.wanted = url, found, oldest, wanted
        super().__init__(
            f"expected store {url} to have schema {wanted}, or a later one that still fits it, got: {found}, which fits"
            f" {oldest} and later; upgrade celery-workmanager in this process"
        )


class StoreUnavailable(StoreError, ConnectionError):
    """The database doesn't answer; ``url`` without its password."""

    def __init__(self, url: str, cause: object) -> None:
        self.url, self.cause = url, str(cause).strip()
        super().__init__(f"expected store {url} to answer, got: {self.cause or type(cause).__name__}")


class StoreForbidden(StoreError, PermissionError):
    """The database's role may not do this (``celery -A proj work grants``); ``url`` without its password."""

    def __init__(self, url: str, cause: object) -> None:
        self.url, self.cause = url, str(cause).strip()
        super().__init__(f"expected the role of store {url} to have the right, got: {self.cause}; see docs/security.md")


class StoreBusy(StoreError, TimeoutError):
    """Another transaction held what was needed for longer than ``workmanager_name_wait``; nothing was written."""

    def __init__(self, url: str, waited: float) -> None:
        self.url, self.waited = url, waited
        super().__init__(
            f"expected store {url} to be free, got: locked by another transaction for {waited:g} s"
            " (setting workmanager_name_wait)"
        )


class StatementTooLarge(WorkManagerError, ValueError):
    """The database takes no statement of that size (MySQL's ``max_allowed_packet``); sizes in bytes."""

    def __init__(self, url: str, size: int, limit: int) -> None:
        self.url, self.size, self.limit = url, size, limit
        super().__init__(
            f"expected a statement of at most {limit} bytes for store {url} (its max_allowed_packet), got: {size}"
            " bytes; raise it on the server, or lower workmanager_call_max_bytes"
        )


class PauseIncomplete(StoreError, TimeoutError):
    """Other transactions held works of a pause for too long: the pause (or its end) stands, those works follow.

    ``target`` is what was paused or resumed. A node carries it on; so does the same call again.
    """

    def __init__(self, target: str, waited: float) -> None:
        self.target, self.waited = target, waited
        super().__init__(
            f"expected all works of {target} to be free, got: some in the hands of another open transaction for"
            f" {waited:g} s; new works follow the pause at once, those when that transaction has ended"
        )


class UnsupportedOperation(WorkManagerError, NotImplementedError):
    """Something that can't be done, or not yet; the sentence says what and what to do instead."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)


class MergeError(WorkManagerError, ValueError):
    """Inputs that an input merger can't put together under one key."""

    def __init__(self, key: str, expected: str, got: str) -> None:
        self.key, self.expected, self.got = key, expected, got
        super().__init__(f"expected values of input key {key!r} to be {expected} as before, got: {got}")


class WorkerLost(WorkManagerError):
    """The worker's process died under the work too often."""

    def __init__(self, id: str, interruptions: int) -> None:
        self.id, self.interruptions = id, interruptions
        super().__init__(
            f"expected work {id} to end, got: its process lost {interruptions} times"
            " (setting workmanager_max_interruptions)"
        )


class AttemptsExhausted(WorkManagerError):
    """The worker asked for a retry more often than ``max_attempts`` allows."""

    def __init__(self, id: str, attempts: int) -> None:
        self.id, self.attempts = id, attempts
        super().__init__(f"expected work {id} to succeed within {attempts} attempts, got: one more retry")


class NoSchedules(WorkManagerError):
    """There is no django-celery-beat to import schedules from."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"expected django-celery-beat to be installed and set up in this project, got: {reason}")
