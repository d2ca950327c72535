"""What a work asks of the node that runs it (WorkManager semantics: Constraints, and more)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote, urlsplit

from celery_workmanager.checks import Duration, check_duration, check_text
from celery_workmanager.errors import InvalidRequest
from celery_workmanager.node_labels import parse_label_rule
from celery_workmanager.policies import NetworkType
from celery_workmanager.time_windows import TimeWindow

__all__ = ("Constraints", "ContentUriTrigger", "check_custom", "check_target", "key_of")

LONGEST_TARGET = 500
_CUSTOM = re.compile(r"[A-Za-z_][\w.-]*(:.+)?", re.ASCII)
_SCHEMES = ("tcp", "http", "https")

_T = TypeVar("_T")
_set = object.__setattr__


@dataclass(frozen=True, slots=True)
class ContentUriTrigger:
    """Files whose change starts a work: a path, a glob, or a ``file://`` URI, on the node (WorkManager, Constraints).

    `trigger_for_descendants`: everything below a folder counts too. Raises InvalidRequest.
    """

    uri: str
    trigger_for_descendants: bool = False

    def __post_init__(self) -> None:
        uri = check_text("content trigger's uri", self.uri, LONGEST_TARGET)
        if not uri.startswith(("/", "file:///")):
            raise InvalidRequest("content trigger's uri", "an absolute path, a glob or a file:// URI", self.uri)
        # What a URI hides behind its escapes is a path as well.
        check_text("content trigger's path", unquote(uri), LONGEST_TARGET)
        _check_bool("trigger_for_descendants", self.trigger_for_descendants)

    @classmethod
    def of(cls, value: Any) -> ContentUriTrigger:
        """Return `value` when it is one, or the one of a text or of a mapping of its parts. Raises InvalidRequest."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or not {"uri"} <= set(value) <= set(cls.__slots__):
            raise InvalidRequest("content trigger", "a ContentUriTrigger", value)
        return cls(**value)

    def to_json(self) -> str | dict[str, Any]:
        """Return it in JSON types."""
        return {"uri": self.uri, "trigger_for_descendants": True} if self.trigger_for_descendants else self.uri


@dataclass(frozen=True, slots=True, init=False)
class Constraints:
    """All of what it says must hold while a work is started and runs. Equal ones have equal fields, in any order.

    Raises InvalidRequest.
    """

    NONE: ClassVar[Constraints]

    required_network_type: NetworkType
    requires_charging: bool
    requires_battery_not_low: bool
    #: Nothing else to do for the node.
    requires_device_idle: bool
    requires_storage_not_low: bool
    #: Files whose change starts it.
    content_uri_triggers: tuple[ContentUriTrigger, ...]
    #: How long nothing must have changed before it starts; None: 10 s.
    trigger_content_update_delay: timedelta | None
    #: How long after the first change it starts at the latest; None: 2 minutes.
    trigger_content_max_delay: timedelta | None
    requires_memory_not_low: bool
    #: Comparisons with the labels of the node: ``gpu=a100``, ``region in eu,us``, ``zone!=b``, ``cpus>=8``, ``!gpu``.
    node_labels: tuple[str, ...]
    #: Hours of which it must be in one.
    time_windows: tuple[TimeWindow, ...]
    #: What must be reachable from the node: ``tcp://host:port``, ``http://…``, ``https://…``.
    reachable: tuple[str, ...]
    #: Constraints of one's own: a name, or ``name:argument``.
    custom: tuple[str, ...]

    def __init__(  # noqa: PLR0913  # it has as many as there are constraints
        self,
        *,
        required_network_type: NetworkType = NetworkType.NOT_REQUIRED,
        requires_charging: bool = False,
        requires_battery_not_low: bool = False,
        requires_device_idle: bool = False,
        requires_storage_not_low: bool = False,
        content_uri_triggers: Iterable[ContentUriTrigger | str] = (),
        trigger_content_update_delay: Duration | None = None,
        trigger_content_max_delay: Duration | None = None,
        requires_memory_not_low: bool = False,
        node_labels: Iterable[str] = (),
        time_windows: Iterable[TimeWindow] = (),
        reachable: Iterable[str] = (),
        custom: Iterable[str] = (),
    ) -> None:
        given = locals()  # what each is called is what its check and its field are called
        for name, check in _CHECKS.items():
            _set(self, name, check(name, given[name]))

    def __bool__(self) -> bool:
        return self is not Constraints.NONE and self != Constraints.NONE

    def __str__(self) -> str:
        return ", ".join(word for name in _CHECKS for word in _words(name, getattr(self, name)))

    @property
    def key(self) -> str:
        """What nodes judge, as text: equal for works that may run on the same nodes; ``""`` for no demand.

        Content triggers aren't judged, and are no part of it.
        """
        return key_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the default, in JSON types; durations in seconds."""
        given = ((name, getattr(self, name)) for name in _CHECKS)
        return {name: _jsonable(value) for name, value in given if value != getattr(Constraints.NONE, name)}

    __json__ = to_json  # for kombu, which writes the options of signatures

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Constraints:
        """Return those that ``to_json`` or ``key`` wrote. Raises InvalidRequest for a name that is none of theirs."""
        if unknown := [name for name in values if name not in _CHECKS]:
            raise InvalidRequest("constraints", f"some of {', '.join(_CHECKS)}", unknown)
        return cls(**values)

    @classmethod
    def known_of(cls, values: Mapping[str, Any]) -> tuple[Constraints, tuple[str, ...]]:
        """Those of what ``to_json`` wrote that this version knows, and the names of the others: a later one's."""
        known, unknown = {}, []
        for name, value in values.items():
            try:
                known[name] = _CHECKS[name](name, value)
            except (KeyError, InvalidRequest):
                unknown.append(name)
        return cls(**known), tuple(sorted(unknown))

    @classmethod
    def of(cls, value: Any) -> Constraints:
        """Return `value` when it is such, or those that a mapping (``to_json``) says. Raises InvalidRequest."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequest("constraints", "Constraints", value)
        return cls.from_json(value)


def key_of(values: Mapping[str, Any]) -> str:
    """The `Constraints.key` of what ``to_json`` wrote, also of a later version's."""
    judged = {name: value for name, value in values.items() if name not in _OF_TRIGGERS}
    return json.dumps(judged, separators=(",", ":"), sort_keys=True) if judged else ""


