"""What a request knows of its place in a canvas: root, parent, group, priority, stamps, headers."""

from __future__ import annotations

from celery import chain, chord, group

from tests.canvas.canvas_app import Label
from tests.canvas.cases import Table

KNOWING = Table()
case = KNOWING.case

NO_MEMBER = "the body of a chord is no member of the header's group; Celery notes the group's id with it"


# -- where it stands -------------------------------------------------------------------------------------------------


@case({"a": ["a", None, None, None]}, core=True)
def a_task_alone(t, stage):
    return places([stage.value(t.facts.s(label="a"))])


@case({"a": ["a", None, None, None], "b": ["a", "a", None, None], "c": ["a", "b", None, None]}, core=True)
def a_chain_knows_its_root_and_parents(t, stage):
    return noted_places(stage, chain(*(fact(t, stage, label) for label in "abc")), 3)


@case({"a": ["a", None, "g", 0], "b": ["b", None, "g", 1]})
def the_members_of_a_group_are_their_own_roots(t, stage):
    return noted_places(stage, group(fact(t, stage, label) for label in "ab"), 2)


@case({"a": ["a", None, None, None], "b": ["a", "a", "g", 0], "c": ["a", "a", "g", 1]}, core=True)
def a_group_after_a_task_knows_its_root(t, stage):
    return noted_places(stage, fact(t, stage, "a") | group(fact(t, stage, "b"), fact(t, stage, "c")), 3)


@case(
    {"a": ["a", None, None, None], "b": ["a", "a", "g", 0], "c": ["a", "a", "g", 1], "d": ["a", "header", None, None]},
    plain=(
        {
            "a": ["a", None, None, None],
            "b": ["a", "a", "g", 0],
            "c": ["a", "a", "g", 1],
            "d": ["a", "header", "g", None],
        },
    ),
    why=NO_MEMBER,
)
def a_body_knows_its_root_and_the_one_that_set_it_off(t, stage):
    canvas = fact(t, stage, "a") | chord([fact(t, stage, "b"), fact(t, stage, "c")], fact(t, stage, "d"))
    return header_places(noted_places(stage, canvas, 4), "d", "bc")


@case(
    {
        "a": ["a", None, "g", 0],
        "b": ["b", None, "g", 1],
        "c": ["header", "header", None, None],
        "d": ["header", "c", None, None],
    },
    plain=(
        {
            "a": ["a", None, "g", 0],
            "b": ["b", None, "g", 1],
            "c": ["header", "header", None, None],
            "d": ["header", "c", "g", None],
        },
    ),
    why=NO_MEMBER,
)
def a_chord_without_anything_before(t, stage):
    canvas = chord([fact(t, stage, "a"), fact(t, stage, "b")], fact(t, stage, "c") | fact(t, stage, "d"))
    found = noted_places(stage, canvas, 4)
    return header_places(header_places(found, "c", "ab"), "d", "ab", keep_parent=True)


@case(
    {
        "a": ["a", None, None, None],
        "b": ["a", "a", None, None],
        "c": ["a", "b", None, None],
        "d": ["a", "c", None, None],
    }
)
def a_chain_in_a_chain_knows_its_root(t, stage):
    canvas = chain(fact(t, stage, "a"), chain(fact(t, stage, "b"), fact(t, stage, "c")), fact(t, stage, "d"))
    return noted_places(stage, canvas, 4)


@case({"a": ["a", None, None, None], "b": ["a", "a", None, None], "c": ["a", "b", "g", 0], "d": ["a", "a", "g", 1]})
def a_chain_in_a_group_is_of_the_group(t, stage):
    canvas = fact(t, stage, "a") | group(fact(t, stage, "b") | fact(t, stage, "c"), fact(t, stage, "d"))
    return noted_places(stage, canvas, 4)


@case({"a": ["a", None, None, None], "b": ["a", "a", None, None]})
def a_link_is_of_what_it_follows(t, stage):
    canvas = fact(t, stage, "a")
    canvas.link(fact(t, stage, "b"))
    return noted_places(stage, canvas, 2)


@case({"a": ["a", None, None, None], "b": ["a", "b", None, None], "c": ["a", "b", None, None]})
def what_replaces_stands_where_it_stood(t, stage):
    canvas = chain(fact(t, stage, "a"), t.swap.si(to=fact(t, stage, "b")), fact(t, stage, "c"))
    return noted_places(stage, canvas, 3)


@case({"a": ["a", None, "g", 0], "b": ["b", "b", "g", 1]})
def what_replaces_a_member_of_a_group_stays_in_it(t, stage):
    return noted_places(stage, group(fact(t, stage, "a"), t.swap.si(to=fact(t, stage, "b"))), 2)


@case({"one group": True})
def the_members_of_a_group_share_its_id(t, stage):
    result = group(t.facts.s(label="a"), t.facts.s(label="b"), t.echo.s() | t.facts.s(label="c")).apply_async()
    groups = {fact["group"] for fact in stage.value(result)}
    return {"one group": groups == {result.id}}


