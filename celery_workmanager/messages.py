"""Broker messages as task calls: of protocol 1 and 2, from whatever language, and never pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.utils.functional import maybe_list
from kombu.exceptions import ContentDisallowed

from celery_workmanager.payloads import is_pickle

__all__ = ("RELEASED", "MessageCall", "call_in", "id_in")

#: The header of a message that stands for a work on its way out (`leaving`).
RELEASED = "workmanager_released"

#: What protocol 2 says in headers; any other header is the caller's own (as in Celery's ``Context``).
_PROTOCOL = frozenset(Context.__dict__) | {"lang", "task", "argsrepr", "kwargsrepr", "compression", "meth", RELEASED}
#: What brokers write into a message that was dead-lettered or delivered again.
_BROKERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")
#: Headers that are options of ``apply_async``, under its names.
_HEADERS = {
    "id": "task_id",
    "eta": "eta",
    "expires": "expires",
    "group": "group_id",
    "group_index": "group_index",
    "root_id": "root_id",
    "parent_id": "parent_id",
    "shadow": "shadow",
    "reply_to": "reply_to",
    "ignore_result": "ignore_result",
    "replaced_task_nesting": "replaced_task_nesting",
    "stamped_headers": "stamped_headers",
}
#: The third part of a body of protocol 2, under the names of ``apply_async``.
_EMBEDDED = {"callbacks": "link", "errbacks": "link_error", "chain": "chain", "chord": "chord"}


@dataclass(frozen=True, slots=True)
class MessageCall:
    """The call a message asks for; ``options`` are those of ``apply_async``, without what is empty."""

    id: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    #: How often it has been tried before, as an ordinary task.
    retries: int = 0
    #: It was a work, and is on its way out of the store.
    released: bool = False


def id_in(message: Any, body: Any) -> Any:
    """The task id a message names, whatever is wrong with the rest; ``None`` without one."""
    for part in (message.headers, body):
        if isinstance(part, Mapping) and part.get("id"):
            return part["id"]
    return None


def call_in(message: Any, body: Any = None) -> MessageCall:
    """Return the call that a message asks for; ``body`` is its decoded body, if somebody has decoded it.

    Raises ContentDisallowed for a pickled one, DecodeError, and InvalidTaskError for what follows neither protocol.
    """
    if is_pickle(message.content_type):
        raise ContentDisallowed(f"expected the arguments of a durable call as JSON, got: {message.content_type}")
    body = message.payload if body is None else body
    if isinstance(body, Mapping):
        headers, (args, kwargs, embedded) = _of_protocol_1(message, body)
    else:
        headers, (args, kwargs, embedded) = message.headers, _of_protocol_2(body)
    if not isinstance(args, list | tuple):
        raise InvalidTaskError(f"expected args as a list, got: {type(args).__name__}")
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError(f"expected kwargs as a mapping, got: {type(kwargs).__name__}")
    if not headers.get("id"):
        raise InvalidTaskError("expected a message with a task id, got: none")
    options = _options({**headers, "reply_to": message.properties.get("reply_to") or None}, embedded)
    tried, released = int(headers.get("retries") or 0), bool(headers.get(RELEASED))
    return MessageCall(str(headers["id"]), list(args), dict(kwargs), options, tried, released)


def _of_protocol_1(message: Any, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Any, Any, dict[str, Any]]]:
    # Celery's hybrids have the body of protocol 1 and some headers of protocol 2, which count.
    headers = {**body, **(message.headers or {})}
    if headers.get("group") is None:
        headers["group"] = body.get("taskset")
    headers.pop("taskset", None)
    return headers, (body.get("args", ()), body.get("kwargs", {}), {**body, "chain": None})


def _of_protocol_2(body: Any) -> tuple[Any, Any, dict[str, Any]]:
    if not isinstance(body, list | tuple) or len(body) != 3:  # noqa: PLR2004  # Celery, "Task messages"
        raise InvalidTaskError("expected the body of a task message as [args, kwargs, embed]")
    args, kwargs, embedded = body
    return args, kwargs, embedded or {}


def _options(headers: Mapping[str, Any], embedded: Mapping[str, Any]) -> dict[str, Any]:
    options = {option: headers.get(name) for name, option in _HEADERS.items()}
    options |= {option: embedded.get(name) for name, option in _EMBEDDED.items()}
    hard, soft = (*(headers.get("timelimit") or ()), None, None)[:2]
    options |= {"time_limit": hard, "soft_time_limit": soft}
    # Of these alone Celery makes a header; what else stands there would pass for an option of the call.
    stamped = maybe_list(headers.get("stamped_headers")) or ()
    stamps = headers.get("stamps") or {}
    options |= {name: value for name, value in stamps.items() if name in stamped and name not in options}
    options["headers"] = {
        name: value for name, value in headers.items() if name not in _PROTOCOL and not name.startswith(_BROKERS)
    }
    if options["root_id"] == options["task_id"]:
        del options["root_id"]  # what it is without being said
    if not options["replaced_task_nesting"]:
        del options["replaced_task_nesting"]
    return {name: value for name, value in options.items() if value is not None and value not in ([], {}, ())}
