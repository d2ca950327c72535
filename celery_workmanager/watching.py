"""Watching files for content triggers, in a thread of its own: by watchfiles, where that is installed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from celery_workmanager.green import off_loop
from celery_workmanager.triggers import MOST_URIS, Target

logger = logging.getLogger(__name__)

#: Milliseconds: a batch of changes ends when nothing more comes for a step, at the latest after the other.
_STEP, _BATCH = 20, 400
#: Seconds between two looks whether folders have come that were waited for, and after an error.
_LOOK_AGAIN = 5.0
#: Seconds after which a folder that has come is looked into once more: by then what is in it is watched, too.
_GROWN_UP = 1.0
#: Milliseconds between two looks at files where the system can't tell of changes.
_POLL = 1000
#: How often it is tried to open an eye on folders below which others go.
_TRIES = 3
#: File systems round the moments of changes down by as much (microseconds).
_ROUGH = 10_000

#: Paths that have changed, and how long ago at least (microseconds).
Seen = Sequence[tuple[str, int]]


def can_watch() -> bool:
    """Whether watchfiles is installed."""
    return find_spec("watchfiles") is not None


@dataclass(frozen=True, slots=True)
class Watched:
    """What one work wants to be told of: changes of `targets` since `age` microseconds ago."""

    targets: tuple[Target, ...]
    age: int


class FileWatcher:
    """Tells of changes of files; `on_change` is called in its thread. There is none while nothing is watched."""

    def __init__(self, on_change: Callable[[Seen], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._wanted: dict[str, Watched] = {}
        #: From when on changes count for each (the file system's time), and for whom past ones weren't looked for yet.
        self._since: dict[str, int] = {}
        self._new: set[str] = set()
        self._told = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._eyes = _Eyes()
        self._job: Callable[[], Seen] = tuple
        self._do_job = self._do

    def watch(self, wanted: Mapping[str, Watched]) -> None:
        """Watch this from now on, and nothing else; the keys tell what was watched before."""
        now = _now()
        with self._lock:
            self._new |= wanted.keys() - self._wanted.keys()
            self._since = {key: self._since.get(key, now - each.age) for key, each in wanted.items()}
            self._wanted = dict(wanted)
            if wanted and self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="workmanager-files", daemon=True)
                self._thread.start()
        self._told.set()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._told.set()
        if (thread := self._thread) is not None:
            thread.join(timeout=5)

    def _run(self) -> None:
        self._do_job = off_loop(self._do)
        while self._goes_on():
            try:
                self._turn()
            except Exception:
                logger.exception("watching files failed; it is tried again")
                self._eyes = _Eyes()
                with self._lock:
                    self._new = set(self._wanted)
                self._closed.wait(_LOOK_AGAIN)

    def _goes_on(self) -> bool:
        with self._lock:
            if self._wanted and not self._closed.is_set():
                return True
            self._thread, self._eyes = None, _Eyes()
            return False

    def _turn(self) -> None:
        """Look around, then watch until something else is wanted, or folders come or go."""
        self._told.clear()
        with self._lock:
            wanted, since, new, self._new = self._wanted, self._since, self._new, set()
        targets = {target for each in wanted.values() for target in each.targets}
        self._tell(lambda: self._eyes.open(targets))
        # Only now: what changes from here on is seen.
        for key in new & wanted.keys():
            found = _changed_since(wanted[key].targets, since[key])
            self._tell(lambda found=found: [*islice(found, MOST_URIS + 1)])  # type: ignore[misc]
        begun = time.monotonic()
        while not self._told.is_set() and time.monotonic() < begun + self._eyes.rest and self._eyes.see_all:
            self._tell(lambda: self._eyes.watch(self._told))

    def _tell(self, job: Callable[[], Seen]) -> None:
        """Tell of what `job` finds; it stops no other greenlet."""
        self._job = job
        if found := self._do_job():
            self._on_change(found)

    def _do(self) -> Seen:
        return self._job()


class _Eyes:
    """What watches folders: some with all that is below them, some without."""

    def __init__(self) -> None:
        self._eyes: dict[bool, Any] = {}
        self._folders: dict[bool, set[str]] = {False: set(), True: set()}
        #: The folder by which each target is watched.
        self._roots: dict[Target, str] = {}
        self._opened_at = 0
        #: Folders that have come below watched ones: since when they are looked into (the file system's time), and from
        #: when on again (monotonic seconds). Their eye tells of a folder before it watches what is in it.
        self._young: dict[str, tuple[int, float]] = {}
        #: A folder that was watched has come or gone.
        self._is_hurt = False
        #: Whether everything is watched where it is now.
        self.see_all = True

    @property
    def rest(self) -> float:
        """Seconds until they are to be opened again."""
        return _GROWN_UP if self._young else _LOOK_AGAIN

    def open(self, targets: Iterable[Target]) -> list[tuple[str, int]]:
        """Watch the folders that are there now; returns what has changed meanwhile and how long ago."""
        roots = {target: _root_of(target) for target in targets}
        folders: dict[bool, set[str]] = {False: set(), True: set()}
        for root, is_deep in roots.values():
            folders[is_deep].add(root)
        found = list[tuple[str, int]]()
        before, self._opened_at = self._opened_at, _now()
        stale = [each for each in folders if self._is_hurt or folders[each] != self._folders[each]]
        self._is_hurt = False
        for is_deep in stale:
            former = self._eyes.pop(is_deep, None)
            if folders[is_deep]:
                self._open(folders[is_deep], is_deep=is_deep)
            # Only now: what is deleted while the new eye opens leaves no moment to find it by.
            if former is not None:
                found += ((path, 0) for path in _paths(former.watch(_STEP, _STEP, 1, None)))
        known, self._roots = self._roots, {target: root for target, (root, _) in roots.items()}
        self._folders = folders
        for target in known.keys() & self._roots.keys():
            if self._roots[target] != known[target]:
                found += ((path, 0) for path, _ in _walk(target.base, is_deep=target.looks_below))  # it has come
            elif stale:
                found += _changed_since([target], before)
        found += self._look_into_young()
        self._look_round()
        return self._covered(found)

    def _look_into_young(self) -> Iterator[tuple[str, int]]:
        now = time.monotonic()
        due = {path: since for path, (since, at) in self._young.items() if at <= now}
        self._young = {path: each for path, each in self._young.items() if path not in due}
        tops = [path for path in due if not any(str(parent) in due for parent in Path(path).parents)]
        if tops:
            yield from _changed_since(
                (Target(path, (), is_deep=True, is_uri=False) for path in tops), min(due.values())
            )

    def _open(self, folders: Iterable[str], *, is_deep: bool) -> None:
        try:
            self._eyes[is_deep] = _eye(sorted(folders), is_deep=is_deep)
        except FileNotFoundError:
            self._is_hurt = True  # it has gone since it was found

    def watch(self, told: threading.Event) -> list[tuple[str, int]]:
        """Wait for changes, a while at most; until `told`."""
        # A batch must be able to end before the other eye has its turn.
        patience, batch = (self.rest, _BATCH) if len(self._eyes) == 1 else (_BATCH / 1000, _BATCH // 2)
        found = set[str]()
        for is_deep, eye in self._eyes.items():
            for path in _seen_by(eye, batch, _Patience(told, patience)):
                self._is_hurt |= any(path in some for some in self._folders.values())
                found.add(path)
                if is_deep and _is_folder(path) and not Path(path).is_symlink():
                    self._young.setdefault(path, (_now(), time.monotonic() + _GROWN_UP))
                    found |= {each for each, _ in _walk(path, is_deep=True)}  # it may have come with its contents
        self._look_round()
        return self._covered((path, 0) for path in found)

    def _look_round(self) -> None:
        self.see_all = not self._is_hurt and all(_root_of(target)[0] == root for target, root in self._roots.items())

    def _covered(self, seen: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        return [each for each in seen if any(target.covers(each[0]) for target in self._roots)]


class _Enough(Exception):
    """A watch ends without having seen anything whole."""


class _Patience:
    """Ends the watch of an eye after so many seconds, or when `told`: by raising `_Enough`.

    An eye that is stopped by its own means, or whose time is up, forgets what it has seen meanwhile. One whose question
    fails keeps it for the next time.
    """

    def __init__(self, told: threading.Event, seconds: float) -> None:
        self._told, self._until = told, time.monotonic() + seconds

    def is_set(self) -> bool:
        """What an eye asks at each step."""
        if self._told.is_set() or time.monotonic() >= self._until:
            raise _Enough
        return False


def _seen_by(eye: Any, batch: int, patience: _Patience) -> set[str]:
    try:
        return _paths(eye.watch(batch, _STEP, 0, patience))
    except _Enough:
        return set()


def _paths(answer: Any) -> set[str]:
    """The paths of changes; none when it has been told something or nothing has changed."""
    return set() if isinstance(answer, str) else {path for _, path in answer}


def _eye(folders: list[str], *, is_deep: bool) -> Any:
    """Open an eye. Raises FileNotFoundError when one of the folders has gone."""
    from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - installed where it is wanted

    for _ in range(_TRIES):
        try:
            # Told to pass over what may not be looked at, it would pass over every error, and see nothing.
            return RustNotify(folders, False, False, _POLL, is_deep, False)
        except FileNotFoundError as error:
            if not all(map(_is_folder, folders)):
                raise
            failed: OSError = error  # something below has gone meanwhile
        except OSError as error:  # the system's limit of watches, as a rule
            failed = error
            break
    if isinstance(failed, PermissionError) and not is_deep:
        return RustNotify(folders, False, False, _POLL, is_deep, True)  # the other folders are watched
    logger.warning("files can't be watched (%s); they are looked at each second", failed)
    return RustNotify(folders, False, True, _POLL, is_deep, True)


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # it may not be looked at, or its name is too long
        return False


def _root_of(target: Target) -> tuple[str, bool]:
    """The folder to be watched for a target, and whether with all below it.

    What doesn't exist is watched by its nearest existing parent, without what is below that.
    """
    if _is_folder(target.base):
        return target.base, target.looks_below
    return next(root for root in map(str, Path(target.base).parents) if _is_folder(root)), False


def _changed_since(targets: Iterable[Target], since: int) -> Iterator[tuple[str, int]]:
    """What of `targets` has changed since then, and how long ago that was at least."""
    now = _now()
    for target in targets:
        found = False
        for path, at in _walk(target.base, is_deep=target.looks_below):
            # A folder changes with what is in it: it is told only where that is gone. And whoever tidies up and then
            # asks for changes isn't started by that.
            is_told = at >= since - _ROUGH if path != target.base or not _is_folder(path) else at > since and not found
            if is_told and target.covers(path):
                found = True
                # Told as young as it may be: a moment that seems to be from before the enqueue would not count.
                yield path, max(0, now - at - _ROUGH)


def _walk(base: str, *, is_deep: bool) -> Iterator[tuple[str, int]]:
    """What is in a path, and itself, each with the moment of its last change; what is gone is left out."""
    with suppress(OSError):
        changed_at = _changed_at(Path(base).lstat())
        if _is_folder(base):
            for entry in list(os.scandir(base)):
                if is_deep and entry.is_dir(follow_symlinks=False):
                    yield from _walk(entry.path, is_deep=True)
                else:
                    yield from _itself(entry.path)
        yield base, changed_at


def _itself(path: str) -> Iterator[tuple[str, int]]:
    with suppress(OSError):
        yield path, _changed_at(Path(path).lstat())


def _changed_at(stat: os.stat_result) -> int:
    # What is moved here keeps the moment of its own change.
    return max(stat.st_mtime_ns, stat.st_ctime_ns) // 1000


def _now() -> int:
    return time.time_ns() // 1000
