"""Canvases of every form, by what comes out at their end."""

from __future__ import annotations

import json

from celery import chain, chord, group, signature

from tests.canvas.cases import Table

SHAPES = Table()
shape, case = SHAPES.shape, SHAPES.case

# -- single tasks, and what is handed on -----------------------------------------------------------------------------

shape("one task", lambda t: t.plus.s(1, 2), 3, core=True)
shape("keyword arguments", lambda t: t.given.s(1, b=2), {"args": [1], "kwargs": {"b": 2}})
shape("a value goes before the arguments", lambda t: t.echo.s(1) | t.given.s(2), {"args": [1, 2], "kwargs": {}})
shape("a value beside keywords", lambda t: t.echo.s(1) | t.given.s(k=2), {"args": [1], "kwargs": {"k": 2}})
shape("an immutable member takes no value", lambda t: t.echo.s(1) | t.given.si(2), {"args": [2], "kwargs": {}})
shape("None is handed on", lambda t: t.echo.s(None) | t.given.s(), {"args": [None], "kwargs": {}})
shape("zero is handed on", lambda t: t.echo.s(0) | t.given.s(), {"args": [0], "kwargs": {}})
shape("an empty list is handed on", lambda t: t.echo.s([]) | t.given.s(), {"args": [[]], "kwargs": {}})
shape("a mapping is handed on", lambda t: t.echo.s({"a": 1}) | t.given.s(), {"args": [{"a": 1}], "kwargs": {}})
shape("a text is handed on", lambda t: t.echo.s("a") | t.plus.s("b"), "ab")
shape("a task that keeps no result hands it on", lambda t: t.quiet.s(4) | t.plus.s(1), 5)

# -- chains ----------------------------------------------------------------------------------------------------------

shape("chain", lambda t: chain(t.plus.s(1, 1), t.plus.s(2), t.plus.s(3)), 7, core=True)
shape("chain of one", lambda t: chain(t.plus.s(1, 2)), 3)
shape("chain of a chain of one", lambda t: chain([chain(t.plus.s(1, 2))]), 3)
shape("chain in a chain", lambda t: chain(t.plus.s(1, 1), chain(t.plus.s(2), t.times.s(3)), t.plus.s(4)), 16)
shape("chain of chains", lambda t: (t.plus.s(1, 1) | t.plus.s(2)) | (t.times.s(3) | t.plus.s(4)), 16)
shape("chain from a generator", lambda t: chain(t.plus.s(i, 0) if not i else t.plus.s(i) for i in range(5)), 10)
shape("chain of 20", lambda t: chain(t.echo.s(0), *[t.plus.s(1) for _ in range(19)]), 19)
shape("chain of 100", lambda t: chain(t.echo.s(0), *[t.plus.s(1) for _ in range(99)]), 99, mixed=False)
shape("chain that has been to JSON", lambda t: through_json(t.plus.s(1, 1) | t.plus.s(2) | t.times.s(3)), 12)

# -- groups ----------------------------------------------------------------------------------------------------------

shape("group", lambda t: group(t.plus.s(i, i) for i in range(4)), [0, 2, 4, 6], core=True)
shape("group of one", lambda t: group(t.plus.s(1, 1)), [2])
shape("empty group", lambda t: t and group([], app=t.echo.app), [])
shape("group in a group", lambda t: group(t.echo.s(1), group(t.echo.s(2), t.echo.s(3))), [1, 2, 3])
shape(
    "groups three deep",
    lambda t: group(group(group(t.echo.s(1), t.echo.s(2)), t.echo.s(3)), group(t.echo.s(4))),
    [1, 2, 3, 4],
)
shape("group of chains", lambda t: group(t.plus.s(i, 1) | t.times.s(2) for i in range(3)), [2, 4, 6])
shape("chord in a group", lambda t: group(t.echo.s(1), chord([t.echo.s(2), t.echo.s(3)], t.total.s())), [1, 5])
shape(
    "group in which a chain ends in a group",
    lambda t: group(t.echo.s(1), chain(t.echo.s(2), group(t.plus.s(3), t.plus.s(4)))),
    [1, [5, 6]],
)
shape(
    "group of nothing but a chain that ends in a group",
    lambda t: group(t.plus.s(1, 2) | group(t.plus.s(1), t.plus.s(2))),
    [4, 5],
)
shape("group of 200", lambda t: group(t.echo.s(i) for i in range(200)), list(range(200)))
shape("group that has been to JSON", lambda t: through_json(group(t.echo.s(1), t.echo.s(2) | t.plus.s(3))), [1, 5])
shape("group with an empty chain", lambda t: group(t.echo.s(1), chain(), t.echo.s(2)), [1, 2], since=(5, 7))

