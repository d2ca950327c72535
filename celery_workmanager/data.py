"""Data: the immutable JSON object that goes into a work, comes out of it, and tells its progress."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast, overload

from celery_workmanager.errors import DataNotStorable, DataTooLarge, InvalidRequest, Unshown
from celery_workmanager.jsontypes import JSON

#: Containers may stand this deep in one another; what goes deeper is usually a circle.
MAX_DEPTH = 100
#: Python refuses to write much larger numbers as text.
MAX_INT_BITS = 4096

_D = TypeVar("_D")
_CONTAINERS = (list, dict)
# How the subclasses of these (enumerations, for example) lose what they add.
_BARE: tuple[tuple[type, Any], ...] = ((str, str.__str__), (int, int.__int__), (float, float.__float__))
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode
_encode_unescaped = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class Data(Mapping[str, JSON]):
    """An immutable mapping of JSON values (WorkManager semantics: Data).

    Values are None, bool, int, finite float, str, and lists and str-keyed mappings of these; pydantic models
    are dumped. Anything else raises DataNotStorable, which names the place. Lists and mappings come out as
    copies.
    """

    __slots__ = ("_hash", "_text", "_values")

    #: No data at all.
    EMPTY: ClassVar[Data]

    _values: dict[str, Any] | None
    _text: str | None
    _hash: int | None

    def __init__(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        self._values = _storable("data", mapping, values)
        self._text = None
        self._hash = None

    @classmethod
    def of(cls, value: Mapping[str, Any] | None, what: str = "data", /, **values: Any) -> Data:
        """Return ``value`` as Data (itself, if it is); ``what`` is its name in errors."""
        if type(value) is Data and not values:
            return value
        plain = _storable(what, value, values)
        return _made(plain, None) if plain else cls.EMPTY

    @classmethod
    def from_json(cls, text: str) -> Data:
        """Return the Data that ``to_json`` wrote; the text is trusted, and parsed when it is looked into."""
        if text == "{}":
            return cls.EMPTY
        if not text.isascii():  # written by somebody else
            return cls(_parse(text))
        return _made(None, text)

    def to_json(self) -> str:
        """Return compact JSON in ASCII, so that no database can refuse a character."""
        if self._text is None:
            self._text = _encode(self._values)
        return self._text

    @property
    def size(self) -> int:
        """Bytes of the compact JSON in UTF-8 (unescaped)."""
        return len(_encode_unescaped(self._plain()).encode())

    def check_size(self, limit: int, what: str = "data") -> None:
        """Raise DataTooLarge when the size is above ``limit`` bytes."""
        # Escaped text is never shorter than the same text unescaped.
        if len(self.to_json()) > limit and (size := self.size) > limit:
            raise DataTooLarge(what, size, limit)

    def _plain(self) -> dict[str, Any]:
        if self._values is None:
            self._values = _parse(cast("str", self._text))
        return self._values

    # The mapping

    def __getitem__(self, key: str) -> JSON:
        value: JSON = _copied(self._plain()[key])
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain())

    def __len__(self) -> int:
        return len(self._plain())

    def __contains__(self, key: object) -> bool:
        return key in self._plain()

    def to_dict(self) -> dict[str, JSON]:
        """Return a plain dict that shares nothing with this object."""
        return {key: _copied(value) for key, value in self._plain().items()}

    def merged(self, other: Mapping[str, Any] | None = None, /, **values: Any) -> Data:
        """Return new Data in which the given values replace those of the same key."""
        return Data.of({**self._plain(), **(other or {}), **values})

    def __or__(self, other: Mapping[str, Any]) -> Data:
        return Data.of({**self._plain(), **other})

    def __ror__(self, other: Mapping[str, Any]) -> Data:
        return Data.of(other).merged(self)

    def __eq__(self, other: object) -> bool:
        """Equal keys, and values equal by type and value: 1, 1.0 and True all differ."""
        if self is other:
            return True
        if not isinstance(other, Data):
            if not isinstance(other, Mapping):
                return NotImplemented
            try:
                other = Data(other)
            except InvalidRequest:
                return NotImplemented
        if self._text is not None and self._text == other._text:
            return True
        return _same(self._plain(), other._plain())

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset((key, *_hashable(value)) for key, value in self._plain().items()))
        return self._hash

    def __repr__(self) -> str:
        return f"Data({self._plain()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Data.from_json, (self.to_json(),)

    # Typed getters: the default when the key is absent or its value of another type; nothing is converted

    @overload
    def get_bool(self, key: str) -> bool | None: ...
    @overload
    def get_bool(self, key: str, default: _D) -> bool | _D: ...
    def get_bool(self, key: str, default: Any = None) -> Any:
        """Return the bool, or ``default``."""
        return self._typed(key, bool, default)

    @overload
    def get_int(self, key: str) -> int | None: ...
    @overload
    def get_int(self, key: str, default: _D) -> int | _D: ...
    def get_int(self, key: str, default: Any = None) -> Any:
        """Return the int (a bool is none), or ``default``."""
        return self._typed(key, int, default)

    @overload
    def get_float(self, key: str) -> float | None: ...
    @overload
    def get_float(self, key: str, default: _D) -> float | _D: ...
    def get_float(self, key: str, default: Any = None) -> Any:
        """Return the float (an int is none), or ``default``."""
        return self._typed(key, float, default)

    @overload
    def get_string(self, key: str) -> str | None: ...
    @overload
    def get_string(self, key: str, default: _D) -> str | _D: ...
    def get_string(self, key: str, default: Any = None) -> Any:
        """Return the str, or ``default``."""
        return self._typed(key, str, default)

    def get_bool_array(self, key: str) -> list[bool] | None:
        """Return the list when all its elements are bools, or None."""
        return self._array(key, (bool,))

    def get_int_array(self, key: str) -> list[int] | None:
        """Return the list when all its elements are ints (not bools), or None."""
        return self._array(key, (int,))

    def get_float_array(self, key: str) -> list[float] | None:
        """Return the list when all its elements are floats (not ints), or None."""
        return self._array(key, (float,))

    def get_string_array(self, key: str) -> list[str] | None:
        """Return the list when all its elements are strs, or None."""
        return self._array(key, (str,))

    def get_nullable_string_array(self, key: str) -> list[str | None] | None:
        """Return the list when all its elements are strs or None, or None."""
        return self._array(key, (str, type(None)))

    def has_key_with_value_of_type(self, key: str, kind: type) -> bool:
        """Tell whether a value of that type (bool, int, float, str, list, dict) and not None is there."""
        value = self._plain().get(key)
        return value is not None and type(value) is kind

    def _typed(self, key: str, kind: type, default: Any) -> Any:
        value = self._plain().get(key)
        return value if type(value) is kind else default

    def _array(self, key: str, kinds: tuple[type, ...]) -> list[Any] | None:
        value = self._plain().get(key)
        return list(value) if type(value) is list and all(type(item) in kinds for item in value) else None


def _made(values: dict[str, Any] | None, text: str | None) -> Data:
    """Return Data of checked values, or of their text."""
    data = Data.__new__(Data)
    data._values, data._text, data._hash = values, text, None  # noqa: SLF001  # a constructor without checks
    return data


class _Refused(Exception):
    """A value that isn't JSON; the callers on the way up note where they stood."""

    def __init__(self, value: object, why: str = "") -> None:
        self.value, self.why = value, why
        self.trail: list[str | int] = []


