"""The settings: names, types, ranges, defaults, and the limits that a profile stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, Self

from celery_workmanager.checks import check_duration, check_text, check_whole
from celery_workmanager.errors import InvalidRequest, InvalidSetting, UnknownSetting

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
        )


_Check = Callable[[str, Any], Any]
_DAY = 86400.0


def _text(what: str, value: Any) -> str:
    return check_text(what, value, 2000)


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


def _dotted_path(what: str, value: Any) -> str:
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return value
    raise InvalidRequest(what, "a dotted path", value)


def _profile(what: str, value: Any) -> str:
    if value in ("server", "android"):
        return str(value)
    raise InvalidRequest(what, "'server' or 'android'", value)


def _setting(default: Any, check: _Check, doc: str) -> Any:
    return field(default=default, metadata={"check": check, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """All settings; in Celery's configuration each carries the prefix ``workmanager_``.

    Numbers are seconds where the text says so, and a ``timedelta`` does as well. ``dataclasses.fields`` gives
    each setting's text in ``metadata["doc"]``. Raises InvalidSetting.
    """

    store_url: str = _setting(
        "sqlite:///workmanager.sqlite3", _text, "The database that is the store, as an SQLAlchemy URL."
    )
    database: str = _setting(
        "default", _text, "In a Django project without a store URL: the alias of the database that is the store."
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
        1.0, _seconds(0.001, 3600), "Seconds between two looks at the store when nothing rings."
    )
    name_wait: float = _setting(
        5.0, _seconds(0, 3600), "Seconds to wait for a unique name that another transaction holds."
    )
    max_interruptions: int = _setting(
        10, _whole(1, 1_000_000), "How often a work may lose its process before it fails for good."
    )
    keep_runs: int = _setting(20, _whole(0, 100_000), "How many past runs of a periodic work are kept.")
    retention: float = _setting(_DAY, _seconds(0, 36500 * _DAY), "Seconds for which a finished work is kept.")
    prune_interval: float = _setting(
        60.0, _seconds(0.001, _DAY), "Seconds between two rounds of deleting what retention gives up."
    )
    stop_grace: float = _setting(
        10.0, _seconds(0, _DAY), "Seconds that a stopped run has before its process is terminated."
    )
    max_in_flight: int = _setting(
        128, _whole(1, 100_000), "How many works a node may own at once, running or handed over."
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


def _checked(name: str, check: _Check, value: Any) -> Any:
    try:
        return check(name, value)
    except InvalidRequest as error:
        raise InvalidSetting(name, error.expected, value) from None
