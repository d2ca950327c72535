"""What commands print: one JSON document, or lines and tables for people, as wide as their terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import click

from celery_workmanager.timing import SECOND
from celery_workmanager.work import State

#: A sign and click's way to style it, for each state.
LOOKS: dict[State, tuple[str, dict[str, Any]]] = {
    State.ENQUEUED: ("○", {"fg": "cyan"}),
    State.RUNNING: ("●", {"fg": "yellow"}),
    State.SUCCEEDED: ("✔", {"fg": "green"}),
    State.FAILED: ("✘", {"fg": "red"}),
    State.BLOCKED: ("◌", {"fg": "blue"}),
    State.CANCELLED: ("⊘", {"fg": "magenta"}),
}
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table, with click's words for its style."""

    text: str
    style: dict[str, Any] | None = None


#: What stands in a column: text, or pieces of different styles (these are never cut).
Content: TypeAlias = str | Cell | tuple[Cell, ...]
Cells: TypeAlias = Sequence[Content]


@dataclass(frozen=True, slots=True)
class Column:
    """A column; where the terminal is narrow it may be cut down to `least` columns or even left out (`may_go`).

    It is cut at its end, or at its beginning where the end tells more (`ends_matter`: dotted names).
    """

    title: str
    least: int | None = None
    ends_matter: bool = False
    may_go: bool = False
    to_the_right: bool = False


class Screen:
    """Where a command's answer goes; `out` is Celery's command line context."""

    def __init__(self, out: Any, *, as_json: bool) -> None:
        self._out = out
        self.as_json = as_json

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at it, as opposed to a file or another program."""
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def size(self) -> tuple[int | None, int]:
        """Columns and lines; without a terminal lines may be as long as they like."""
        columns, lines = shutil.get_terminal_size()
        return (columns if self.is_terminal else None), lines

    def say(self, text: str = "", **style: Any) -> None:
        """Print lines for people."""
        self._out.echo(_encodable(self.styled(text, **style)))

    def warn(self, text: str) -> None:
        """Print a line that doesn't belong to the answer."""
        self._out.error(_encodable(text), **({} if self._out.no_color else {"fg": "yellow"}))

    def styled(self, text: str, **style: Any) -> str:
        """`text` in colours, if they are wanted."""
        return str(self._out.style(text, **style)) if style and text else text

    def json(self, document: Any, *, compact: bool = False) -> None:
        """Print a JSON document, in ASCII: it suits every encoding."""
        click.echo(json.dumps(document, indent=None if compact else 2))

    def table(self, columns: Sequence[Column], rows: Iterable[Cells]) -> None:
        """Print a table with its titles."""
        for line in self.lines(columns, rows):
            self.say(line)

    def lines(self, columns: Sequence[Column], rows: Iterable[Cells]) -> list[str]:
        """The lines of a table, no longer than the terminal is wide."""
        cells = [[_pieces(cell) for cell in row] for row in rows]
        titles = [(Cell(column.title, {"bold": True}),) for column in columns]
        kept, widths = _fit(columns, [titles, *cells], self.size[0])
        shown: list[_Row] = [titles, *cells] if any(column.title for column in columns) else [*cells]
        return [self._line(columns, row, kept, widths) for row in shown]

    def _line(self, columns: Sequence[Column], row: _Row, kept: list[int], widths: dict[int, int]) -> str:
        parts = []
        for at in kept:
            pieces = row[at]
            if len(pieces) == 1:
                text = cut(pieces[0].text, widths[at], ends_matter=columns[at].ends_matter)
                pieces = (Cell(text, pieces[0].style),)
            padding = " " * (widths[at] - _width(pieces))
            shown = "".join(self.styled(piece.text, **(piece.style or {})) for piece in pieces)
            parts.append(padding + shown if columns[at].to_the_right else shown + padding)
        return _GAP.join(parts).rstrip()


_Row: TypeAlias = Sequence[tuple[Cell, ...]]


def _pieces(content: Content) -> tuple[Cell, ...]:
    if isinstance(content, tuple):
        return content
    return (content if isinstance(content, Cell) else Cell(content),)


def _width(pieces: tuple[Cell, ...]) -> int:
    return sum(width_of(piece.text) for piece in pieces)


def _fit(columns: Sequence[Column], rows: Sequence[_Row], room: int | None) -> tuple[list[int], dict[int, int]]:
    """The columns to show (empty ones are not), and the width of each."""
    kept = [at for at in range(len(columns)) if len(rows) == 1 or any(_width(row[at]) for row in rows[1:])]
    natural = {at: max(_width(row[at]) for row in rows) for at in kept}
    while True:
        widths = {at: natural[at] for at in kept}
        over = sum(widths.values()) + len(_GAP) * (len(kept) - 1) - (room or sys.maxsize)
        while over > 0 and (elastic := [at for at in kept if widths[at] > (columns[at].least or sys.maxsize)]):
            widths[max(elastic, key=lambda at: widths[at])] -= 1
            over -= 1
        dispensable = [at for at in kept if columns[at].may_go]
        if over <= 0 or not dispensable:
            return kept, widths
        kept.remove(dispensable[-1])


# -- words -------------------------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return len(text) if text.isascii() else sum(_cells(each) for each in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int, *, ends_matter: bool = False) -> str:
    """`text`, with an ellipsis for its end (or its beginning) where it doesn't fit into `width` columns."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) >= width:
        text = text[1:] if ends_matter else text[:-1]
    return "…" + text if ends_matter else text + "…"


def clean(text: str) -> str:
    """`text` on one line, with what a terminal would obey written out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _encodable(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def number(value: int, *, more: bool = False) -> str:
    """A count, in groups of three; `more`: there are more than were counted."""
    return ("> " if more else "") + f"{value:,}".replace(",", " ")


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def span(microseconds: int) -> str:
    """A length of time, roughly: "3 s", "2 h"."""
    seconds = max(0, round(microseconds / SECOND))
    size, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    return f"{number(seconds // size)} {unit}"


def plural(count: int, noun: str, *, more: bool = False) -> str:
    """A number of things: "1 work", "3 works", "> 10 000 works"."""
    return f"{number(count, more=more)} {noun}{'' if count == 1 and not more else 's'}"
