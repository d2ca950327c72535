"""Settings: defaults, prefixes, refusals, and the limits of the profiles."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from celery_workmanager.errors import ConfigurationError, InvalidSetting, UnknownSetting
from celery_workmanager.settings import Limits, Settings


def test_defaults_are_valid_and_every_setting_is_described():
    settings = Settings()
    assert settings == Settings.from_mapping({})
    assert settings.store_url == "sqlite:///workmanager.sqlite3"
    assert settings.lease == 15.0
    for setting in dataclasses.fields(Settings):
        assert setting.metadata["doc"].endswith("."), setting.name


def test_only_keys_with_the_prefix_are_read_in_either_case():
    mapping = {"broker_url": "x", "workmanager_lease": 3, "WORKMANAGER_PROFILE": "android", 5: 6}
    assert Settings.from_mapping(mapping) == Settings(lease=3.0, profile="android")
    django = {"CELERY_WORKMANAGER_NAME_WAIT": 1, "workmanager_unknown": 1}
    assert Settings.from_mapping(django, "CELERY_WORKMANAGER_") == Settings(name_wait=1)


def test_a_timedelta_does_for_seconds():
    assert Settings.from_mapping({"workmanager_retention": timedelta(days=2)}).retention == 172_800.0


def test_an_unknown_setting_is_refused_with_a_suggestion():
    with pytest.raises(UnknownSetting, match=r"got: 'workmanager_leese'; did you mean 'workmanager_lease'\?"):
        Settings.from_mapping({"workmanager_leese": 3})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lease", "15", "a timedelta or a number of seconds"),
        ("lease", True, "a timedelta or a number of seconds"),
        ("lease", None, "a timedelta or a number of seconds"),
        ("lease", 0, "0.1 to 86400 seconds"),
        ("lease", -1, "zero or more"),
        ("lease", float("nan"), "a timedelta or a number of seconds"),
        ("lease", float("inf"), "at most 2500000 days"),
        ("poll_interval", 0, "0.001 to 3600 seconds"),
        ("profile", "desktop", "'server' or 'android'"),
        ("profile", [], "'server' or 'android'"),
        ("store_url", "", "a non-empty str"),
        ("store_url", 5, "a non-empty str"),
        ("page_access", "may_see", "a dotted path"),
        ("page_access", "shop..may_see", "a dotted path"),
        ("page_access", 7, "a dotted path"),
        ("max_interruptions", 0, "an int from 1 to 1000000"),
        ("max_interruptions", 1.5, "an int from 1 to 1000000"),
        ("max_in_flight", False, "an int from 1 to 100000"),
        ("data_max_bytes", 0, "an int from 2 to "),
        ("call_max_bytes", "8 MiB", "an int from 2 to "),
    ],
)
def test_an_ill_typed_or_impossible_value_is_refused_with_what_was_expected(name, value, expected):
    with pytest.raises(InvalidSetting, match=f"expected setting workmanager_{name} to be {expected}.*, got: "):
        Settings.from_mapping({f"workmanager_{name}": value})
    with pytest.raises(ConfigurationError):
        Settings(**{name: value})


def test_profiles_set_the_limits():
    assert Settings().limits == Limits.server()
    assert Settings(profile="android").limits == Limits.android()
    assert Limits.android().data_max_bytes == 10_240
    assert Limits.android().min_backoff == timedelta(seconds=10)
    assert Limits.server().max_backoff == Limits.android().max_backoff == timedelta(hours=5)
    assert Limits.android().counts_system_stops
    assert not Limits.server().counts_system_stops


def test_sizes_may_differ_from_the_profile():
    limits = Settings(profile="android", data_max_bytes=100, call_max_bytes=1000).limits
    assert limits == dataclasses.replace(Limits.android(), data_max_bytes=100, call_max_bytes=1000)
