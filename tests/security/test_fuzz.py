"""Whatever is given to what parses: it is taken, and comes out as it went in, or it is refused in our own words."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import pytest
from celery.schedules import ParseException, crontab
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.constraints import Constraints, ContentUriTrigger
from celery_workmanager.data import Data
from celery_workmanager.database import Database
from celery_workmanager.declared import declared_facts
from celery_workmanager.limits import Limit, Rate, key_for
from celery_workmanager.mergers import load_merger
from celery_workmanager.node_labels import check_labels, parse_label_rule
from celery_workmanager.occurrences import next_occurrence
from celery_workmanager.periodic import PeriodicWorkRequest
from celery_workmanager.periods import Periodicity, period_option
from celery_workmanager.query import WorkQuery
from celery_workmanager.readings_file import ReadingsFile
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.schedules import Crontab, check_timezone, read_schedule
from celery_workmanager.settings import PREFIX, Limits, Settings
from celery_workmanager.store.rows import new_row
from celery_workmanager.terms import Terms
from celery_workmanager.time_windows import TimeWindow
from celery_workmanager.timing import moment
from celery_workmanager.triggers import Target
from celery_workmanager.wire import request_from_json, request_to_json
from celery_workmanager.work import State
from tests.security.fuzz import HUGE, SOAK, accepted, anything, fuzzed, jsons, junk, numbers, scalars, times

TERMS = Terms.of(Settings())
NOW = moment(datetime(2030, 1, 1, tzinfo=UTC))
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(0 if SOAK else 120)]


def one_of_each(names: list[str], values: Any = junk) -> Any:
    """Some of these keywords, with junk."""
    return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=3)


@fuzzed(100)
@given(junk, one_of_each(["a", "data", "self"]))
def test_data(value, more):
    data = accepted(lambda: Data(value, **{key: each for key, each in more.items() if key != "self"}))
    if data is not None:
        text = data.to_json()
        json.loads(text, parse_constant=pytest.fail)
        assert Data.from_json(text) == data == Data(data.to_dict())
        accepted(lambda: data.check_size(10))


@fuzzed(250)
@given(st.sampled_from(fields(Settings)), junk, st.booleans())
def test_settings(field, value, is_upper):
    name = PREFIX + field.name
    settings = accepted(lambda: Settings.from_mapping({name.upper() if is_upper else name: value}))
    if settings is not None:
        assert accepted(lambda: Settings(**{field.name: getattr(settings, field.name)})) == settings
        repr(settings)
        Terms.of(settings)


@fuzzed(60)
@given(st.dictionaries(anything.map(lambda text: PREFIX + text) | scalars, scalars, max_size=3))
def test_settings_that_there_are_not(mapping):
    accepted(lambda: Settings.from_mapping(mapping))


_CONSTRAINTS = [name for name in Constraints.__slots__ if name != "NONE"]
_LABEL = st.text("ag=!<>in,. \t0189-/not", max_size=30)
_TARGET = st.builds(
    "{}://{}{}".format, st.sampled_from(["tcp", "http", "https", "file", ""]), anything | st.just("h:1"), anything
)
_PATH = st.text("/*?[]ab.%0-!", max_size=12).map(lambda text: "/" + text)
_CLOCK = st.sampled_from(["22:00", "06:00", "24:00", "06:00:00.5", "06:00+01:00", "6", ""]) | anything | times


@fuzzed(250)
@given(
    one_of_each(_CONSTRAINTS)
    | st.fixed_dictionaries(
        {},
        optional={
            "node_labels": st.lists(_LABEL, max_size=3), "reachable": st.lists(_TARGET, max_size=2),
            "content_uri_triggers": st.lists(_PATH | _PATH.map(lambda each: f"file://{each}"), max_size=2),
            "custom": st.lists(anything, max_size=2), "required_network_type": st.sampled_from(["METERED", "x"]),
        },
    )
)  # fmt: skip
def test_constraints(options):
    found = accepted(lambda: Constraints(**options))
    if found is not None:
        stored = json.loads(json.dumps(found.to_json()))
        # As it is stored: the delays of centuries lose microseconds on the way.
        assert Constraints.from_json(stored).to_json() == stored
        assert Constraints.known_of(stored)[1] == ()
        str(found)


@fuzzed(60)
@given(st.dictionaries(st.sampled_from(_CONSTRAINTS) | anything, junk, max_size=3))
def test_constraints_of_a_later_version(stored):
    known, unknown = Constraints.known_of(stored)
    assert set(unknown) <= set(stored)
    assert Constraints.from_json(known.to_json()).to_json() == known.to_json()


@fuzzed(150)
@given(_LABEL | junk)
def test_label_rules(text):
    rule = accepted(lambda: parse_label_rule(text))
    if rule is not None:
        assert parse_label_rule(str(rule)) == rule
        rule.is_met({rule.key: "1"})


@fuzzed(100)
@given(junk | st.dictionaries(st.sampled_from(["gpu", "a/b", "", "-"]) | anything, numbers | anything, max_size=2))
def test_labels_of_nodes(labels):
    checked = accepted(lambda: check_labels("labels", labels))
    if checked is not None:
        assert check_labels("labels", checked) == checked


@fuzzed(100)
@given(st.fixed_dictionaries({"start": _CLOCK, "end": _CLOCK}, optional={"timezone": junk, "days": junk}) | junk)
def test_time_windows(value):
    window = accepted(lambda: TimeWindow.of(value))
    if window is not None:
        assert TimeWindow.of(json.loads(json.dumps(window.to_json()))) == window
        assert window.contains(datetime(2030, 1, 1, tzinfo=UTC)) in (True, False)


_FIELD = (
    st.text("*/-,0123456789monsujaT ", min_size=1, max_size=8) | st.integers(-1, 70) | st.sampled_from(["*", "*/5"])
)
_ZONES = st.timezone_keys() | anything | st.sampled_from(["Europe", "..", "/etc/passwd", "../../etc/passwd", "UTC\x00"])


@fuzzed(150)
@given(st.tuples(_FIELD, _FIELD, _FIELD, _FIELD, _FIELD), _ZONES, st.integers(0, 2**52))
def test_crontabs(texts, zone, after):
    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    try:
        schedule = crontab(**dict(zip(names, texts, strict=True)))
    except (ParseException, ValueError, TypeError):
        return  # Celery's own refusal
    found, tz = accepted(lambda: read_schedule(schedule)), accepted(lambda: check_timezone(zone))
    if found is None or tz is None:
        return
    assert isinstance(found, Crontab)
    assert Crontab.from_json(json.loads(json.dumps(found.to_json()))) == found
    at = next_occurrence(found, tz, after)
    assert at is None or at > after


@fuzzed(100)
@given(st.tuples(*[st.lists(scalars, max_size=3).map(tuple)] * 5), junk)
def test_schedules_of_others(values, every):
    accepted(lambda: Crontab(*values))
    accepted(lambda: read_schedule(type("Schedule", (), {"run_every": every})()))


_ONE_TIME = [
    "id", "tags", "initial_delay", "backoff_policy", "backoff_delay", "input_merger", "expedited", "trace_tag", "queue",
    "keep_results_for_at_least", "priority", "time_limit", "soft_time_limit", "expires", "max_attempts", "constraints",
    "deadline", "concurrency", "rate", "call", "input_data",
]  # fmt: skip
_DURATIONS = numbers | st.timedeltas(min_value=timedelta(0)) | times


@fuzzed(300)
@given(
    anything | st.just("shop.bake"),
    one_of_each(_ONE_TIME)
    | st.fixed_dictionaries(
        {}, optional={name: _DURATIONS for name in _ONE_TIME if "d" in name or name in ("time_limit", "expires")}
    ),
)
def test_requests(worker, options):
    request = accepted(lambda: OneTimeWorkRequest(worker, **options))
    if request is None:
        return
    told = json.loads(json.dumps(request_to_json(request)))
    assert request_from_json(request.worker_name, told) == request
    row = accepted(lambda: new_row(request, "q", State.ENQUEUED, NOW, TERMS, waits_for=0, has_parents=False))
    assert row is not None
    assert all(-(2**63) <= value < 2**63 for value in row.values() if isinstance(value, int))
    repr(request)


_PERIODIC = [
    "repeat_interval", "flex_interval", "schedule", "timezone", "catch_up", "catch_up_limit", "fixed_rate", "start_at",
    "flex_every_period", "end_at", "keep_runs", "next_schedule_time_override", "clear_next_schedule_time_override",
    "deadline", "initial_delay",
]  # fmt: skip


@fuzzed(200)
@given(
    one_of_each(_PERIODIC)
    | st.fixed_dictionaries(
        {"repeat_interval": _DURATIONS},
        optional={
            "flex_interval": _DURATIONS, "start_at": times, "end_at": times, "next_schedule_time_override": times,
            "initial_delay": _DURATIONS, "deadline": _DURATIONS, "fixed_rate": st.booleans(),
        },
    )
)  # fmt: skip
def test_periodic_requests(options):
    request = accepted(lambda: PeriodicWorkRequest("shop.bake", **options))
    if request is None:
        return
    option = accepted(lambda: period_option(request, Limits.server()))
    if option is not None:
        assert Periodicity.of({"period": json.loads(json.dumps(option))}) is not None
        accepted(lambda: new_row(request, "q", State.ENQUEUED, NOW, TERMS, waits_for=0, has_parents=False))


@fuzzed(80)
@given(one_of_each(list(Limit.__slots__)), one_of_each(["key", "n", "per"]), st.dictionaries(anything, junk))
def test_limits(limit, rate, values):
    for kind, options in ((Limit, limit), (Rate, rate)):
        found = accepted(lambda kind=kind, options=options: kind.of({"key": "a{b}", "n": 1, **options}))  # type: ignore[misc]
        if found is not None:
            assert kind.of(json.loads(json.dumps(found.to_json()))) == found
            accepted(lambda found=found: key_for(found.key, values))  # type: ignore[misc]


@fuzzed(100)
@given(one_of_each([*WorkQuery.__slots__]))
def test_queries(options):
    found = accepted(lambda: WorkQuery(**options))
    assert found is None or found.limit is None or 0 < found.limit < 2**63


_URL = st.builds(
    "{}://{}{}@{}:{}/{}?{}={}".format,
    st.sampled_from(["postgresql", "mysql", "sqlite", "mariadb+pymysql", "oracle", "postgresql+asyncpg", "", "é"]),
    *[anything] * 7,
)


@fuzzed(120)
@given(_URL | anything)
def test_urls_of_stores(text):
    def opened() -> str:
        database = Database(Settings(store_url=text).store_url)
        return database.shown_url

    shown = accepted(opened)
    if shown is not None:
        Database(shown)


@fuzzed(100)
@given(junk | st.dictionaries(st.sampled_from(["charging", "labels", "load", "custom", "unknown", "network"]), junk))
def test_declared_readings(words):
    accepted(lambda: declared_facts("readings", words))


def written(value: Any) -> bytes:
    """A value as JSON, as far as Python can write it."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"{" * 5000


@fuzzed(80)
@given(st.binary() | jsons.map(written) | st.sampled_from([b"[" * 5000, b"9" * 5000]))
def test_files_of_readings(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz", numbered=True) / "readings.json"
    path.write_bytes(content)
    read = ReadingsFile(str(path))
    found = accepted(read)
    assert found is None or set(found) == {"words"}


@fuzzed(100)
@given(_PATH, st.booleans(), st.text("/ab.", max_size=12).map(lambda text: "/" + text))
def test_globs(pattern, is_deep, path):
    trigger = accepted(lambda: ContentUriTrigger(pattern, trigger_for_descendants=is_deep))
    if trigger is not None:
        target = Target.of(trigger)
        expected = path == target.base and not target.pattern
        if path != target.base and path.startswith(target.base.rstrip("/") + "/"):
            below = path[len(target.base.rstrip("/")) + 1 :].split("/")
            expected = fits(below, [*target.pattern], is_deep) if target.pattern else is_deep or len(below) == 1
        assert target.covers(path) is expected


def fits(parts: list[str], pattern: list[str], is_deep: bool) -> bool:
    """What a glob means, without a thought for the time it takes."""
    if not pattern:
        return is_deep or not parts
    if pattern[0] == "**":
        return any(fits(parts[at:], pattern[1:], is_deep) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:], is_deep)


def test_a_glob_of_nothing_but_stars_is_soon_decided():
    target = Target.of(ContentUriTrigger("/" + "**/" * 100 + "x"))
    assert not target.covers("/" + "a/" * 200 + "y")


@pytest.mark.parametrize("uri", ["file:///a%00b", "file:///%0a", "/a\x00", "file:///%ED%A0%80"])
def test_what_no_file_can_be_called_is_refused(uri):
    """It would fail in the thread that watches files for all works of a node."""
    found = accepted(lambda: ContentUriTrigger(uri))
    assert found is None or "\x00" not in Target.of(found).base


@fuzzed(60)
@given(anything | st.builds("{}:{}".format, st.sampled_from(["os", "json", "subprocess", "antigravity"]), anything))
def test_paths_of_mergers(path):
    import sys

    before = set(sys.modules)
    accepted(lambda: load_merger(path))
    assert set(sys.modules) == before


@fuzzed(60)
@given(st.dictionaries(st.sampled_from(["backoff_policy", "expedited", "input_merger", "expires", "deadline"]), junk))
def test_options_as_a_message_has_them(options):
    from celery_workmanager.wire import decoded

    with warnings.catch_warnings():
        accepted(lambda: OneTimeWorkRequest("shop.bake", **decoded(options)))


@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE], {"a": HUGE}], ids=["huge", "low", "listed", "mapped"])
def test_numbers_that_python_does_not_write_are_refused(value):
    for name in _ONE_TIME:
        accepted(lambda name=name: OneTimeWorkRequest("shop.bake", **{name: value}))  # type: ignore[misc]
    for name in _PERIODIC:
        accepted(lambda name=name: PeriodicWorkRequest("shop.bake", **{"repeat_interval": 9, name: value}))  # type: ignore[misc]
    for name in _CONSTRAINTS:
        accepted(lambda name=name: Constraints(**{name: value}))  # type: ignore[misc]
    for name in WorkQuery.__slots__:
        accepted(lambda name=name: WorkQuery(**{name: value}))  # type: ignore[misc]
    for field in fields(Settings):
        accepted(lambda field=field: Settings(**{field.name: value}))  # type: ignore[misc]
    accepted(lambda: Data(a=value))
    accepted(lambda: check_labels("labels", {"a": value}))
    accepted(lambda: declared_facts("readings", {"load": value, "labels": {"a": value}}))
    accepted(lambda: Rate("a", 1, value))
