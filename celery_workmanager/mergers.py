"""Input mergers: how a work's own input and its prerequisites' outputs become one input."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from celery_workmanager.data import Data
from celery_workmanager.errors import InvalidRequest, MergeError


class InputMerger(ABC):
    """Makes one input of several (WorkManager semantics: InputMerger); constructed without arguments."""

    @abstractmethod
    def merge(self, inputs: Sequence[Data]) -> Data:
        """Return the input; ``inputs`` are the work's own input, then the output of each prerequisite."""


class OverwritingInputMerger(InputMerger):
    """Later values replace earlier ones of the same key, so outputs replace the work's own input."""

    def merge(self, inputs: Sequence[Data]) -> Data:
        """Return all keys, each with its last value."""
        if len(inputs) == 1:
            return inputs[0]
        merged: dict[str, Any] = {}
        for data in inputs:
            merged.update(data)
        return Data(merged)


class ArrayCreatingInputMerger(InputMerger):
    """Every key gets a list of all its values; their types must be the same, None counts as a str."""

    def merge(self, inputs: Sequence[Data]) -> Data:
        """Return all keys, each with a list: scalars appended, lists concatenated; raises MergeError."""
        merged: dict[str, list[Any]] = {}
        for data in inputs:
            for key, value in data.items():
                addition = value if isinstance(value, list) else [value]
                if key in merged:
                    _check_types(key, merged[key], addition)
                    merged[key].extend(addition)
                else:
                    merged[key] = addition
        return Data(merged)


_JSON_NAMES = {dict: "mapping", type(None): "str"}


def _types(items: list[Any]) -> frozenset[str]:
    return frozenset(_JSON_NAMES.get(type(item), type(item).__name__) for item in items)


def _check_types(key: str, present: list[Any], addition: list[Any]) -> None:
    before, after = _types(present), _types(addition)
    if before and after and before != after:
        raise MergeError(key, " and ".join(sorted(before)), " and ".join(sorted(after)))


_SHORT: dict[str, type[InputMerger]] = {
    "overwriting": OverwritingInputMerger,
    "array": ArrayCreatingInputMerger,
}
_PATHS: dict[type[InputMerger], str] = {merger: path for path, merger in _SHORT.items()}


def check_merger(merger: Any) -> type[InputMerger]:
    """Return ``merger`` when it is an InputMerger class that can be constructed."""
    if isinstance(merger, type) and issubclass(merger, InputMerger) and not inspect.isabstract(merger):
        return merger
    raise InvalidRequest("input_merger", "a subclass of InputMerger that has merge()", merger)


def merger_path(merger: type[InputMerger]) -> str:
    """Return the text by which a worker finds the class: "module:QualName", shorter for ours."""
    if (known := _PATHS.get(merger)) is not None:
        return known
    check_merger(merger)
    if "<" in merger.__qualname__:
        raise InvalidRequest("input_merger", "defined where a worker can import it", merger)
    return _path_of(merger)


def load_merger(path: str) -> InputMerger:
    """Return a merger of the class that ``merger_path`` named; raises InvalidRequest when it isn't there.

    Nothing is imported for it: a path may come out of a message or a row, and those must not choose what code is run.
    """
    found = _SHORT.get(path) or next((each for each in _defined() if _path_of(each) == path), None)
    if found is None:
        expected = "a subclass of InputMerger in a module that this process has imported (Celery's setting imports)"
        raise InvalidRequest("input_merger", expected, path)
    return check_merger(found)()


def _defined() -> Iterator[type[InputMerger]]:
    """All classes of mergers that this process knows, of those of one name the latest first."""
    kinds: list[Any] = [InputMerger]
    while kinds:
        kind = kinds.pop()
        yield kind
        kinds += kind.__subclasses__()


def _path_of(merger: type[InputMerger]) -> str:
    return f"{merger.__module__}:{merger.__qualname__}"
