"""Limits and rates: what can be, and the keys that are made of the input."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.foreground import ForegroundInfo
from celery_workmanager.limits import Limit, Rate, key_fields, key_for
from celery_workmanager.requests import OneTimeWorkRequest


def test_they_survive_json():
    limit, rate = Limit("tenant:{tenant}", 3), Rate("api", 10, 0.5)
    assert rate.per == timedelta(milliseconds=500)
    assert Limit.of(limit.to_json()) == limit
    assert Rate.of(rate.to_json()) == rate


@pytest.mark.parametrize("n", [0, -1, 1.0, True, None, 1_000_001])
def test_a_limit_of_less_than_one_is_refused(n):
    with pytest.raises(InvalidRequest, match="expected limit's n to be an int from 1 to 1000000"):
        Limit("x", n)
    with pytest.raises(InvalidRequest, match="expected rate's n to be an int from 1 to 1000000"):
        Rate("x", n, 1)


@pytest.mark.parametrize("per", [0, -1, "1", None, timedelta(0)])
def test_a_rate_needs_a_while(per):
    with pytest.raises(InvalidRequest, match="expected rate's per to be "):
        Rate("x", 1, per)


@pytest.mark.parametrize("key", ["", "a\n", "{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{ a }", 5])
def test_a_key_that_cannot_be_made_is_refused(key):
    with pytest.raises(InvalidRequest, match="expected limit's key to be "):
        Limit(key, 1)
    with pytest.raises(InvalidRequest, match="expected rate's key to be "):
        Rate(key, 1, 1)


def test_a_key_is_made_of_the_input():
    key = "tenant:{tenant}/{user} {{literal}}"
    assert key_fields(key) == ("tenant", "user")
    assert key_for(key, {"tenant": "acme", "user": 5, "more": None}) == "tenant:acme/5 {literal}"
    assert key_for("plain", {}) == "plain"


@pytest.mark.parametrize("values", [{}, {"tenant": None}, {"tenant": True}, {"tenant": 1.5}, {"tenant": ["a"]}])
def test_an_entry_that_is_missing_or_no_text_is_refused(values):
    with pytest.raises(
        InvalidRequest, match=r"expected input 'tenant' to be a str or an int, for the key 'of:\{tenant\}'"
    ):
        key_for("of:{tenant}", values)


def test_a_key_must_not_become_too_long():
    with pytest.raises(InvalidRequest, match="expected limit's key to be a non-empty str of at most 255"):
        key_for("{tenant}", {"tenant": "a" * 256})


@pytest.mark.parametrize("value", [5, {"key": "x"}, {"key": "x", "n": 1, "m": 2}])
def test_something_else_is_no_limit(value):
    with pytest.raises(InvalidRequest, match=r"expected concurrency to be a Limit\(key, n\)"):
        OneTimeWorkRequest("x", concurrency=value)
    with pytest.raises(InvalidRequest, match=r"expected rate to be a Rate\(key, n, per\)"):
        OneTimeWorkRequest("x", rate=value)


def test_foreground_info_is_checked_and_survives_json():
    info = ForegroundInfo(7, "Uploading 3 of 10")
    assert ForegroundInfo.from_json(info.to_json()) == info
    for bad in ((-1, "x"), (1, ""), (1, "x", -1), ("1", "x")):
        with pytest.raises(InvalidRequest):
            ForegroundInfo(*bad)
