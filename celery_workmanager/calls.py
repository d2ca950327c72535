"""Celery's task calls (``delay``, ``apply_async``) as requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import dumps as kombu_dumps

from celery_workmanager.arguments import dumped, parameters_of
from celery_workmanager.call import Call, Takes
from celery_workmanager.checks import LONGEST_TEXT
from celery_workmanager.errors import DataNotStorable, InvalidRequest
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.wire import decoded

__all__ = ("changed_call", "request_from_call", "stamps_of", "tags_of")

_LATER = object()

_CONDITIONS = ("constraints", "deadline", "concurrency", "rate")
_TASK_WIDE = ("queue", "priority", "expires", *_CONDITIONS)
#: What routes of Celery's may say.
_DESTINATION = ("queue", "exchange", "routing_key", "priority")
#: Keywords of a request that Celery has no option for.
_OURS = (
    "tags", "backoff_policy", "backoff_delay", "input_merger", "expedited", "keep_results_for_at_least", "trace_tag",
    "max_attempts", *_CONDITIONS,
)  # fmt: skip
#: Options of a call that its request shows under another name.
_FACTS = {
    "root_id": "root",
    "parent_id": "parent",
    "group_id": "group",
    "group_index": "group_index",
    "replaced_task_nesting": "nesting",
    "headers": "headers",
    "argsrepr": "argsrepr",
    "kwargsrepr": "kwargsrepr",
    "reply_to": "reply_to",
    "errbacks": "errbacks",
    "chord_bodies": "chord",
    "priority": "priority",
}


def request_from_call(
    task: Any,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    now: datetime,
    takes: Takes = Takes.NOTHING,
) -> OneTimeWorkRequest:
    """Return the request that a task call stands for; ``now`` is aware.

    Raises TypeError when the arguments don't fit the function (as Celery), DataNotStorable when one isn't JSON in
    Celery's sense. A request's own keywords (``tags``, ``backoff_delay`` …) are options too. Those that say how a
    message travels mean nothing here and are accepted; what makes a canvas of several calls is for `canvas`.
    """
    options = _routed(task, args, kwargs, {**{name: getattr(task, name, None) for name in _TASK_WIDE}, **options})
    if task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit:
        raise InvalidRequest("soft_time_limit", f"at most the time_limit of {task.time_limit}", task.soft_time_limit)
    delay = _delay(task, options, now)
    max_retries = options.get("max_retries")
    stamps = stamps_of(options)
    ours = decoded({name: options[name] for name in _OURS if options.get(name) is not None and name not in stamps})
    tags = (*ours.pop("tags", ()), *tags_of(stamps))
    common: dict[str, Any] = {
        "id": options.get("task_id"),
        "tags": tags,
        "initial_delay": delay,
        "queue": _queue_name(options.get("queue")),
        "priority": options.get("priority") or 0,
        "time_limit": options.get("time_limit"),
        "soft_time_limit": options.get("soft_time_limit"),
        "expires": _expiry(task, options.get("expires")),
        "max_attempts": None if max_retries is None else max_retries + 1,
        **ours,
    }
    if options.get("as_data"):
        return OneTimeWorkRequest(task.name, kwargs, **common)
    typed = options.get("typing", task.typing)
    arguments = _encoded(*_bound(task, tuple(args or ()), dict(kwargs or {}), takes, typed=typed))
    facts = {
        "shadow": options.get("shadow") or task.shadow_name(args, kwargs, options),
        "eta": (now + delay).isoformat() if delay else None,
        "stamps": stamps or None,
    }
    return OneTimeWorkRequest(task.name, call=Call(arguments, takes, _facts(options, facts)), **common)


def _routed(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Add the queue that Celery's routing gives a call, while its arguments are at hand: a router may look at them."""
    app = task.app
    if options.get("queue") is not None:
        return options
    if app.conf.task_routes:
        given = {name: options[name] for name in _DESTINATION if options.get(name) is not None}
        routed = app.amqp.router.route(given, task.name, args, kwargs, task_type=task)
        options |= {name: routed[name] for name in _DESTINATION if name in routed}
    exchange, key = options.get("exchange"), options.get("routing_key")
    if exchange and key:  # Celery heeds them together only
        name = getattr(exchange, "name", exchange)
        bound = [queue for queue in app.amqp.queues.values() if (queue.exchange.name, queue.routing_key) == (name, key)]
        options["queue"] = bound[0] if bound else options.get("queue")
    return options