def check_target(what: str, target: Any) -> str:
    """Return the address of a probe, ``tcp://host:port`` or a URL. Raises InvalidRequest."""
    text = check_text(what, target, LONGEST_TARGET)
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in _SCHEMES and bool(parts.hostname)
        is_whole = is_whole and (parts.port is not None or parts.scheme != "tcp")
        # It is shown to whoever looks at the work.
        is_whole = is_whole and parts.password is None
    except ValueError:
        is_whole = False
    if not is_whole or (parts.scheme == "tcp" and (parts.path or parts.query)):
        raise InvalidRequest(what, "'tcp://host:port', 'http://…' or 'https://…', without a password", target)
    return text


def check_custom(what: str, name: Any) -> str:
    """Return the name of a custom constraint, with or without ``:argument``. Raises InvalidRequest."""
    text = check_text(what, name)
    if not _CUSTOM.fullmatch(text):
        raise InvalidRequest(what, "a name of letters, digits, '_', '.' and '-', or 'name:argument'", name)
    return text


def _network(what: str, value: Any) -> NetworkType:
    if isinstance(value, str) and value in NetworkType.__members__:
        return NetworkType[value]
    if isinstance(value, NetworkType):
        return value
    raise InvalidRequest(what, "a NetworkType", value)


def _check_bool(what: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidRequest(what, "a bool", value)


def _delay(what: str, value: Any) -> timedelta | None:
    return None if value is None else check_duration(what, value)


def _several(check: Callable[[Any], _T]) -> Callable[[str, Any], tuple[_T, ...]]:
    """Check each; the order is of no account, and nothing counts twice."""

    def check_all(what: str, values: Any) -> tuple[_T, ...]:
        if values == ():
            return ()
        if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
            raise InvalidRequest(what, "a collection", values)
        return tuple(sorted({check(value) for value in values}, key=str))

    return check_all


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "required_network_type": _network,
    "requires_charging": _check_bool,
    "requires_battery_not_low": _check_bool,
    "requires_device_idle": _check_bool,
    "requires_storage_not_low": _check_bool,
    "content_uri_triggers": _several(ContentUriTrigger.of),
    "trigger_content_update_delay": _delay,
    "trigger_content_max_delay": _delay,
    "requires_memory_not_low": _check_bool,
    "node_labels": _several(lambda text: str(parse_label_rule(text))),
    "time_windows": _several(TimeWindow.of),
    "reachable": _several(lambda text: check_target("reachable", text)),
    "custom": _several(lambda name: check_custom("custom", name)),
}
_PREFIXES = {"content_uri_triggers": "changes of ", "reachable": "an answer from ", "custom": "custom "}
_OF_TRIGGERS = {"content_uri_triggers", "trigger_content_update_delay", "trigger_content_max_delay"}


def _words(name: str, value: Any) -> list[str]:
    """What a field asks for, in words; nothing for its default."""
    if value is True:
        return [name.removeprefix("requires_").replace("_", " ")]
    if isinstance(value, tuple):
        prefix = _PREFIXES.get(name, "")
        return [f"{prefix}{getattr(each, 'uri', each)}" for each in value]
    if isinstance(value, NetworkType):
        return [f"network {value.name.lower().replace('_', ' ')}"] if value else []
    return []


def _jsonable(value: Any) -> Any:
    if isinstance(value, NetworkType):
        return value.name
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return [each if isinstance(each, str) else each.to_json() for each in value]
    return value


Constraints.NONE = Constraints()
