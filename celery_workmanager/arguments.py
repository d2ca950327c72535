"""How a worker function's signature meets an input: which keys it takes, and which are pydantic models."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints
from weakref import WeakKeyDictionary

from celery.utils.saferepr import saferepr
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.call import Takes, facts_of

__all__ = (
    "Parameters", "arguments_in", "dumped", "is_put_back", "parameters_of", "put_back", "sent_anew", "shown",
)  # fmt: skip

#: The mark of a rejected run's call, in the JSON of its arguments.
_PUT_BACK = "redelivered"
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a worker function takes."""

    signature: inspect.Signature
    #: Names that may be given by keyword; ``None``: any (it has ``**kwargs``).
    names: frozenset[str] | None
    #: Parameters annotated with a pydantic model (or an optional one).
    models: Mapping[str, Any]
    #: All parameters have names: a positional argument can be given by keyword as well.
    all_named: bool

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments with their names (``all_named`` only). Raises TypeError when they don't fit."""
        named: dict[str, Any] = dict(self.signature.bind(*args, **kwargs).arguments)
        for each in self.signature.parameters.values():
            if each.kind is each.VAR_KEYWORD:
                named.update(named.pop(each.name, {}))
        return named

    def accepted(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return those of the values that the function takes, models validated."""
        if self.names is not None and not values.keys() <= self.names:
            values = {key: value for key, value in values.items() if key in self.names}
        return self.validated(values) if self.models else values

    def validated(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values with those of pydantic-annotated parameters as models."""
        return {key: self._validate(key, value) for key, value in values.items()}

    def _validate(self, key: str, value: Any) -> Any:
        model = self.models.get(key)
        return value if model is None or value is None else model.model_validate(value)


_known: WeakKeyDictionary[Any, Parameters] = WeakKeyDictionary()


def parameters_of(task: Any) -> Parameters:
    """Return what a task's function takes, without ``self``; looked up once for each task."""
    found = _known.get(task)
    if found is None:
        found = _known[task] = _read(_function_of(task))
    return found


def _function_of(task: Any) -> Callable[..., Any]:
    # Celery's autoretry replaces ``run`` by a wrapper and keeps the original beside it.
    function: Callable[..., Any] = getattr(task, "_orig_run", task.run)
    return function


def _read(function: Callable[..., Any]) -> Parameters:
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Parameters(
        signature=signature,
        names=None if any_keyword else frozenset(p.name for p in parameters if p.kind in _BY_NAME),
        models=_models(function, signature),
        all_named=all(p.kind in _BY_NAME or p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _models(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    try:
        hints = get_type_hints(inspect.unwrap(function))
    except Exception:  # noqa: BLE001  # names known to a type checker only: then the raw annotations must do
        hints = {name: p.annotation for name, p in signature.parameters.items()}
    found = ((name, _model_in(hints.get(name))) for name in signature.parameters)
    return {name: model for name, model in found if model is not None}


def _model_in(annotation: Any) -> Any:
    # Duck-typed, so that pydantic needn't be installed; ``Model | None`` counts as ``Model``.
    candidates = (annotation, *get_args(annotation))
    return next((kind for kind in candidates if callable(getattr(kind, "model_validate", None))), None)


def arguments_in(inputs: Sequence[str], options: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and keyword arguments of a work: its input and the outputs before it (JSON texts)."""
    if "call" not in options:
        return (), json.loads(inputs[0])
    call = kombu_loads(inputs[0])
    args, takes = tuple(call["args"]), facts_of(options).get("takes")
    if takes and "complete" not in call:
        values = [kombu_loads(text) for text in inputs[1:]]
        args = (values, *args) if takes == Takes.LIST else (*values[:1], *args)
    return args, call["kwargs"]


def is_put_back(inputs: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether this is the call of a run that was rejected (``Reject(requeue=True)``), as a redelivered message is."""
    # Most texts needn't be parsed for it.
    return "call" in options and _PUT_BACK in inputs[0] and _PUT_BACK in json.loads(inputs[0])


def put_back(inputs: Sequence[str], options: Mapping[str, Any]) -> str | None:
    """Return the call (JSON text) as that of a rejected run; ``None`` for what is no call or is so already."""
    if "call" not in options or is_put_back(inputs, options):
        return None
    return json.dumps({**json.loads(inputs[0]), _PUT_BACK: True})


def sent_anew(inputs: Sequence[str], options: Mapping[str, Any]) -> str | None:
    """Return the call (JSON text) of a rejected run as that of a retried one; ``None`` when nothing is to change."""
    if not is_put_back(inputs, options):
        return None
    return json.dumps({key: value for key, value in json.loads(inputs[0]).items() if key != _PUT_BACK})


def shown(app: Any, inputs: Sequence[str], options: Mapping[str, Any]) -> tuple[str, str]:
    """Return the arguments and keyword arguments of a work as Celery shows them in logs and events."""
    args, kwargs = arguments_in(inputs, options)
    facts = facts_of(options)
    levels = app.conf.get("task_repr_maxlevels", 3)  # a setting of Celery 5.7
    amqp = app.amqp
    return (
        facts.get("argsrepr") or saferepr(args, amqp.argsrepr_maxsize, maxlevels=levels),
        facts.get("kwargsrepr") or saferepr(kwargs, amqp.kwargsrepr_maxsize, maxlevels=levels),
    )


def dumped(value: Any) -> Any:
    """Return a pydantic model as JSON types, anything else as it is."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None and not isinstance(value, type) else value