# -- groups in chains ------------------------------------------------------------------------------------------------

shape("task | group", lambda t: t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)), [2, 3], core=True)
shape("group | task", lambda t: group(t.echo.s(1), t.echo.s(2)) | t.total.s(), 3, core=True)
shape("group | task | task", lambda t: group(t.echo.s(1), t.echo.s(2)) | t.total.s() | t.plus.s(4), 7)
shape(
    "task | group | task", lambda t: t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)) | t.total.s(), 5, core=True
)  # fmt: skip
shape(
    "task | group | task | group",
    lambda t: t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)) | t.total.s() | group(t.plus.s(10), t.plus.s(20)),
    [15, 25],
)
shape(
    "group | group",
    lambda t: group(t.echo.s(1), t.echo.s(2)) | group(t.total.s(), t.echo.s()),
    [3, [1, 2]],
)
shape(
    "group | group | group",
    lambda t: group(t.echo.s(1), t.echo.s(2)) | group(t.echo.s(), t.total.s()) | group(t.echo.s(), t.total.s()),
    [[[1, 2], 3], 6],
    plain=([3, 3], [[1, 2], 3]),
    why="Celery starts a group once for each member of the group before it, when that one is the body of a chord",
)
shape(
    "chain of four groups and a task",
    lambda t: chain(
        group(t.echo.s(1), t.echo.s(2)),
        group(t.total.s(), t.total.s()),
        group(t.echo.s(), t.total.s()),
        group(t.total.s(), t.total.s()),
        t.total.s(),
    ),
    24,
    plain=(12,),
    why="Celery starts a group once for each member of the group before it, when that one is the body of a chord",
)
shape(
    "group | group | group | task",
    lambda t: (
        group(t.echo.s(1), t.echo.s(2)) | group(t.total.s(), t.total.s()) | group(t.echo.s(), t.total.s()) | t.total.s()
    ),
    12,
)
shape(
    "group | group | task",
    lambda t: group(t.echo.s(1), t.echo.s(2)) | group(t.echo.s(), t.total.s()) | t.echo.s(),
    [[1, 2], 3],
)
shape(
    "task | group | group | task",
    lambda t: t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)) | group(t.total.s(), t.total.s()) | t.total.s(),
    10,
)
shape("group of one | task", lambda t: group(t.echo.s(3)) | t.given.s(), {"args": [[3]], "kwargs": {}})
shape(
    "chain of a group of one and a task", lambda t: chain(group(t.echo.s(3)), t.given.s()), {"args": [3], "kwargs": {}}
)
shape(
    "group from a generator of one | task",
    lambda t: group(t.echo.s(i) for i in range(1)) | t.given.s(),
    {"args": [[0]], "kwargs": {}},
)
shape("task | group of one | task", lambda t: t.echo.s(3) | group(t.plus.s(1)) | t.plus.s(1), 5)
shape("task | group of one", lambda t: t.echo.s(3) | group(t.plus.s(1)), 4)
shape("chain with an empty group inside", lambda t: chain(t.echo.s(1), group(), t.plus.s(1)), 2)
shape("chain that begins with an empty group", lambda t: chain(group(), t.echo.s(1), t.plus.s(1)), 2)
shape(
    "group, an empty group, task",
    lambda t: chain(group(t.echo.s(1), t.echo.s(2)), group(), t.total.s()),
    3,
    since=(5, 7),
)
shape(
    "chain in a group in a chain",
    lambda t: t.echo.s(1) | group(t.plus.s(1) | t.times.s(5), t.echo.s()) | t.total.s(),
    11,
)
shape(
    "group in a group in a chain",
    lambda t: t.echo.s(1) | group(t.plus.s(1), group(t.plus.s(2), t.plus.s(3))) | t.total.s(),
    9,
)
shape(
    "immutable members after a group",
    lambda t: group(t.echo.s(1), t.echo.s(2)) | t.given.si(3) | t.given.s(),
    {"args": [{"args": [3], "kwargs": {}}], "kwargs": {}},
)
shape(
    "a group of immutable members in a chain",
    lambda t: t.echo.s(1) | group(t.echo.si(2), t.echo.si(3)) | t.total.s(),
    5,
)

