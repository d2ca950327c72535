"""``work tree``: a chain, drawn."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.common import FINE, TROUBLE, command, option, query, read
from celery_workmanager.cli.graph import MARK, Row, draw
from celery_workmanager.cli.screen import LOOKS, Cell, Cells, Column, Screen, clean, number
from celery_workmanager.overview import MOST_RELATED, family
from celery_workmanager.work import WorkInfo

#: More works than this that stand between the same works, for the same worker and in the same state, share a row.
_MOST_ALIKE = 5
#: The drawing is cut beyond this many lanes.
_MOST_LANES = 24
_COLUMNS = (
    Column(""),
    Column("WORKER", least=12, ends_matter=True),
    Column("STATE"),
    Column("NOTE", least=12, may_go=True),
    Column("ID", least=36),
)

_Graph = dict[str, list[str]]


@command("tree")
@click.argument("target", metavar="ID|NAME")
@option("--expand", is_flag=True, help="A row for each work, however many are alike.")
def tree_command(screen: Screen, manager: WorkManager, *, target: str, expand: bool) -> int:
    """Draw the chain that a work belongs to, or the works of a unique name.

    Works depend on those above that lead to them. Of more than five works that are alike (same worker, state,
    prerequisites and dependents) one row tells the number.
    """
    roots = manager.get_work_infos(query(ids=(target,)))
    roots = roots or manager.get_work_infos(query(unique_names=(target,), limit=MOST_RELATED))
    graph, more = read(manager.store, lambda connection: family(connection, [info.id for info in roots]))
    works = {info.id: info for info in manager.infos_of(sorted(graph))}
    graph = {each: [child for child in graph[each] if child in works] for each in works}
    if screen.as_json:
        documents = [{**info.to_dict(), "dependents": graph[info.id]} for info in works.values()]
        screen.json({"works": documents, "more": more})
    elif works:
        _show(screen, works, graph, more=more, expand=expand)
    else:
        screen.warn(f"No work has the id or the unique name {clean(target)}.")
    return FINE if works else TROUBLE


def _show(screen: Screen, works: Mapping[str, WorkInfo], graph: _Graph, *, more: bool, expand: bool) -> None:
    alike = {} if expand else _alike(works, graph)
    hidden = {each for group in alike.values() for each in group[1:]}
    shown = {
        each: [child for child in below if child not in hidden] for each, below in graph.items() if each not in hidden
    }
    room = min(_MOST_LANES * 2, (screen.size[0] or sys.maxsize) // 3)
    screen.table(_COLUMNS, [_cells(row, works, alike, room) for row in draw(shown)])
    screen.say(words.summary(info.state for info in works.values()), dim=True)
    if more:
        screen.say(f"… and more: these are the nearest {number(len(works))}", dim=True)


def _alike(works: Mapping[str, WorkInfo], graph: _Graph) -> dict[str, list[str]]:
    """Large groups of works that stand in the same place, each under its first."""
    groups: dict[object, list[str]] = defaultdict(list)
    for info in works.values():
        place = (tuple(sorted(info.prerequisites)), tuple(graph[info.id]))
        groups[info.worker_name, info.state, place].append(info.id)
    return {group[0]: group for group in groups.values() if len(group) > _MOST_ALIKE}


def _cells(row: Row, works: Mapping[str, WorkInfo], alike: Mapping[str, list[str]], room: int) -> Cells:
    lanes = _narrow(row.lanes, room)
    if row.work is None:
        return [lanes, "", "", "", ""]
    info = works[row.work]
    sign, style = LOOKS[info.state]
    before, after = lanes.split(MARK)
    picture = (Cell(before), Cell(sign, style), Cell(after))
    state = Cell(info.state.name, style)
    if info.id in alike:
        return [picture, f"{number(len(alike[info.id]))} × {clean(info.worker_name)}", state, "", ""]
    return [picture, clean(info.worker_name), state, words.note(info), info.id]


def _narrow(lanes: str, room: int) -> str:
    if len(lanes) <= room:
        return lanes
    return lanes[:room] + "… " + (MARK if lanes.find(MARK) >= room else "")
