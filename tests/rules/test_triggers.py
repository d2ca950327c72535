"""What content triggers are about, and when changes start a work."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.settings import Limits
from celery_workmanager.timing import SECOND
from celery_workmanager.triggers import MOST_URIS, Changes, Target

SERVER, ANDROID = Limits.server(), Limits.android()


def covered(uri: str, path: str, *, deep: bool = False) -> bool:
    return Target.of(ContentUriTrigger(uri, deep)).covers(path)


@pytest.mark.parametrize(
    ("uri", "path", "flat", "deep"),
    [
        ("/in", "/in", True, True),
        ("/in", "/in/a", True, True),
        ("/in", "/in/a/b", False, True),
        ("/in", "/inn", False, False),
        ("/in/", "/in/a", True, True),
        ("/in/../out", "/out", True, True),
        ("/", "/etc", True, True),
        ("/in/*.csv", "/in/a.csv", True, True),
        ("/in/*.csv", "/in/a.txt", False, False),
        ("/in/*.csv", "/in", False, False),
        ("/in/*.csv", "/in/a.csv/b", False, True),
        ("/in/*.csv", "/in/b/a.csv", False, False),
        ("/in/**/*.csv", "/in/a.csv", True, True),
        ("/in/**/*.csv", "/in/b/c/a.csv", True, True),
        ("/in/2?/x", "/in/24/x", True, True),
        ("/in/2?/x", "/in/24/y", False, False),
        ("file:///in/a%20b*", "/in/a b*", True, True),
        ("file:///in/*.csv", "/in/a.csv", False, False),
    ],
)
def test_a_target_covers_itself_and_what_fits(uri: str, path: str, flat: bool, deep: bool):
    assert (covered(uri, path), covered(uri, path, deep=True)) == (flat, deep)


@pytest.mark.parametrize(
    ("uri", "base", "below"),
    [
        ("/in", "/in", False),
        ("/in/*", "/in", False),
        ("/in/*/x", "/in", True),
        ("/in/**", "/in", True),
        ("/*", "/", False),
    ],
)
def test_only_what_is_needed_is_looked_at(uri: str, base: str, below: bool):
    target = Target.of(ContentUriTrigger(uri))
    assert (target.base, target.looks_below) == (base, below)


def changes(*uris: str, limits: Limits = SERVER, update: float | None = None, most: float | None = None) -> Changes:
    asked = Constraints(
        content_uri_triggers=tuple(map(ContentUriTrigger, uris or ["/in"])),
        trigger_content_update_delay=None if update is None else timedelta(seconds=update),
        trigger_content_max_delay=None if most is None else timedelta(seconds=most),
    )
    return Changes(asked, limits, since=100 * SECOND)


def test_it_fires_after_the_last_change_and_not_too_long_after_the_first():
    found = changes()
    assert found.fires_at is None
    assert found.note("/in/a", 100 * SECOND)
    assert found.fires_at == 110 * SECOND
    for at in range(105, 300, 5):
        found.note("/in/a", at * SECOND)
    assert found.fires_at == 220 * SECOND


def test_what_it_is_not_about_and_what_came_before_doesnt_count():
    found = changes()
    assert not found.note("/out", 101 * SECOND)
    assert not found.note("/in/a", 99 * SECOND)
    assert found.fires_at is None


@pytest.mark.parametrize(("limits", "expected"), [(SERVER, 0), (ANDROID, SECOND // 2)])
def test_delays_are_the_requests_and_the_profiles(limits: Limits, expected: int):
    found = changes(limits=limits, update=0)
    found.note("/in/a", 200 * SECOND)
    assert found.fires_at == 200 * SECOND + expected
    found = changes(limits=limits, most=0)
    found.note("/in/a", 200 * SECOND)
    assert found.fires_at == 200 * SECOND + 2 * expected


def test_a_run_is_told_what_changed_and_where():
    found = changes("/in", "file:///out/x%20y")
    for path in ("/in/b", "/in/a", "/in/b", "/out/x y"):
        found.note(path, 100 * SECOND)
    assert found.triggered.to_json() == {
        "uris": ["/in/b", "/in/a", "file:///out/x%20y"],
        "authorities": ["/in", "file:///out"],
    }


def test_of_many_changes_only_the_folders_are_told_and_of_many_folders_what_was_asked_for():
    found = changes("/in/**")
    for at in range(MOST_URIS):
        found.note(f"/in/{at}", 100 * SECOND)
    assert len(found.triggered.uris) == MOST_URIS
    found.note("/in/more", 100 * SECOND)
    assert (found.triggered.uris, found.triggered.authorities) == ((), ("/in",))
    for at in range(MOST_URIS):
        found.note(f"/in/{at}/x", 100 * SECOND)
    assert (found.triggered.uris, found.triggered.authorities) == ((), ("/in/**",))