# -- chords ----------------------------------------------------------------------------------------------------------

shape("chord", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s()), 3, core=True)
shape("chord of one", lambda t: chord([t.echo.s(1)], t.given.s()), {"args": [[1]], "kwargs": {}})
shape("chord of one signature", lambda t: chord(t.echo.s(1), t.given.s()), {"args": [[1]], "kwargs": {}})
shape("chord with an empty header", lambda t: chord([], t.given.s(), app=t.echo.app), {"args": [[]], "kwargs": {}})
shape("chord over a generator", lambda t: chord((t.echo.s(i) for i in range(5)), t.total.s()), 10)
shape("chord of 100", lambda t: chord([t.echo.s(i) for i in range(100)], t.echo.s()), list(range(100)))
shape("chord in order", lambda t: chord([t.echo.s(i) for i in range(12)], t.echo.s()), list(range(12)))
shape(
    "chord whose body takes more",
    lambda t: chord([t.echo.s(1)], t.given.s(2, k=3)),
    {"args": [[1], 2], "kwargs": {"k": 3}},
)
shape("chord with an immutable body", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.echo.si(9)), 9)
shape("chord | task", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s()) | t.plus.s(1), 4)
shape("task | chord", lambda t: t.echo.s(1) | chord([t.plus.s(1), t.plus.s(2)], t.total.s()), 5, core=True)
shape(
    "chord | chord",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s()) | chord([t.plus.s(1), t.plus.s(2)], t.total.s()),
    9,
)
shape(
    "chord | group",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s()) | group(t.plus.s(1), t.plus.s(2)),
    [4, 5],
)
shape(
    "chord | group | task",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s()) | group(t.plus.s(1), t.plus.s(2)) | t.total.s(),
    9,
)
shape(
    "group | chord",
    lambda t: group(t.echo.s(1), t.echo.s(2)) | chord([t.total.s(), t.total.s()], t.total.s()),
    6,
)
shape(
    "chain of nine chords",
    lambda t: chain(
        chord([t.echo.s(1), t.echo.s(0)], t.total.s()),
        *[chord([t.plus.s(1), t.plus.s(0)], t.total.s()) for _ in range(8)],
    ),
    511,
)
shape(
    "chain of nine upgraded chords",
    lambda t: chain(t.echo.s(1), *[each for _ in range(9) for each in (group(t.plus.s(1), t.echo.s()), t.total.s())]),
    1023,
)
shape(
    "chain in the header", lambda t: chord([t.plus.s(1, 1) | t.times.s(5), t.echo.s(3)], t.echo.s()), [10, 3], core=True
)
shape(
    "chord in the header",
    lambda t: chord([chord([t.echo.s(1), t.echo.s(2)], t.total.s()), t.echo.s(5)], t.echo.s()),
    [3, 5],
    core=True,
)
shape(
    "chain that ends in a chord in the header",
    lambda t: chord([t.echo.s(1) | chord([t.plus.s(1), t.plus.s(2)], t.total.s()), t.echo.s(5)], t.echo.s()),
    [5, 5],
)
shape(
    "chain that begins with a group in the header",
    lambda t: chord([group(t.echo.s(1), t.echo.s(2)) | t.total.s(), t.echo.s(5)], t.echo.s()),
    [3, 5],
)
shape(
    "chain with a group inside in the header",
    lambda t: chord([t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)) | t.total.s(), t.echo.s(5)], t.echo.s()),
    [5, 5],
)
shape(
    "group at the end of a chain in the header",
    lambda t: chord([t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)), t.echo.s(5)], t.total.s()),
    10,
)
shape(
    "the list of a group at the end of a chain in the header",
    lambda t: chord([t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)), t.echo.s(5)], t.echo.s()),
    [[2, 3], 5],
    core=True,
)
shape(
    "the list of a group at the end of the only chain in the header",
    lambda t: chord(group(t.echo.s(1) | group(t.plus.s(1), t.plus.s(2))), t.echo.s()),
    [[2, 3]],
)
shape(
    "the list of a group that is a body in the header",
    lambda t: chord([chord([t.echo.s(1), t.echo.s(2)], group(t.total.s(), t.echo.s())), t.echo.s(5)], t.echo.s()),
    [[3, [1, 2]], 5],
)
shape(
    "lists of groups at the ends of chains in groups at the ends of chains",
    lambda t: chord(
        [t.echo.s(1) | group(t.plus.s(1), t.plus.s(2) | group(t.plus.s(3), t.plus.s(4))), t.echo.s(5)], t.echo.s()
    ),
    [[2, [6, 7]], 5],
)
shape(
    "the list of a group at the end of a chain reaches each of a group",
    lambda t: group(t.echo.s(1) | group(t.plus.s(1), t.plus.s(2)), t.echo.s(5)) | group(t.echo.s(), t.total.s()),
    [[[2, 3], 5], 10],
)
shape("group in the header", lambda t: chord([t.echo.s(1), group(t.echo.s(2), t.echo.s(4))], t.total.s()), 7)
shape(
    "the order of a group in the header",
    lambda t: chord([t.echo.s("a"), group(t.echo.s("b"), t.echo.s("c"))], t.echo.s()),
    ["a", "b", "c"],
    plain=(["a", "c", "b"], ["a", "b", "c"]),
    why="Celery numbers the members of the inner group from 0 again, so two of them have the same place",
)
shape(
    "chords four deep in headers",
    lambda t: chord(
        [
            chord(
                [chord([chord([t.echo.s(1), t.echo.s(2)], t.echo.s()), t.echo.s(3)], t.echo.s()), t.echo.s(4)],
                t.echo.s(),
            )
        ],
        t.echo.s(),
    ),
    [[[[1, 2], 3], 4]],
)
shape("chain as the body", lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s() | t.plus.s(1) | t.times.s(2)), 8)
shape("group as the body", lambda t: chord([t.echo.s(1), t.echo.s(2)], group(t.total.s(), t.echo.s())), [3, [1, 2]])
shape(
    "chord as the body",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], chord([t.total.s(), t.total.s()], t.total.s())),
    6,
    core=True,
)
shape(
    "chords three deep in bodies",
    lambda t: chord(
        [t.echo.s(1), t.echo.s(2)],
        chord([t.total.s(), t.total.s()], chord([t.total.s(), t.total.s()], t.total.s())),
    ),
    12,
)
shape(
    "a body that ends in a group",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s() | group(t.plus.s(1), t.plus.s(2))),
    [4, 5],
)
shape(
    "a body with a group inside",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], t.total.s() | group(t.plus.s(1), t.plus.s(2)) | t.total.s()),
    9,
)
shape(
    "a body that is a group of chains",
    lambda t: chord([t.echo.s(1), t.echo.s(2)], group(t.total.s() | t.plus.s(1), t.echo.s() | t.total.s())),
    [4, 3],
)
shape(
    "a group of chords as a header",
    lambda t: group(chord([t.echo.s(1), t.echo.s(i)], t.total.s()) for i in range(3)) | t.echo.s(),
    [1, 2, 3],
)
shape(
    "a tree of everything",
    lambda t: chain(
        group(t.echo.s(1), chain(t.echo.s(2), t.plus.s(3)), chord([t.echo.s(4), t.echo.s(5)], t.total.s())),
        t.total.s(),
        group(t.plus.s(1), chain(t.plus.s(2), group(t.plus.s(3), t.plus.s(4)), t.total.s())),
        chord([t.total.s(), t.echo.s()], t.total.s() | t.plus.s(1)),
    ),
    115,
    core=True,
)
shape("chord that has been to JSON", lambda t: through_json(chord([t.echo.s(1), t.echo.s(2)], t.total.s())), 3)
shape(
    "a tree that has been to JSON",
    lambda t: through_json(
        t.echo.s(1) | group(t.plus.s(1), t.plus.s(2) | t.plus.s(3)) | chord([t.total.s(), t.echo.s()], t.total.s())
    ),
    16,
)
shape("a header that keeps no results", lambda t: chord([t.quiet.s(1), t.echo.s(2)], t.echo.s()), [1, 2])

