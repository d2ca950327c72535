"""Works that wait for files, as they are stored: who claims them, once, and what their next runs know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest

from celery_workmanager import watching
from celery_workmanager.clock import HeldClock
from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.errors import StoreError
from celery_workmanager.file_triggers import FileTriggers
from celery_workmanager.lanes import TRIGGER, lane_of
from celery_workmanager.offer import Offer
from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.readings import Readings
from celery_workmanager.store import Store, pausing, triggering
from celery_workmanager.store.triggering import Waiting
from celery_workmanager.timing import SECOND
from celery_workmanager.triggers import Triggered
from celery_workmanager.watching import Seen, Watched
from celery_workmanager.work import StopReason
from tests.stores import QUEUE, WORKER, end, job, move, put, row, start, state, take, together, twin

ON_IN = Constraints(content_uri_triggers=(ContentUriTrigger("/in"),))
LANE = lane_of(QUEUE, WORKER, "", TRIGGER)
CHANGED = Triggered(("/in/a",), ("/in",))


def the_waiting(store: Store) -> Waiting:
    (found,) = triggering.waiting(store, [LANE])
    return found


def fire(store: Store, seen: Waiting, node: str = "node") -> list[str]:
    return [each.id for each in triggering.fire(store, seen, CHANGED, node, 7)]


def test_it_is_claimed_by_nobody_before_and_by_one_after(store: Store):
    put(store, job("a", constraints=ON_IN))
    assert take(store) == []
    seen = the_waiting(store)
    assert (seen.id, seen.since) == ("a", store.clock.now())
    (claim,) = triggering.fire(store, seen, CHANGED, "node", 7)
    assert claim.options["triggered"] == {"uris": ["/in/a"], "authorities": ["/in"]}
    assert fire(store, seen, "other") == []
    assert triggering.waiting(store, [LANE]) == []


def test_two_nodes_that_see_the_same_change_start_one_run(server: Store):
    other = twin(server)
    for number in range(20):
        put(server, job(f"w{number:02}", constraints=ON_IN))
    seen = triggering.waiting(server, [LANE])
    calls = [lambda s=s, n=n: [fire(s, each, n) for each in seen] for s, n in ((server, "one"), (other, "two"))]
    first, second = together(*calls)
    assert [bool(a) + bool(b) for a, b in zip(first, second, strict=True)] == [1] * 20
    other.close()


@pytest.mark.parametrize("ending", [Ending.STOPPED, Ending.RETRY, Ending.LOST])
def test_the_next_run_waits_for_no_other_change(store: Store, ending: Ending):
    put(store, job("a", constraints=ON_IN, backoff_delay=1))
    (claim,) = triggering.fire(store, the_waiting(store), CHANGED, "node", 7)
    start(store, claim)
    end(store, claim, ending=ending, **({"reason": StopReason.DEVICE_STATE} if ending is Ending.STOPPED else {}))
    move(store, 2 * SECOND)
    (again,) = take(store)
    assert again.options["triggered"]["uris"] == ["/in/a"]


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.update(job("a", constraints=ON_IN), QUEUE),
        lambda store: store.cancel("a"),
        lambda store: store.clock.move(61 * SECOND),
        lambda store: pausing.pause(store, PauseTarget(PauseKind.QUEUE, QUEUE)),
        lambda store: pausing.pause(store, PauseTarget(PauseKind.TAG, "red")),
    ],
    ids=["updated", "cancelled", "expired", "queue paused", "tag paused"],
)
def test_what_is_no_longer_as_it_was_seen_is_left_alone(store: Store, change: Callable[[Store], Any]):
    put(store, job("a", constraints=ON_IN, expires=60, tags={"red"}))
    seen = the_waiting(store)
    change(store)
    assert fire(store, seen) == []
    assert "triggered" not in row(store, "a").options


# -- a node's share ------------------------------------------------------------------------------------------------


class Watcher:
    """Remembers what it was asked to watch."""

    def __init__(self) -> None:
        self.wanted: list[dict[str, Watched]] = []

    def __call__(self, on_change: Callable[[Seen], None]) -> Watcher:
        return self

    def watch(self, wanted: Mapping[str, Watched]) -> None:
        self.wanted.append(dict(wanted))

    def close(self) -> None:
        self.wanted.append({})


def share(store: Store, watcher: Callable[[Callable[[Seen], None]], Any] | None) -> FileTriggers:
    lanes = {lane_of(QUEUE, WORKER): WORKER}
    return FileTriggers(store, store.clock, Offer(lambda: lanes, store.clock, Readings), watcher)


def test_only_what_waits_is_watched_and_claimed_when_its_changes_rest(store: Store):
    watcher = Watcher()
    files = share(store, watcher)
    assert files.claim(store.look([]), "node") == []
    assert watcher.wanted == []
    put(store, job("a", constraints=ON_IN), "plain", job("b", constraints=ON_IN, queue="elsewhere"))
    move(store, SECOND)
    assert files.claim(store.look([]), "node") == []
    (watched,) = watcher.wanted[-1].values()
    assert (watched.targets[0].base, watched.age) == ("/in", SECOND)
    files.changed([("/in/a", SECOND // 2)])
    move(store, 9 * SECOND)
    assert (files.claim(store.look([]), "node"), files.until_next()) == ([], 0.5)
    move(store, SECOND // 2)
    assert [each.id for each in files.claim(store.look([]), "node")] == ["a"]
    assert (watcher.wanted[-1], files.claim(store.look([]), "node")) == ({}, [])
    files.close()


def test_the_next_work_is_watched_for_as_soon_as_it_is_seen(store: Store):
    watcher = Watcher()
    files = share(store, watcher)
    put(store, job("a", constraints=ON_IN))
    files.claim(store.look([]), "node")
    files.changed([("/in/a", 0)])
    move(store, 10 * SECOND)
    assert len(files.claim(store.look([]), "node")) == 1
    files.claim(store.look([]), "node")
    put(store, job("b", constraints=ON_IN))
    files.claim(store.look([]), "node")
    assert [key.partition("/")[0] for key in watcher.wanted[-1]] == ["b"]


def test_a_producers_clock_that_is_ahead_hides_no_change(store: Store):
    watcher = Watcher()
    files = share(store, watcher)
    put(store, job("a", constraints=ON_IN))
    assert isinstance(store.clock, HeldClock)
    store.clock.step(-SECOND)
    files.claim(store.look([]), "node")
    assert [each.age for each in watcher.wanted[-1].values()] == [0]
    files.changed([("/in/a", 0)])
    files.claim(store.look([]), "node")
    move(store, 10 * SECOND)
    assert [each.id for each in files.claim(store.look([]), "node")] == ["a"]


def test_changes_are_known_until_the_store_has_taken_them(store: Store, monkeypatch: pytest.MonkeyPatch):
    files = share(store, Watcher())
    put(store, job("a", constraints=ON_IN))
    files.claim(store.look([]), "node")
    files.changed([("/in/a", 0)])
    move(store, 10 * SECOND)

    def refused(*_: Any) -> list[Any]:
        raise StoreError("away")

    with monkeypatch.context() as patched:
        patched.setattr(triggering, "fire", refused)
        with pytest.raises(StoreError):
            files.claim(store.look([]), "node")
    # Nobody tells of what was deleted a second time.
    assert [each.id for each in files.claim(store.look([]), "node")] == ["a"]


def test_a_drained_node_takes_notice_but_does_not_wake_for_it(store: Store):
    target = PauseTarget(PauseKind.NODE, "w@host")
    files = share(store, Watcher())
    put(store, job("a", constraints=ON_IN))
    pausing.pause(store, target)
    files.claim(store.look([]), "node", "w@host")
    files.changed([("/in/a", 0)])
    move(store, 60 * SECOND)
    assert files.claim(store.look([]), "node", "w@host") == []
    assert not files._notes
    assert files.until_next() == inf
    pausing.resume(store, target)
    assert [each.id for each in files.claim(store.look([]), "node", "w@host")] == ["a"]


class Found:
    """A watcher that finds a file whose moment the file system has rounded down to before the enqueue."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, on_change: Callable[[Seen], None]) -> Found:
        self.on_change = on_change
        return self

    def watch(self, wanted: Mapping[str, Watched]) -> None:
        for each in wanted.values():
            # The work was enqueued 4 ms after the moment that the file bears.
            since = self.file.stat().st_ctime_ns // 1000 + 4_000
            self.on_change([*watching._changed_since(each.targets, since)])

    def close(self) -> None:
        """Nothing to stop."""


def test_a_change_right_after_the_enqueue_counts_however_rough_the_moments_of_files_are(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "a"
    file.touch()
    moment = file.stat().st_ctime_ns // 1000
    put(store, job("a", constraints=Constraints(content_uri_triggers=(ContentUriTrigger(str(file)),))))
    move(store, 5_000)
    monkeypatch.setattr(watching, "_now", lambda: moment + 9_000)
    files = share(store, Found(file))
    files.claim(store.look([]), "node")
    move(store, 10 * SECOND)
    (claim,) = files.claim(store.look([]), "node")
    assert claim.options["triggered"]["uris"] == [str(file)]


def test_without_watchfiles_nothing_is_claimed_and_the_log_says_so_once(store: Store, caplog: pytest.LogCaptureFixture):
    put(store, job("a", constraints=ON_IN))
    files = share(store, None)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            files.changed([("/in/a", 0)])
            move(store, 60 * SECOND)
            assert files.claim(store.look([]), "node") == []
    assert [each.getMessage() for each in caplog.records] == [
        "works wait for changes of files, which need celery-workmanager[files] to be watched"
    ]
    assert state(store, "a").name == "ENQUEUED"
    files.close()
