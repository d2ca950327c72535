"""What can be paused, and how a wrong call is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.pauses import LanePauses, PauseInfo, PauseKind, PauseTarget


@pytest.mark.parametrize("kind", list(PauseKind))
def test_a_pause_is_of_one_thing(kind: PauseKind):
    assert PauseTarget.of(**{kind.value: "x"}) == PauseTarget(kind, "x")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "exactly one of queue, tag, name and node, got: 'none of them'"),
        ({"queue": "a", "tag": "b"}, "got: 'queue and tag'"),
        ({"queue": "a", "tag": "b", "name": "c"}, "got: 'queue and tag and name'"),
        ({"queue": ""}, "expected queue to be a non-empty str"),
        ({"tag": 3}, "expected tag to be a non-empty str"),
        ({"name": "a\n"}, "expected unique name to be a non-empty str"),
        ({"name": "a" * 256}, "at most 255 characters"),
    ],
)
def test_anything_else_is_refused_with_what_was_given(given: dict[str, Any], told: str):
    with pytest.raises(InvalidRequest, match=told):
        PauseTarget.of(**given)


def test_lanes_are_covered_by_their_queue_or_their_worker():
    pauses = LanePauses.of([("queue", "mail"), ("tag", "shop.bake"), ("tag", "red"), ("name", "shop.sell")])
    assert pauses.cover("mail", "any")
    assert pauses.cover("any", "shop.bake")
    assert not pauses.cover("shop.bake", "mail")
    assert not pauses.cover("any", "shop.sell")
    assert not LanePauses().cover("mail", "shop.bake")


def test_a_pause_is_told_in_json_types():
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert PauseInfo(PauseKind.TAG, "red", at).to_dict() == {
        "kind": "tag",
        "label": "red",
        "since": "2026-01-02T03:04:00+00:00",
        "is_complete": True,
    }


def test_a_target_is_named_in_sentences():
    assert [str(PauseTarget(kind, "x")) for kind in PauseKind] == [
        "queue 'x'", "tag 'x'", "unique name 'x'", "node 'x'",
    ]  # fmt: skip
