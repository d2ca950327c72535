"""What must never be a payload: pickle. Whoever may write to a broker or a store could run code with it."""

from __future__ import annotations

from typing import Any

from kombu.serialization import registry, unpickle

from celery_workmanager.errors import ConfigurationError, InvalidRequest

__all__ = ("check_serializer", "check_task", "is_pickle")

_PICKLE = "application/x-python-serialize"
_EXPECTED = "one that carries JSON values ('json'): a durable call is stored as JSON and never pickled"


def is_pickle(kind: Any) -> bool:
    """Whether the name of a serializer or a content type means pickle, also one that was given it later."""
    if kind is None:
        return False
    content_type = registry.name_to_type.get(str(kind), str(kind))
    return content_type == _PICKLE or registry._decoders.get(content_type) is unpickle  # noqa: SLF001


def check_serializer(serializer: Any) -> None:
    """Raise InvalidRequest for the serializer of a call that means pickle; another says nothing to a store."""
    if is_pickle(serializer):
        raise InvalidRequest("serializer", _EXPECTED, serializer)


def check_task(name: Any, serializer: Any) -> None:
    """Raise ConfigurationError for a worker that asks for pickle."""
    if is_pickle(serializer):
        raise ConfigurationError(f"expected the serializer of worker {name!r} to be {_EXPECTED}, got: {serializer!r}")