# -- map, starmap, chunks --------------------------------------------------------------------------------------------

shape("map", lambda t: t.plus.map([1, 2, 3]), [1, 2, 3], core=True)
shape("starmap", lambda t: t.plus.starmap([(1, 2), (3, 4)]), [3, 7])
shape("chunks", lambda t: t.plus.chunks([(i, 1) for i in range(5)], 2), [[1, 2], [3, 4], [5]], core=True)
shape("chunks as a group", lambda t: t.plus.chunks([(i, 1) for i in range(5)], 2).group(), [[1, 2], [3, 4], [5]])
shape("map of nothing", lambda t: t.plus.map([]), [])
shape("map | task", lambda t: t.plus.map([1, 2]) | t.total.s(), 3)
shape("task | map", lambda t: t.echo.s(9) | t.plus.map([1, 2]), [1, 2])
shape("task | starmap | task", lambda t: t.echo.s(9) | t.plus.starmap([(1, 2), (3, 4)]) | t.total.s(), 10)
shape("chunks | task", lambda t: t.plus.chunks([(i, 1) for i in range(5)], 2).group() | t.total.s(), 15)
shape("task | chunks", lambda t: t.echo.s(9) | t.plus.chunks([(1, 1), (2, 2)], 1).group(), [[2], [4]])
shape("maps in a group", lambda t: group(t.plus.map([1, 2]), t.plus.starmap([(3, 4)])), [[1, 2], [7]])
shape("maps in a header", lambda t: chord([t.plus.map([1, 2]), t.plus.starmap([(3, 4)])], t.total.s()), 10)
shape("map as a body", lambda t: chord([t.echo.s(1)], t.plus.map([1, 2])), [1, 2])
shape("map that raises", lambda t: t.boom.map([1, 2]), ("ValueError", "boom"))
shape(
    "chunks of which one raises",
    lambda t: t.times.chunks([(1, 2), (1, None)], 1),
    [[2], ("TypeError", "unsupported operand type(s) for *: 'int' and 'NoneType'")],
)