def stamps_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stamps among the options of a call, each with its value or the list of its values."""
    return {header: options.get(header) for header in maybe_list(options.get("stamped_headers")) or ()}


def tags_of(stamps: Mapping[str, Any]) -> tuple[str, ...]:
    """Return stamps as tags: those named ``tag`` give their values, others ``name=value``."""
    pairs = ((name, value) for name, values in stamps.items() for value in maybe_list(values) or ())
    found = (str(value) if name == "tag" else f"{name}={value}" for name, value in pairs)
    # A stamp may hold what no tag can; it is shown by the request all the same.
    return tuple(tag for tag in found if 0 < len(tag) <= LONGEST_TEXT)


def _facts(options: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    facts = {fact: options[name] for name, fact in _FACTS.items() if options.get(name) is not None}
    facts |= {name: value for name, value in known.items() if value is not None}
    return str(kombu_dumps(facts)) if facts else "{}"


def _bound(
    task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], takes: Takes, *, typed: bool
) -> tuple[list[Any], dict[str, Any]]:
    parameters = parameters_of(task)
    if typed:
        # What comes from the works before it stands first, and isn't known yet.
        first = (_LATER,) if takes else ()
        if parameters.all_named and args:
            # By name, so that the stored arguments can be read, and outlive a change of the parameters' order.
            named = parameters.by_name((*first, *args), kwargs)
            args, kwargs = (), {name: value for name, value in named.items() if value is not _LATER}
        else:
            parameters.signature.bind(*first, *args, **kwargs)
    return [dumped(value) for value in args], {key: dumped(value) for key, value in kwargs.items()}


def changed_call(task: Any, request: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
    """Return the arguments (JSON text) of a run that is retried with other ones: what isn't given stays.

    Source: Celery, ``Task.retry``. Raises as `request_from_call`.
    """
    parameters = parameters_of(task)
    old_args, old_kwargs = tuple(request.args or ()), dict(request.kwargs or {})
    if (args is None) != (kwargs is None) and task.typing and parameters.all_named:
        given = parameters.signature.bind_partial(*args).arguments if args is not None else kwargs or {}
        args, kwargs = (), {**parameters.by_name(old_args, old_kwargs), **given}
    new_args = old_args if args is None else tuple(args)
    new_kwargs = old_kwargs if kwargs is None else dict(kwargs)
    bound = _bound(task, new_args, new_kwargs, Takes.NOTHING, typed=task.typing)
    # What the works before it returned is among them by now.
    return _encoded(*bound, complete=True)


def _encoded(args: list[Any], kwargs: dict[str, Any], **more: bool) -> str:
    try:
        text: str = kombu_dumps({"args": args, "kwargs": kwargs, **more})
    except (TypeError, ValueError):
        for number, value in enumerate(args):
            _check_encodes(f"args[{number}]", value)
        for name, value in kwargs.items():
            _check_encodes(f"kwargs[{name!r}]", value)
        raise
    return text


def _check_encodes(path: str, value: Any) -> None:
    try:
        kombu_dumps(value)
    except (TypeError, ValueError) as error:
        raise DataNotStorable(path, value, str(error)) from error


def _delay(task: Any, options: Mapping[str, Any], now: datetime) -> timedelta:
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown:
        return max(timedelta(0), countdown if isinstance(countdown, timedelta) else timedelta(seconds=countdown))
    if eta is None:
        return timedelta(0)
    return max(timedelta(0), _moment(task, eta) - now)


def _moment(task: Any, when: Any) -> datetime:
    # Exactly as a Celery worker reads the eta of a message: a naive moment is one in UTC.
    moment: datetime = maybe_make_aware(maybe_iso8601(when), task.app.timezone)
    return moment


def _expiry(task: Any, expires: Any) -> timedelta | datetime | None:
    if expires is None or isinstance(expires, timedelta):
        return expires
    if isinstance(expires, int | float):
        return timedelta(seconds=max(0, expires))
    return _moment(task, expires)


def _queue_name(queue: Any) -> str | None:
    name: str | None = getattr(queue, "name", queue)
    return name
