"""A chain of works as a drawing: from the left to the right, each work beside those that it waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from celery_workmanager.cli.graph import in_order
from celery_workmanager.work import WorkInfo

_WIDTH, _HEIGHT = 200, 46
_ACROSS, _DOWN = 60, 16
_MARGIN = 6
_LONGEST = 26

Place = tuple[int, int]


def drawing_of(
    children: Mapping[str, Sequence[str]], works: Mapping[str, WorkInfo], current: str, link: Callable[[str], str]
) -> SafeString:
    """The SVG of a graph, `current` standing out; `link` gives the address of a work's page."""
    places = _places(children)
    wide = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    high = max(y for _, y in places.values()) + _HEIGHT + _MARGIN
    edges = ((_edge(places[each], places[child]),) for each, below in children.items() for child in below)
    boxes = ((_box(works[each], places[each], link(each), is_current=each == current),) for each in places)
    return format_html(
        '<svg class="work-graph" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="group" aria-label="Chain">'
        '<g class="work-edges">{2}</g>{3}</svg>',
        wide,
        high,
        format_html_join("", "{}", edges),
        format_html_join("", "{}", boxes),
    )


def _places(children: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    """Where each work stands: its column is the length of the longest way to it."""
    order = in_order(children)
    parents: dict[str, list[str]] = defaultdict(list)
    columns = dict.fromkeys(order, 0)
    for each in order:
        for child in children[each]:
            parents[child].append(each)
            columns[child] = max(columns[child], columns[each] + 1)
    rows: dict[str, int] = {}
    for column in range(max(columns.values()) + 1):
        several = [each for each in order if columns[each] == column]
        # Near to what leads there; in their order where nothing does.
        wanted = {each: _mean([rows[parent] for parent in parents[each]]) for each in several}
        rows |= {each: row for row, each in enumerate(sorted(several, key=wanted.__getitem__))}
    return {
        each: (_MARGIN + columns[each] * (_WIDTH + _ACROSS), _MARGIN + rows[each] * (_HEIGHT + _DOWN)) for each in order
    }


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _edge(start: Place, end: Place) -> SafeString:
    x, y = start[0] + _WIDTH, start[1] + _HEIGHT // 2
    to_x, to_y = end[0], end[1] + _HEIGHT // 2
    bend = _ACROSS // 2
    path = f"M{x},{y} C{x + bend},{y} {to_x - bend},{to_y} {to_x - 5},{to_y} m-5,-4 l5,4 l-5,4"
    return format_html('<path d="{}"/>', path)


def _box(info: WorkInfo, place: Place, address: str, *, is_current: bool) -> SafeString:
    name = info.worker_name
    return format_html(
        '<a href="{}" class="work-box work-{}"{}><title>{} {}</title>'
        '<rect x="{}" y="{}" width="{}" height="{}" rx="6"/><text x="{}" y="{}">{}</text>'
        '<text x="{}" y="{}" class="work-state">{}</text></a>',
        address,
        info.state.name.lower(),
        SafeString(' aria-current="true"' if is_current else ""),
        name,
        info.id,
        *place,
        _WIDTH,
        _HEIGHT,
        place[0] + 12,
        place[1] + 19,
        name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}",
        place[0] + 12,
        place[1] + 36,
        info.state.name,
    )
