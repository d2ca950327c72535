"""The settings: names, types, ranges, defaults, and the limits that a profile stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, Self

from celery_workmanager.checks import check_duration, check_text, check_whole
from celery_workmanager.constraints import check_custom, check_target
from celery_workmanager.declared import declared_facts
from celery_workmanager.errors import InvalidRequest, InvalidSetting, UnknownSetting, Unshown
from celery_workmanager.limits import Rate
from celery_workmanager.node_labels import check_labels
from celery_workmanager.thresholds import Thresholds
from celery_workmanager.time_windows import TimeWindow

PREFIX = "workmanager_"

_MIB = 1024 * 1024
_LONGEST_BACKOFF = timedelta(hours=5)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and ways of counting in which a server and Android differ."""

    #: Bytes of input, output, progress and merged input of a work.
    data_max_bytes: int
    #: Bytes of a task call's arguments and of its return value.
    call_max_bytes: int
    min_backoff: timedelta
    max_backoff: timedelta
    #: The shortest interval of periodic work; shorter ones are raised to it.
    min_period: timedelta
    #: The shortest flex interval.
    min_flex: timedelta
    #: Whether a flex that is longer than the interval is cut (or refused).
    cuts_flex: bool
    #: Whether a stop by the system (shutdown, lost constraint) counts as an attempt.
    counts_system_stops: bool
    #: Whether results are kept from the enqueue (or from the finish).
    prune_from_enqueue: bool
    #: Unfinished works with content triggers that there may be; None: any number.
    content_trigger_works: int | None
    #: The shortest delays of content triggers: after the last change, and after the first.
    min_trigger_update_delay: timedelta
    min_trigger_max_delay: timedelta

    @classmethod
    def server(cls) -> Limits:
        """Limits for servers."""
        return cls(
            data_max_bytes=64 * 1024,
            call_max_bytes=8 * _MIB,
            min_backoff=timedelta(seconds=1),
            max_backoff=_LONGEST_BACKOFF,
            min_period=timedelta(seconds=1),
            min_flex=timedelta(0),
            cuts_flex=False,
            counts_system_stops=False,
            prune_from_enqueue=False,
            content_trigger_works=None,
            min_trigger_update_delay=timedelta(0),
            min_trigger_max_delay=timedelta(0),
        )

    @classmethod
    def android(cls) -> Limits:
        """Android's own limits."""
        return cls(
            data_max_bytes=10 * 1024,
            call_max_bytes=8 * _MIB,
            min_backoff=timedelta(seconds=10),
            max_backoff=_LONGEST_BACKOFF,
            min_period=timedelta(minutes=15),
            min_flex=timedelta(minutes=5),
            cuts_flex=True,
            counts_system_stops=True,
            prune_from_enqueue=True,
            content_trigger_works=8,
            min_trigger_update_delay=timedelta(milliseconds=500),
            min_trigger_max_delay=timedelta(seconds=1),
        )


_Check = Callable[[str, Any], Any]
_DAY = 86400.0


def _text(what: str, value: Any) -> str:
    return check_text(what, value, 2000)


def _secret_text(what: str, value: Any) -> str:
    return _text(what, value)


def _seconds(low: float, high: float) -> _Check:
    def check(what: str, value: Any) -> float:
        seconds = check_duration(what, value).total_seconds()
        if not low <= seconds <= high:
            raise InvalidRequest(what, f"{low:g} to {high:g} seconds", value)
        return seconds

    return check


def _whole(low: int, high: int) -> _Check:
    return lambda what, value: check_whole(what, value, low, high)


def _optional(check: _Check) -> _Check:
    return lambda what, value: None if value is None else check(what, value)


def _part(high: float) -> _Check:
    def check(what: str, value: Any) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= high:
            return float(value)
        raise InvalidRequest(what, f"a number from 0 to {high:g}", value)

    return check


def _several(check: Callable[[str, Any], Any], expected: str) -> _Check:
    def check_all(what: str, values: Any) -> tuple[Any, ...]:
        if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
            raise InvalidRequest(what, expected, values)
        return tuple(check(what, value) for value in values)

    return check_all


_names = _several(_text, "a collection of names")


