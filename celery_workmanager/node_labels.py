"""What a work asks of the labels of its node: ``gpu=a100``, ``region in eu,us``, ``cpus>=8``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import ge, gt, le, lt
from typing import Any

from celery_workmanager.checks import check_text
from celery_workmanager.errors import InvalidRequest

__all__ = ("LabelRule", "check_labels", "contradictions", "parse_label_rule")

LONGEST_VALUE = 63
#: Python refuses to write much longer numbers.
_LONGEST_INT_BITS = 256
_KEY = r"[A-Za-z0-9](?:[\w./-]*\w)?"
_VALUE = r"[\w.:/+@-]+"
_RULE = re.compile(
    rf"(?P<absent>!)?\s*(?P<key>{_KEY})\s*"
    rf"(?:(?P<operator>=|!=|>=|<=|>|<|\bin\b|\bnot in\b)\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE})*))?",
    re.ASCII,
)
_ORDER: dict[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt}
_SEVERAL = ("in", "not in")
_EXPECTED = "such as 'gpu=a100', 'zone!=b', 'region in eu,us', 'region not in eu,us', 'cpus>=8', 'gpu' or '!gpu'"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """One comparison of a label; made by `parse_label_rule`."""

    key: str
    #: ``=``, ``!=``, ``in``, ``not in``, ``>=``, ``<=``, ``>``, ``<``, ``exists`` or ``absent``.
    operator: str
    #: Sorted; empty for ``exists`` and ``absent``.
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.values:
            return f"!{self.key}" if self.operator == "absent" else self.key
        space = " " if self.operator in _SEVERAL else ""
        return f"{self.key}{space}{self.operator}{space}{','.join(self.values)}"

    def is_met(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with `labels` meets it. A label that is missing is unlike every value."""
        found = labels.get(self.key)
        if self.operator in ("!=", "not in", "absent"):
            return found is None or (bool(self.values) and found not in self.values)
        if found is None:
            return False
        if self.operator in _ORDER:
            number = _number(found)
            return number is not None and _ORDER[self.operator](number, float(self.values[0]))
        return not self.values or found in self.values


def parse_label_rule(text: str) -> LabelRule:
    """The rule that `text` says. Raises InvalidRequest."""
    return _parsed(check_text("node label", text))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> LabelRule:
    found = _RULE.fullmatch(text.strip())
    if found is None or (found["absent"] and found["operator"]):
        raise InvalidRequest("node label", _EXPECTED, text)
    operator = found["operator"] or ("absent" if found["absent"] else "exists")
    values = tuple(sorted({each.strip() for each in (found["values"] or "").split(",") if each.strip()}))
    if len(values) > 1 and operator not in _SEVERAL:
        raise InvalidRequest("node label", f"one value after {operator!r}, or several after 'in'", text)
    if operator in _ORDER and _number(values[0]) is None:
        raise InvalidRequest("node label", f"a number after {operator!r}", text)
    return LabelRule(found["key"], operator, values)


def check_labels(what: str, labels: Any) -> dict[str, str]:
    """Return the labels of a node as text; numbers and booleans are written out. Raises InvalidRequest."""
    if not isinstance(labels, Mapping):
        raise InvalidRequest(what, "a mapping of labels to values", labels)
    checked: dict[str, str] = {}
    for key, value in labels.items():
        if not isinstance(key, str) or not re.fullmatch(_KEY, key, re.ASCII):
            raise InvalidRequest(what, "with names of letters, digits, '_', '.', '/' and '-'", key)
        text = _text_of(value)
        if len(text) > LONGEST_VALUE or not re.fullmatch(_VALUE, text, re.ASCII):
            raise InvalidRequest(f"{what}' {key!r}", f"at most {LONGEST_VALUE} letters, digits and '_.:/+@-'", value)
        checked[key] = text
    return checked


def _text_of(value: Any) -> str:
    """A label's value as text; nothing for what can't be one."""
    if isinstance(value, int):
        return f"{value}".lower() if value.bit_length() <= _LONGEST_INT_BITS else ""
    return f"{value}" if isinstance(value, (str, float)) else ""


def contradictions(rules: Iterable[LabelRule]) -> list[str]:
    """The names of labels that no node can have as `rules` want them."""
    by_key: dict[str, list[LabelRule]] = {}
    for rule in rules:
        by_key.setdefault(rule.key, []).append(rule)
    return [key for key, several in by_key.items() if len(several) > 1 and not _can_be_met(several)]


def _can_be_met(rules: list[LabelRule]) -> bool:
    key = rules[0].key
    # A label that meets all of them is among those that some rule names, beside one of its numbers, or none of them.
    named = [value for rule in rules for value in rule.values]
    numbers = sorted({number for value in named if (number := _number(value)) is not None})
    between = [(low + high) / 2 for low, high in pairwise(numbers)]
    beside = [numbers[0] - 1, numbers[-1] + 1, *between] if numbers else []
    candidates = [*named, *map(str, beside), "any other"]
    return any(all(rule.is_met(labels) for rule in rules) for labels in ({}, *({key: each} for each in candidates)))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