# -- what is given at the call ---------------------------------------------------------------------------------------


@case(6)
def a_partial_chain_is_given_its_first_argument(t, stage):
    return stage.value(t.plus.s(2) | t.plus.s(3), 1)


@case(16)
def a_chain_is_called(t, stage):
    return stage.value((t.plus.s(4) | t.times.s(2))(4))


@case({"args": [1, 2], "kwargs": {"a": 3, "b": 4}})
def a_signature_is_given_more_of_both(t, stage):
    return stage.value(t.given.s(2, a=3).apply_async((1,), {"b": 4}))


@case({"args": [1], "kwargs": {"k": 2}})
def keywords_at_the_call_reach_the_first_of_a_chain(t, stage):
    return stage.value((t.given.s() | t.echo.s()).apply_async((1,), {"k": 2}))


@case([11, 12])
def a_group_is_given_arguments(t, stage):
    return stage.value(group(t.plus.s(1), t.plus.s(2)), 10)


@case([{"args": [1], "kwargs": {"k": 2}}, {"args": [1, 5], "kwargs": {"k": 2}}])
def a_group_is_given_keywords(t, stage):
    return stage.value(group(t.given.s(), t.given.s(5)).apply_async((1,), {"k": 2}))


@case(23)
def a_chord_is_given_arguments(t, stage):
    return stage.value(chord([t.plus.s(1), t.plus.s(2)], t.total.s()), 10)


@case(9)
def a_chord_is_called_with_its_body(t, stage):
    return stage.value(chord([t.echo.s(4), t.echo.s(5)])(t.total.s()))


@case(23)
def a_chain_that_begins_with_a_group_is_given_arguments(t, stage):
    return stage.value(group(t.plus.s(1), t.plus.s(2)) | t.total.s(), 10)


@case([[10, 1], [[11, 12], 3]])
def a_chain_in_a_group_is_given_arguments(t, stage):
    canvas = group(
        t.echo.s() | group(t.echo.s(), t.plus.s(-9)),
        t.echo.s() | group(t.plus.s(1), t.plus.s(2)) | group(t.echo.s(), t.echo.si(3)),
    )
    return stage.value(canvas, 10)


@case(7)
def a_copy_is_what_it_was_copied_from(t, stage):
    whole = t.plus.s(1, 1) | t.plus.s(2)
    return stage.value(whole.clone() | t.plus.s(3))


@case([3, 3])
def a_canvas_may_be_started_twice(t, stage):
    canvas = t.plus.s(1, 1) | t.plus.s(1)
    return [stage.value(canvas), stage.value(canvas)]


@case([6, 6])
def a_chord_may_be_started_twice(t, stage):
    canvas = group(t.echo.s(1), t.echo.s(2)) | t.total.s() | t.plus.s(3)
    return [stage.value(canvas), stage.value(canvas)]


def through_json(canvas):
    """The canvas as it is after a journey as JSON."""
    return signature(json.loads(json.dumps(canvas)), app=canvas.app)