def _storable(what: str, mapping: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return a private deep copy in plain JSON types."""
    if mapping is not None and not isinstance(mapping, Mapping):
        mapping = _dumped(mapping)
        if not isinstance(mapping, Mapping):
            raise InvalidRequest(what, "a mapping with str keys", Unshown(mapping))
    if values:
        mapping = {**(mapping or {}), **values}
    try:
        return _plain_mapping(mapping, 1) if mapping else {}
    except _Refused as refused:
        path = what + "".join(f"[{step!r}]" for step in reversed(refused.trail))
        raise DataNotStorable(path, refused.value, refused.why) from None


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _encodable(value)
    if kind is bool or value is None:
        return value
    if kind is int:
        if value.bit_length() > MAX_INT_BITS:
            raise _Refused(value, f"of more than {MAX_INT_BITS} bits")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _Refused(value, str(value))
        return value
    return _plain_other(value, depth)


def _plain_other(value: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        raise _Refused(value, f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        return _plain_mapping(value, depth + 1)
    if isinstance(value, (list, tuple)):
        return _plain_list(value, depth + 1)
    for kind, bare in _BARE:
        if isinstance(value, kind):
            return _plain(bare(value), depth)
    dumped = _dumped(value)
    if dumped is value:
        raise _Refused(value)
    return _plain(dumped, depth + 1)


def _dumped(value: Any) -> Any:
    """Return what a pydantic model dumps; any other value as it is."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) and not isinstance(value, type) else value


def _plain_mapping(mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain = {}
    for key, value in mapping.items():
        try:
            plain[_key(key)] = _plain(value, depth)
        except _Refused as refused:
            refused.trail.append(key)
            raise
    return plain


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise _Refused(key, "as a key")
    return _encodable(str.__str__(key))


def _plain_list(items: Iterable[Any], depth: int) -> list[Any]:
    plain = []
    for index, item in enumerate(items):
        try:
            plain.append(_plain(item, depth))
        except _Refused as refused:
            refused.trail.append(index)
            raise
    return plain


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused(text, "with a lone surrogate") from None
    return text


def _parse(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if type(values) is not dict:
        raise InvalidRequest("the JSON of Data", "an object", Unshown(text))
    return values


def _copied(value: Any) -> Any:
    if type(value) not in _CONTAINERS:
        return value
    if type(value) is list:
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()}


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _hashable(value: Any) -> tuple[Any, ...]:
    return (type(value), len(value)) if type(value) in _CONTAINERS else (type(value), value)


Data.EMPTY = Data()
