"""Drawing a graph of works with one row a work, as ``git log --graph`` draws commits. Pure.

A lane is a column that leads down to one work. A work whose dependents are drawn further down keeps its lane for the
first of them; others get lanes of their own, or join one that leads there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: A work's place in its row.
MARK = "*"
_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_STROKES = {
    _UP | _DOWN: "│",
    _LEFT | _RIGHT: "─",
    _DOWN | _RIGHT: "╭",
    _DOWN | _LEFT: "╮",
    _UP | _RIGHT: "╰",
    _UP | _LEFT: "╯",
    _UP | _DOWN | _RIGHT: "├",
    _UP | _DOWN | _LEFT: "┤",
    _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴",
    _UP | _DOWN | _LEFT | _RIGHT: "┼",
}

Graph = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the drawing: its lanes, and the work that is marked in it."""

    lanes: str
    work: str | None = None


def draw(children: Graph) -> list[Row]:
    """The rows of the drawing; works come after all they depend on, unconnected parts after an empty row."""
    rows: list[Row] = []
    for part in _parts(children):
        if rows:
            rows.append(Row(""))
        rows += _Drawing(part).rows()
    return rows


def _parts(children: Graph) -> Iterator[dict[str, list[str]]]:
    """The connected parts of the graph."""
    near: dict[str, set[str]] = {each: set(below) for each, below in children.items()}
    for each, below in children.items():
        for child in below:
            near[child].add(each)
    seen: set[str] = set()
    for root in children:
        part, reached = set(), [root]
        while reached:
            each = reached.pop()
            if each not in seen:
                seen.add(each)
                part.add(each)
                reached += near[each]
        if part:
            yield {each: list(children[each]) for each in children if each in part}


def in_order(children: Graph) -> list[str]:
    """Each work after all it depends on, and as near to the last of these as can be."""
    left = dict.fromkeys(children, 0)
    for below in children.values():
        for child in below:
            left[child] += 1
    ready = [each for each in reversed(list(children)) if not left[each]]
    order: list[str] = []
    while ready:
        each = ready.pop()
        order.append(each)
        for child in reversed(children[each]):
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    return order


class _Drawing:
    """One connected part."""

    def __init__(self, children: Graph) -> None:
        self._children = children
        #: The work that each column leads to; None: nothing is drawn there now.
        self._lanes: list[str | None] = []
        #: Columns in which a work stood in the row before: what begins below it would look like its dependent.
        self._warm: set[int] = set()

    def rows(self) -> Iterator[Row]:
        for each in in_order(self._children):
            yield from self._merge(each)
            at = self._place(each)
            yield Row(self._row_of(at), each)
            self._warm = {at}
            yield from self._branch(each, at)
            while self._lanes and self._lanes[-1] is None:
                self._lanes.pop()

    def _merge(self, work: str) -> Iterator[Row]:
        """Lead all lanes to `work` into the first of them."""
        lanes = [at for at, target in enumerate(self._lanes) if target == work]
        if len(lanes) < 2:  # noqa: PLR2004 - one lane is no meeting
            return
        first, *others = lanes
        strokes = {first: _UP | _DOWN, **dict.fromkeys(others, _UP)}
        yield Row(self._connector(strokes))
        for at in others:
            self._lanes[at] = None
        self._warm = set()

    def _place(self, work: str) -> int:
        if work in self._lanes:
            return self._lanes.index(work)
        return self._free_column(work, self._warm)

    def _free_column(self, work: str, warm: set[int]) -> int:
        for at, target in enumerate(self._lanes):
            if target is None and at not in warm:
                self._lanes[at] = work
                return at
        while len(self._lanes) in warm:
            self._lanes.append(None)
        self._lanes.append(work)
        return len(self._lanes) - 1

    def _row_of(self, mark: int) -> str:
        signs = [MARK if at == mark else "│" if target else " " for at, target in enumerate(self._lanes)]
        return " ".join(signs).rstrip()

    def _branch(self, work: str, at: int) -> Iterator[Row]:
        """Let the lanes below `work` begin, or join those that lead where it leads."""
        below = self._children[work]
        self._lanes[at] = None
        if len(below) == 1:
            self._lanes[at] = below[0]
            return
        strokes: dict[int, int] = {}
        for child in below:
            if child in self._lanes:
                strokes[self._lanes.index(child)] = _UP | _DOWN
            elif self._lanes[at] is None:
                self._lanes[at] = child
            else:
                strokes[self._free_column(child, set())] = _DOWN
        if strokes:
            strokes[at] = _UP | (_DOWN if self._lanes[at] else 0)
            yield Row(self._connector(strokes))
            self._warm = set()

    def _connector(self, strokes: dict[int, int]) -> str:
        """A row in which the columns of `strokes` are connected; other lanes pass through."""
        first, last = min(strokes), max(strokes)
        drawn = []
        for at, target in enumerate(self._lanes):
            inside = first <= at <= last
            if at in strokes:
                reach = strokes[at] | (_LEFT if at > first else 0) | (_RIGHT if at < last else 0)
                sign = _STROKES[reach]
            else:
                sign = "│" if target else "─" if inside else " "
            drawn.append(sign + ("─" if first <= at < last else " "))
        return "".join(drawn).rstrip()
