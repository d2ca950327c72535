"""Graphs of works, drawn."""

from __future__ import annotations

import random

import pytest

from celery_workmanager.cli.graph import MARK, draw, in_order


def graph(text: str) -> dict[str, list[str]]:
    """The graph of "a>b a>c" and lonely works."""
    children: dict[str, list[str]] = {}
    for word in text.split():
        parent, _, child = word.partition(">")
        children.setdefault(parent, [])
        if child:
            children[parent].append(child)
            children.setdefault(child, [])
    return dict(sorted(children.items()))


def picture(text: str) -> str:
    return "\n".join(f"{row.lanes:<9}{row.work or ''}".rstrip() for row in draw(graph(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a", "*        a", id="one"),
        pytest.param("a>b b>c", "*        a\n*        b\n*        c", id="a chain"),
        pytest.param(
            "a>b a>c a>d b>e c>e d>e",
            """
*        a
├─┬─╮
* │ │    b
│ * │    c
│ │ *    d
├─┴─╯
*        e
""",
            id="a diamond",
        ),
        pytest.param(
            "a>c b>c",
            """
*        a
│ *      b
├─╯
*        c
""",
            id="a join of two beginnings",
        ),
        pytest.param(
            "a>x a>y b>x b>y",
            """
*        a
├─╮
│ │ *    b
├─┼─╯
* │      x
  *      y
""",
            id="every one after every one",
        ),
        pytest.param(
            "a>b a>e b>c c>d d>e",
            """
*        a
├─╮
* │      b
* │      c
* │      d
├─╯
*        e
""",
            id="a short cut",
        ),
        pytest.param(
            "a>b a>c b>d b>e c>e c>f d>g e>g f>g",
            """
*        a
├─╮
* │      b
├─│─╮
* │ │    d
│ * │    c
│ ├─┤
│ │ *    e
│ * │    f
├─┴─╯
*        g
""",
            id="a net",
        ),
        pytest.param(
            "a>b a>c d>c",
            """
*        a
├─╮
* │      b
  │ *    d
  ├─╯
  *      c
""",
            id="nothing begins right below an end",
        ),
        pytest.param("a>b c", "*        a\n*        b\n\n*        c", id="two that have nothing in common"),
    ],
)
def test_a_graph_is_drawn(text: str, expected: str):
    assert picture(text) == expected.strip("\n")


def read(children: dict[str, list[str]]) -> set[tuple[str, str]]:
    """The edges that an eye finds in the drawing: down the lanes, and along connectors into lanes that go on below."""
    found: set[tuple[str, str]] = set()
    sources: dict[int, set[str]] = {}
    last: tuple[int, str] | None = None
    for row in draw(children):
        signs = dict(enumerate(row.lanes[::2]))
        if row.work is not None:
            at = row.lanes.index(MARK) // 2
            found |= {(source, row.work) for source in sources.get(at, set())}
            sources = {col: known for col, known in sources.items() if signs.get(col) == "│"} | {at: {row.work}}
            last = at, row.work
            continue
        flow = {last[1]} if last is not None and signs.get(last[0], " ") in "├┤┼┴╯╰" else set()
        for col, sign in signs.items():
            if sign in "┴╯╰":
                flow |= sources.pop(col)
        for col, sign in signs.items():
            if sign in "├┤┬┼╮╭":
                sources[col] = sources.get(col, set()) | flow
        sources = {col: known for col, known in sources.items() if signs.get(col, " ") not in " ─"}
        last = None
    return found


def test_each_work_has_one_row_after_all_it_depends_on_and_every_edge_can_be_read_and_no_other():
    for seed in range(200):
        chance = random.Random(seed)
        names = [f"w{n:02}" for n in range(chance.randint(1, 20))]
        children = {
            name: [other for other in names[at + 1 :] if chance.random() < chance.choice((0.05, 0.15, 0.4))]
            for at, name in enumerate(names)
        }
        rows = draw(children)
        assert sorted(row.work for row in rows if row.work is not None) == names
        assert sorted(in_order(children)) == names
        assert all(row.lanes.count(MARK) == (row.work is not None) for row in rows)
        assert read(children) == {(parent, child) for parent, below in children.items() for child in below}
