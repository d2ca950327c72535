"""Watching real files. Waits for events, with deadlines; nothing is awaited by the clock."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import watching
from celery_workmanager.constraints import ContentUriTrigger
from celery_workmanager.triggers import Target
from celery_workmanager.watching import FileWatcher, Seen, Watched, _changed_since, _Eyes

pytest.importorskip("watchfiles", reason="celery-workmanager[files] is not installed")


ROOT = Path(__file__).parents[2]


class Watch:
    """A watcher, and what it has told so far."""

    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.watcher = FileWatcher(self._hear)

    def _hear(self, seen: Seen) -> None:
        for path, _ in seen:
            self.told.put(path)

    def want(self, *uris: str | Path, deep: bool = False, age: float = 0, key: str = "a") -> Watch:
        targets = tuple(Target.of(ContentUriTrigger(str(uri), deep)) for uri in uris)
        self.watcher.watch({key: Watched(targets, round(age * 1_000_000))})
        return self

    def until(self, *paths: Path, seconds: float = 20) -> set[Path]:
        """Wait until these have been told of; returns all that were."""
        deadline, seen = time.monotonic() + seconds, set[Path]()
        while not set(paths) <= seen:
            seen.add(Path(self.told.get(timeout=max(0.01, deadline - time.monotonic()))))
        return seen


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.watcher.close()


@pytest.fixture
def folder(watch: Watch, tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "in"
    made.mkdir()
    return made


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_new_changed_and_deleted_files_are_told_of(watch: Watch, folder: Path):
    watch.want(folder)
    file = touch(folder / "a")
    watch.until(file)
    touch(file, "y")
    watch.until(file)
    file.unlink()
    watch.until(file)
    moved = touch(folder.parent / "b").rename(folder / "b")
    watch.until(moved)


def test_globs_are_told_of_what_fits(watch: Watch, folder: Path):
    watch.want(folder / "*.csv")
    touch(folder / "a.txt")
    assert watch.until(touch(folder / "a.csv")) == {folder / "a.csv"}


def test_below_a_folder_only_with_descendants(watch: Watch, folder: Path):
    watch.want(folder, deep=True)
    file = touch(folder / "b" / "c" / "d")
    watch.until(file)
    shutil.copytree(folder / "b", folder / "e")
    watch.until(folder / "e" / "c" / "d")


def test_what_doesnt_exist_is_watched_until_it_comes(watch: Watch, tmp_path: Path):
    file = tmp_path / "not" / "yet" / "there"
    watch.want(file)
    touch(tmp_path / "elsewhere" / "there").parent.rename(tmp_path / "yet")
    (tmp_path / "not").mkdir()
    (tmp_path / "yet").rename(tmp_path / "not" / "yet")
    assert watch.until(file) == {file}
    touch(file, "again")
    watch.until(file)


def test_a_folder_that_is_made_anew_is_watched_again(watch: Watch, folder: Path):
    watch.want(folder)
    watch.until(touch(folder / "a"))
    shutil.rmtree(folder)
    watch.until(folder)
    watch.until(touch(folder / "b"))
    watch.until(touch(folder / "c"))


def test_what_changed_before_is_found_by_its_moment(watch: Watch, folder: Path):
    old, file = touch(folder / "old" / "a"), touch(folder / "b")
    watch.want(folder, deep=True, age=3600)
    watch.until(old, file)
    # Whoever was enqueued later doesn't want to know of it.
    later = file.stat().st_ctime_ns // 1000 + 20_000  # file systems are as rough as that
    assert [*_changed_since([Target.of(ContentUriTrigger(str(folder), trigger_for_descendants=True))], later)] == []


def test_a_moment_that_was_rounded_down_is_told_as_young_as_it_may_be(folder: Path, monkeypatch: pytest.MonkeyPatch):
    file = touch(folder / "a")
    moment = file.stat().st_ctime_ns // 1000
    target = Target.of(ContentUriTrigger(str(folder / "*")))
    # Enqueued 4 ms after the moment that the file system gave the change, and watched 5 ms later.
    monkeypatch.setattr(watching, "_now", lambda: moment + 9_000)
    ((path, age),) = _changed_since([target], moment + 4_000)
    assert (Path(path), age <= 5_000) == (file, True)


def test_who_comes_later_is_told_of_what_changed_before(watch: Watch, folder: Path):
    watch.want(folder)
    file = touch(folder / "a")
    watch.until(file)
    watch.want(folder, age=60, key="b")
    watch.until(file)


def test_a_path_that_can_never_be_keeps_nobody_from_being_watched(watch: Watch, folder: Path):
    watch.want(folder / ("x" * 300) / "a", folder / "a")
    watch.until(touch(folder / "a"))


def test_other_targets_replace_the_former_ones_and_none_end_the_watch(watch: Watch, folder: Path):
    watch.want(folder / "a")
    watch.until(touch(folder / "a"))
    watch.want(folder / "b", folder / "c" / "**", key="b")
    touch(folder / "a", "y")
    assert watch.until(touch(folder / "c" / "d" / "e"), touch(folder / "b")) >= {folder / "b"}
    thread = watch.watcher._thread
    watch.watcher.watch({})
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()
    watch.want(folder / "b", key="c")
    watch.until(touch(folder / "b", "z"))


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "out of patience"])
def test_what_an_eye_has_seen_when_its_watch_is_ended_is_told_by_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_told: bool
):
    eyes, told = _Eyes(), threading.Event()
    eyes.open([Target.of(ContentUriTrigger(str(folder)))])
    file = touch(folder / "a")
    with monkeypatch.context() as patched:
        if is_told:
            told.set()
        else:
            patched.setattr(watching, "_LOOK_AGAIN", 0)
        assert eyes.watch(told) == []
    told.clear()
    assert (str(file), 0) in eyes.watch(told)


def test_a_folder_that_goes_and_comes_while_its_eye_opens_is_watched(folder: Path, monkeypatch: pytest.MonkeyPatch):
    open_eye, target = watching._eye, Target.of(ContentUriTrigger(str(folder)))

    def opening(folders: list[str], *, is_deep: bool) -> Any:
        folder.rmdir()
        try:
            return open_eye(folders, is_deep=is_deep)
        finally:
            folder.mkdir()

    eyes = _Eyes()
    with monkeypatch.context() as patched:
        patched.setattr(watching, "_eye", opening)
        eyes.open([target])
    assert not eyes.see_all
    eyes.open([target])
    assert eyes.see_all
    file = touch(folder / "a")
    assert (str(file), 0) in eyes.watch(threading.Event())


@pytest.mark.parametrize("error", [OSError("the limit"), PermissionError("denied"), FileNotFoundError("gone below")])
def test_where_the_system_cant_tell_of_changes_files_are_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
):
    opened: list[bool] = []

    class Notify:
        def __init__(self, *given: Any) -> None:
            _folders, _debug, polls, _delay, _is_deep, passes_over_errors = given
            opened.append(polls)
            if not polls and not passes_over_errors:
                raise error

    monkeypatch.setattr("watchfiles._rust_notify.RustNotify", Notify)
    assert isinstance(watching._eye([str(folder)], is_deep=True), Notify)
    assert opened[-1]
    assert "they are looked at each second" in caplog.text


def test_what_is_deleted_while_other_eyes_open_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch):
    file = touch(folder / "a")
    target, other = (Target.of(ContentUriTrigger(str(each))) for each in (folder / "*", folder.parent))

    class Eye:
        def __init__(self) -> None:
            self.seen: set[tuple[int, str]] = set()

        def watch(self, *_: Any) -> set[tuple[int, str]]:
            return self.seen

    made: list[Eye] = []

    def opening(_folders: list[str], *, is_deep: bool) -> Eye:
        assert not is_deep
        for before in made:  # the new one doesn't see it yet
            file.unlink()
            before.seen.add((3, str(file)))
        made.append(Eye())
        return made[-1]

    monkeypatch.setattr(watching, "_eye", opening)
    eyes = _Eyes()
    eyes.open([target])
    assert (str(file), 0) in eyes.open([target, other])


class LateEye:
    """An eye that tells of a new folder, and is too late for what comes into it right after."""

    def __init__(self, folder: Path) -> None:
        self._new = folder / "new"
        self._looks = 0

    def watch(self, _batch: int, _step: int, _timeout: int, stop: Any) -> set[tuple[int, str]]:
        self._looks += 1
        if self._looks == 1:
            self._new.mkdir()
            return {(1, str(self._new))}
        touch(self._new / "a")
        while not stop.is_set():
            pass
        return set()


def test_what_comes_into_a_new_folder_before_that_is_watched_is_found(
    watch: Watch, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    eye = LateEye(folder)
    monkeypatch.setattr(watching, "_eye", lambda folders, *, is_deep: eye)
    monkeypatch.setattr(watching, "_LOOK_AGAIN", 60)
    monkeypatch.setattr(watching, "_GROWN_UP", 0.01)
    watch.want(folder, deep=True)
    watch.until(folder / "new" / "a")


GREEN = """
from gevent import monkey; monkey.patch_all()
import sys, threading, time
from pathlib import Path
from celery_workmanager.constraints import ContentUriTrigger
from celery_workmanager.triggers import Target
from celery_workmanager.watching import FileWatcher, Watched

folder, told, beats = Path(sys.argv[1]), threading.Event(), []
watcher = FileWatcher(lambda seen: told.set())
watcher.watch({"a": Watched((Target.of(ContentUriTrigger(str(folder))),), 0)})

def beat():
    while not told.is_set():
        beats.append(time.monotonic())
        time.sleep(0.01)

thread = threading.Thread(target=beat)
thread.start()
while len(beats) < 50:
    time.sleep(0.01)
(folder / "a").touch()
assert told.wait(20)
thread.join()
watcher.close()
print(max(after - before for before, after in zip(beats, beats[1:])) < 1.0)
"""


def test_in_a_process_of_greenlets_it_stops_nobody(folder: Path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREEN, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "True\n"
