"""Why the works downstream of a failed one fail. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from celery_workmanager.call import facts_of
from celery_workmanager.work import MESSAGE_KEPT, WorkError


@dataclass(frozen=True, slots=True)
class Failed:
    """A work that failed: why, and the bodies of the chords that fail with it."""

    id: str
    error: str | None
    chord: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inherited:
    """The failure that a work inherits; `is_chord`: as the body of a chord, with its own errbacks."""

    error: str
    is_chord: bool = False


def inherited_errors(
    roots: Iterable[Failed], ways: Mapping[str, str], options: Mapping[str, dict[str, Any]]
) -> dict[str, Inherited]:
    """Say why each work downstream of the failed `roots` fails; `ways` gives the parent of each, nearer ones first.

    A task call fails with the exception before it, as the tasks of a Celery chain do, and so does each of a group that
    is the body of a chord; any other body of a chord fails with Celery's ChordError; other works because a
    prerequisite failed.
    """
    root_of = {root.id: root for root in roots}
    bodies = {root.id: _bodies(root, options) for root in root_of.values()}
    errors = {root.id: root.error for root in root_of.values()}
    found: dict[str, Inherited] = {}
    for child, parent in ways.items():
        root = root_of[child] = root_of[parent]
        is_body = child in bodies[root.id]
        error = errors[parent]
        if is_body and bodies[root.id][child] and root.error:
            error = root.error
        elif is_body:
            error = _chord_error(root)
        elif "call" not in options.get(child, ()) or error is None:
            error = WorkError("PrerequisiteFailed", f"a prerequisite failed: {root.id}").to_json()
        errors[child] = error
        found[child] = Inherited(error, is_body)
    return found


def _bodies(root: Failed, options: Mapping[str, dict[str, Any]]) -> dict[str, bool]:
    """The bodies of the chords that fail with `root`, and whether each is one of a group."""
    found: dict[str, bool] = {}
    fresh = [root.chord]
    while fresh:
        chord = fresh.pop()
        for body in chord:
            if body not in found:
                found[body] = len(chord) > 1
                fresh.append(tuple(facts_of(options.get(body, {})).get("chord", ())))
    return found


def _chord_error(root: Failed) -> str:
    why = WorkError.from_json(root.error) if root.error else WorkError("WorkFailed", "")
    args = (why.message,) if why.args is None else why.args
    message = f"Dependency {root.id} raised {why.exc_type}({', '.join(map(repr, args))})"
    return WorkError("ChordError", message[:MESSAGE_KEPT], "celery.exceptions").to_json()