def _yes_or_no(what: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidRequest(what, "a bool", value)


def _bool_or_names(what: str, value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    names: tuple[str, ...] = _several(_text, "a bool, or names of network interfaces")(what, value)
    return names


def _words(what: str, value: Any) -> dict[str, Any]:
    declared_facts(what, value)
    return dict(value)


def _custom_constraints(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(what, "a mapping of names to classes, or their paths as 'module:Class'", value)
    for name, kind in value.items():
        check_custom(what, name)
        if not isinstance(kind, type) and not (isinstance(kind, str) and kind.count(":") == 1):
            raise InvalidRequest(f"{what} {name!r}", "a class or its path, 'module:Class'", kind)
    return dict(value)


def _dotted_path(what: str, value: Any) -> str:
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return value
    raise InvalidRequest(what, "a dotted path", value)


def _profile(what: str, value: Any) -> str:
    if value in ("server", "android"):
        return str(value)
    raise InvalidRequest(what, "'server' or 'android'", value)


#: So that the key of its limit fits.
_LONGEST_QUOTA_TAG = 200


def _quota(what: str, value: Any) -> Mapping[str, tuple[int, timedelta]]:
    expected = "a mapping of '' or 'tag:…' to (number, duration)"
    if not isinstance(value, Mapping):
        raise InvalidRequest(what, expected, value)
    found: dict[str, tuple[int, timedelta]] = {}
    for name, share in value.items():
        is_tag = isinstance(name, str) and name.startswith("tag:") and 0 < len(name[4:]) <= _LONGEST_QUOTA_TAG
        if not (name == "" or is_tag) or not isinstance(share, (tuple, list)) or len(share) != 2:  # noqa: PLR2004
            raise InvalidRequest(what, expected, {name: share})
        rate = Rate("quota", *share)
        found[name] = (rate.n, rate.per)
    return found


def _setting(default: Any, check: _Check, doc: str, *, is_secret: bool = False) -> Any:
    return field(default=default, repr=not is_secret, metadata={"check": check, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """All settings; in Celery's configuration each carries the prefix ``workmanager_``.

    Numbers are seconds where the text says so, and a ``timedelta`` does as well. ``dataclasses.fields`` gives
    each setting's text in ``metadata["doc"]``. Raises InvalidSetting.
    """

    store_url: str = _setting(
        "sqlite:///workmanager.sqlite3",
        _secret_text,
        "The database that is the store, as an SQLAlchemy URL.",
        is_secret=True,
    )
    database: str = _setting(
        "default", _text, "In a Django project without a store URL: the alias of the database that is the store."
    )
    transaction_pooling: bool = _setting(
        False,
        _yes_or_no,
        "Whether a pooler lends out connections to the PostgreSQL store by the transaction; False: it is found out.",
    )
    profile: Literal["server", "android"] = _setting(
        "server", _profile, "The set of limits: 'server', or 'android' for Android's own."
    )
    lease: float = _setting(
        15.0,
        _seconds(0.1, _DAY),
        "Seconds without a sign of life after which a node's works are run elsewhere.",
    )
    poll_interval: float = _setting(
        1.0,
        _seconds(0.001, 3600),
        "Seconds between two looks at the store when nothing rings; up to five times that where rings are heard.",
    )
    name_wait: float = _setting(
        5.0, _seconds(0, 3600), "Seconds to wait for a unique name that another transaction holds."
    )
    max_interruptions: int = _setting(
        10, _whole(1, 1_000_000), "How often a work may lose its process before it fails for good."
    )
    keep_runs: int = _setting(20, _whole(0, 100_000), "How many past runs of a periodic work are kept.")
    keep_stops: int = _setting(20, _whole(0, 100_000), "How many stops of a work's runs are kept.")
    retention: float = _setting(_DAY, _seconds(0, 36500 * _DAY), "Seconds for which a finished work is kept.")
    prune_interval: float = _setting(
        60.0, _seconds(0.001, _DAY), "Seconds between two rounds of deleting what retention gives up."
    )
    stop_grace: float = _setting(
        10.0, _seconds(0, _DAY), "Seconds that a stopped run has before its process is terminated."
    )
    max_in_flight: int = _setting(
        256, _whole(1, 100_000), "How many works a node may own at once, running or handed over."
    )
    foreground_wait: float = _setting(
        0.0, _seconds(0, 30 * _DAY), "Seconds that a cold shutdown waits for runs in the foreground."
    )
    foreground_timeout: float | None = _setting(
        None,
        _optional(_seconds(0.001, 365 * _DAY)),
        "Seconds after which a run in the foreground is stopped; None: it may last any time.",
    )
    expedited_quota: Mapping[str, tuple[int, timedelta]] | None = _setting(
        None,
        _optional(_quota),
        "How many expedited works may start in which time, by '' (all) or 'tag:…'; each as (number, duration).",
    )
    data_max_bytes: int | None = _setting(
        None,
        _optional(_whole(2, 1024 * _MIB)),
        "Bytes of a work's input, output or progress; None: the profile's.",
    )
    call_max_bytes: int | None = _setting(
        None,
        _optional(_whole(2, 1024 * _MIB)),
        "Bytes of a task call's arguments or result; None: the profile's.",
    )
    sensor_interval: float = _setting(1.0, _seconds(0.01, 3600), "Seconds between two readings of the node.")
    sensor_timeout: float = _setting(
        5.0, _seconds(0.01, 3600), "Seconds after which what a sensor reads is unknown when it doesn't answer."
    )
    battery_low_percent: float = _setting(15.0, _part(100), "Percent at which and below which the battery is low.")
    storage_paths: tuple[str, ...] = _setting((".",), _names, "Folders whose file systems must not run full.")
    storage_low_percent: float = _setting(5.0, _part(100), "Percent of free storage below which it is low.")
    storage_low_bytes: int = _setting(0, _whole(0, 2**63), "Bytes of free storage below which it is low; 0: any.")
    memory_low_percent: float = _setting(10.0, _part(100), "Percent of available memory below which it is low.")
    idle_load: float = _setting(0.3, _part(1), "Part of the CPUs that others must use less of for the node to be idle.")
    idle_hours: tuple[TimeWindow, ...] = _setting(
        (),
        _several(lambda _, value: TimeWindow.of(value), "a collection of TimeWindow"),
        "Hours outside of which the node is not idle; none: it may be at any time.",
    )
    threshold_hysteresis: float = _setting(
        0.2, _part(10), "By which part of itself a mark must be passed before what was low is so no more."
    )
    network_interfaces: tuple[str, ...] = _setting(
        (), _names, "Network interfaces that count; none: the one with the default route."
    )
    network_metered: bool | tuple[str, ...] = _setting(
        False, _bool_or_names, "Whether the network is metered, or the names of the interfaces that are."
    )
    network_roaming: bool | tuple[str, ...] = _setting(
        False, _bool_or_names, "Whether the network is roaming, or the names of the interfaces that are."
    )
    network_probe: str | None = _setting(
        None, _optional(check_target), "What must answer for a connection to be validated; None: every one is."
    )
    probe_hosts: tuple[str, ...] | None = _setting(
        None, _optional(_names), "Hosts that works may have this node probe (`reachable`); None: any."
    )
    probe_interval: float = _setting(10.0, _seconds(0.01, 3600), "Seconds between two probes of the same address.")
    probe_timeout: float = _setting(2.0, _seconds(0.01, 600), "Seconds that a probe waits for an answer.")
    node_labels: Mapping[str, str] | None = _setting(None, _optional(check_labels), "Labels of this node.")
    custom_constraints: Mapping[str, Any] | None = _setting(
        None, _optional(_custom_constraints), "Custom constraints by name: classes, or their paths as 'module:Class'."
    )
    node_readings: Mapping[str, Any] | None = _setting(
        None, _optional(_words), "What this node is to read, whatever its sensors say."
    )
    readings_file: str | None = _setting(
        None, _optional(_text), "A JSON file of such readings, read again when it changes."
    )

    page_access: str | None = _setting(
        None,
        _optional(_dotted_path),
        "Dotted path of the function(request, work_info) that says who may see a work on a Django page; None: nobody.",
    )

    def __post_init__(self) -> None:
        for known in fields(self):
            value = _checked(PREFIX + known.name, known.metadata["check"], getattr(self, known.name))
            object.__setattr__(self, known.name, value)

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], prefix: str = PREFIX) -> Self:
        """Return the settings among ``mapping``: the keys with the prefix, in either case."""
        known = {f"{prefix}{one.name}".lower(): one for one in fields(cls)}
        given: dict[str, Any] = {}
        for key, value in mapping.items():
            if not isinstance(key, str) or not key.lower().startswith(prefix.lower()):
                continue
            if (setting := known.get(key.lower())) is None:
                raise UnknownSetting(key, map(str.upper, known) if key.isupper() else known)
            given[setting.name] = _checked(key, setting.metadata["check"], value)
        return cls(**given)

    @cached_property
    def limits(self) -> Limits:
        """The profile's limits, with those that are set by themselves."""
        base = Limits.android() if self.profile == "android" else Limits.server()
        return replace(
            base,
            data_max_bytes=self.data_max_bytes or base.data_max_bytes,
            call_max_bytes=self.call_max_bytes or base.call_max_bytes,
        )

    @cached_property
    def thresholds(self) -> Thresholds:
        """The marks at which readings are low."""
        return Thresholds(
            self.battery_low_percent,
            self.storage_low_percent,
            self.storage_low_bytes,
            self.memory_low_percent,
            self.idle_load,
            self.threshold_hysteresis,
        )


def _checked(name: str, check: _Check, value: Any) -> Any:
    try:
        return check(name, value)
    except InvalidRequest as error:
        raise InvalidSetting(name, error.expected, Unshown(value) if check is _secret_text else value) from None