@case({"root": "chosen", "parent": "another"})
def root_and_parent_may_be_given(t, stage):
    result = t.facts.apply_async(kwargs={"label": "a"}, root_id="chosen", parent_id="another")
    found = stage.value(result)
    return {"root": found["root"], "parent": found["parent"]}


@case({"value": 2, "id": True}, mixed=False)
def an_id_may_be_given_to_a_chain(t, stage):
    key = f"chosen-{stage.key}"
    result = (t.echo.s(1) | t.plus.s(1)).apply_async(task_id=key)
    return {"value": stage.value(result), "id": result.id == key}


@case({"value": 3, "id": True})
def freezing_tells_the_id_beforehand(t, stage):
    canvas = t.plus.s(1) | t.plus.s(1)
    canvas.tasks[0].args = (1, 0)
    frozen = canvas.freeze()
    result = canvas.clone().apply_async()
    return {"value": stage.value(result) + 1, "id": isinstance(frozen.id, str)}


# -- priority and headers --------------------------------------------------------------------------------------------


@case(5)
def a_priority_reaches_the_task(t, stage):
    return stage.value(t.urgency.s().set(priority=5))


@case([3, 5])
def each_member_has_its_priority(t, stage):
    return stage.value(group(t.urgency.s().set(priority=3), t.urgency.s().set(priority=5)))


@case(4)
def a_priority_in_a_chain(t, stage):
    return stage.value(t.echo.s(1).set(priority=2) | t.urgency.s().set(priority=4))


@case([1, 5])
def a_priority_in_a_header_and_a_body(t, stage):
    canvas = chord([t.urgency.s().set(priority=1)], t.pair_urgency.s().set(priority=5))
    return stage.value(canvas)


@case("x")
def a_header_reaches_the_task(t, stage):
    return stage.value(t.header.s(name="my_header").apply_async(headers={"my_header": "x"}))


# -- stamps ----------------------------------------------------------------------------------------------------------


@case({"colour": "red"}, core=True)
def a_stamp_reaches_the_task(t, stage):
    canvas = t.stamps.s()
    canvas.stamp(colour="red")
    return stage.value(canvas)


@case({"colour": ["green", "red"]})
def a_stamp_may_be_a_list(t, stage):
    canvas = t.stamps.s()
    canvas.stamp(colour=["red", "green"])
    return {name: sorted(values) for name, values in stage.value(canvas).items()}


@case({"colour": "red"})
def a_stamp_survives_a_retry(t, stage):
    canvas = t.stamped_again.s()
    canvas.stamp(colour="red")
    return stage.value(canvas)


@case([{"colour": "red"}, {"colour": "red"}, {"colour": "red"}], core=True)
def a_visitor_stamps_every_member_of_a_chain(t, stage):
    return stamped(stage, chain(*(t.stamps.s(key=stage.key) for _ in range(3))), 3)


@case([{"colour": "red"}, {"colour": "red"}])
def a_visitor_stamps_every_member_of_a_group(t, stage):
    return stamped(stage, group(t.stamps.s(key=stage.key) for _ in range(2)), 2)


@case([{"colour": "red"}] * 4)
def a_visitor_stamps_header_body_and_what_follows(t, stage):
    return stamped(
        stage, chord([t.stamps.s(key=stage.key)] * 2, t.stamps.s(key=stage.key)) | t.stamps.s(key=stage.key), 4
    )


@case([{"colour": "red"}] * 2)
def a_visitor_stamps_links(t, stage):
    canvas = t.stamps.s(key=stage.key)
    canvas.link(t.stamps.s(key=stage.key))
    return stamped(stage, canvas, 2)


@case([{"colour": "red"}])
def a_visitor_stamps_errbacks(t, stage):
    canvas = t.boom.s().on_error(t.stamps.s(key=stage.key))
    return stamped(stage, canvas, 1)


@case([{}, {}])
def what_replaces_has_its_own_stamps(t, stage):
    return stamped(stage, t.swap.s(to=t.stamps.s(key=stage.key) | t.stamps.s(key=stage.key)), 2)


# -- what cases share ------------------------------------------------------------------------------------------------


def fact(t, stage, label):
    return t.facts.s(label=label, key=stage.key)


def noted_places(stage, canvas, count):
    """What each task of the canvas knew: its root, its parent, its group, its place in the group, by label."""
    canvas.apply_async()
    return places(stage.notes(count))


def places(found):
    labels = {fact["id"]: fact["label"] for fact in found}
    return {
        fact["label"]: [
            labels.get(fact["root"], fact["root"]),
            labels.get(fact["parent"], fact["parent"]),
            fact["group"] and "g",
            fact["index"],
        ]
        for fact in sorted(found, key=lambda fact: fact["label"])
    }


def header_places(found, label, header, *, keep_parent=False):
    """The same, with the one of the header that set the body off left open."""
    root, parent, group_id, index = found[label]
    members = set(header)
    return {
        **found,
        label: [
            "header" if root in members else root,
            "header" if parent in members and not keep_parent else parent,
            group_id,
            index,
        ],
    }


def stamped(stage, canvas, count):
    canvas.stamp(visitor=Label(colour="red"))
    canvas.apply_async()
    return stage.notes(count)
