"""A finding: what was seen, what it means, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is. Notes are worth knowing, and no problem."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found; `code` names its kind for programs, and never changes."""

    severity: Severity
    code: str
    seen: str
    means: str
    do: str


def error(code: str, seen: str, means: str, do: str) -> Finding:
    """Something doesn't work."""
    return Finding(Severity.ERROR, code, seen, means, do)


def warning(code: str, seen: str, means: str, do: str) -> Finding:
    """Something will not work, or not as its user expects."""
    return Finding(Severity.WARNING, code, seen, means, do)


def note(code: str, seen: str, means: str, do: str) -> Finding:
    """Something that is fine for some and a surprise for others."""
    return Finding(Severity.NOTE, code, seen, means, do)


def works(count: int, most: int) -> str:
    """A number of works of which up to `most` were counted."""
    return f"{count} work{'' if count == 1 else 's'}{' or more' if count >= most else ''}"


def several(names: list[str], most: int = 5) -> str:
    """Names in a sentence, not too many of them."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
