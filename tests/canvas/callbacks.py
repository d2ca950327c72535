"""Callbacks: `link` on everything that can be linked to, and whether it is called, with what, and how often."""

from __future__ import annotations

from celery import chain, chord, group

from tests.canvas.cases import Table

CALLBACKS = Table()
case = CALLBACKS.case


@case({"value": 3, "notes": [[3]]}, core=True)
def a_link_hears_the_value(t, stage):
    return said(stage, t.plus.s(1, 2).set(link=t.hear.s(key=stage.key)))


@case({"value": 3, "notes": [[3]]})
def a_link_given_at_the_call(t, stage):
    result = t.plus.apply_async((1, 2), link=t.hear.s(key=stage.key))
    return {"value": stage.value(result), "notes": stage.notes(1)}


@case({"value": 3, "notes": ["done"]})
def an_immutable_link_hears_nothing(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(t.note.si(stage.key, "done"))
    return said(stage, canvas)


@case({"value": 3, "notes": [[3, "more"], [3]]})
def two_links_hear_both(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(t.hear.s(key=stage.key))
    canvas.link(t.hear.s("more", key=stage.key))
    return said(stage, canvas, 2)


@case({"value": 3, "notes": [[3]]})
def the_same_link_twice_is_one(t, stage):
    canvas = t.plus.s(1, 2)
    link = t.hear.s(key=stage.key)
    canvas.link(link)
    canvas.link(link)
    return said(stage, canvas)


@case({"value": 3, "notes": [[13]]})
def a_link_may_be_a_chain(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(t.plus.s(10) | t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": 3, "notes": [[3, 1], [3, 2]]})
def a_link_may_be_a_group(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(group(t.hear.s(1, key=stage.key), t.hear.s(2, key=stage.key)))
    return said(stage, canvas, 2)


@case({"value": 3, "notes": [[9]]})
def a_link_may_be_a_chord(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(chord([t.plus.s(1), t.plus.s(2)], t.total.s() | t.hear.s(key=stage.key)))
    return said(stage, canvas)


@case({"value": 3, "notes": [[3], [[3]]]})
def a_link_has_a_link(t, stage):
    inner = t.hear.s(key=stage.key)
    inner.link(t.hear.s(key=stage.key))
    canvas = t.plus.s(1, 2)
    canvas.link(inner)
    return said(stage, canvas, 2)


@case({"value": 3, "notes": ["kept"]})
def a_link_that_fails_changes_nothing(t, stage):
    canvas = t.plus.s(1, 2)
    canvas.link(t.boom.s())
    canvas.link(t.note.si(stage.key, "kept"))
    return said(stage, canvas)


@case({"value": ("ValueError", "boom"), "notes": []})
def a_link_of_what_fails_is_not_called(t, stage):
    canvas = t.boom.s()
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas, 0)


@case({"value": 5, "notes": [[5]]})
def a_link_is_called_once_after_retries(t, stage):
    canvas = t.again.s(5, times=2)
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": 7, "notes": [[1], [3], [7]]})
def each_member_of_a_chain_has_its_link(t, stage):
    members = [t.plus.s(1), t.plus.s(2), t.plus.s(4)]
    for member in members:
        member.link(t.hear.s(key=stage.key))
    return said(stage, chain(*members), 3, ordered=False)


@case({"value": 7, "notes": [[7]]}, core=True)
def the_link_of_a_chain_hears_its_last_value(t, stage):
    canvas = t.plus.s(1) | t.plus.s(2) | t.plus.s(4)
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": 7, "notes": [[7]]})
def a_link_given_at_the_call_of_a_chain(t, stage):
    canvas = t.plus.s(1) | t.plus.s(2) | t.plus.s(4)
    return {"value": stage.value(canvas, link=t.hear.s(key=stage.key)), "notes": stage.notes(1)}


@case({"value": 16, "notes": [[8]]})
def an_inner_chain_keeps_its_link(t, stage):
    inner = t.plus.s(2) | t.times.s(2)
    inner.link(t.hear.s(key=stage.key))
    return said(stage, t.plus.s(2) | inner | t.plus.s(8))


@case({"value": [1, 2], "notes": ["first"]})
def the_link_of_a_group_follows_its_first_member(t, stage):
    canvas = group(t.plus.s(1), t.plus.s(2))
    canvas.link(t.note.s(stage.key, "first"))
    return said(stage, canvas)


@case({"value": [1, 2], "notes": [[1], [2]]})
def each_member_of_a_group_has_its_link(t, stage):
    members = [t.plus.s(1), t.plus.s(2)]
    for member in members:
        member.link(t.hear.s(key=stage.key))
    return said(stage, group(members), 2, ordered=False)


@case({"value": 3, "notes": [[1], [2]]})
def each_member_of_a_header_has_its_link(t, stage):
    members = [t.plus.s(1), t.plus.s(2)]
    for member in members:
        member.link(t.hear.s(key=stage.key))
    return said(stage, chord(members, t.total.s()), 2, ordered=False)


@case({"value": 13, "notes": [[11]]})
def a_chain_in_a_header_has_its_link(t, stage):
    member = t.plus.s(1) | t.plus.s(10)
    member.link(t.hear.s(key=stage.key))
    return said(stage, chord([member, t.plus.s(2)], t.total.s()))


@case({"value": 3, "notes": [[3]]}, core=True)
def the_link_of_a_chord_hears_its_body(t, stage):
    canvas = chord([t.plus.s(1), t.plus.s(2)], t.total.s())
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": 3, "notes": [[3]]}, since=(5, 7))
def a_link_given_at_the_call_of_a_chord(t, stage):
    canvas = chord([t.plus.s(1), t.plus.s(2)], t.total.s())
    return {"value": stage.value(canvas, link=t.hear.s(key=stage.key)), "notes": stage.notes(1)}


@case({"value": 4, "notes": [[4]]})
def the_link_of_a_chord_hears_the_end_of_a_chain_body(t, stage):
    canvas = chord([t.plus.s(1), t.plus.s(2)], t.total.s() | t.plus.s(1))
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": 4, "notes": [[3], [4]]})
def the_body_of_an_upgraded_chord_keeps_its_link(t, stage):
    body = t.total.s()
    body.link(t.hear.s(key=stage.key))
    last = t.plus.s(1)
    last.link(t.hear.s(key=stage.key))
    return said(stage, group(t.plus.s(1), t.plus.s(2)) | body | last, 2, ordered=False)


@case({"value": [3, 1], "notes": [[3]]})
def the_link_of_a_nested_chord_hears_its_body(t, stage):
    inner = chord([t.plus.s(1), t.plus.s(2)], t.total.s())
    inner.link(t.hear.s(key=stage.key))
    return said(stage, chord([inner, t.plus.s(1)], t.echo.s()))


@case({"value": [1, 2], "notes": [[[1, 2]]]})
def a_map_has_a_link(t, stage):
    canvas = t.plus.map([1, 2])
    canvas.link(t.hear.s(key=stage.key))
    return said(stage, canvas)


@case({"value": ("TypeError", "Cannot add link to group: use a chord"), "notes": []})
def a_link_given_at_the_call_of_a_group_is_refused(t, stage):
    try:
        result = group(t.plus.s(1), t.plus.s(2)).apply_async(link=t.hear.s(key=stage.key))
    except TypeError as error:
        return {"value": ("TypeError", str(error)), "notes": stage.noted}
    return {"value": stage.value(result), "notes": stage.notes(1)}


@case({"value": 2, "notes": ["first", "second", "third"]})
def a_chain_keeps_its_order_of_effects(t, stage):
    steps = [t.note.si(stage.key, text) for text in ("first", "second", "third")]
    return said(stage, chain(*steps, t.echo.si(2)), 3)


@case({"value": "after", "notes": [["a", "b", "c"], "between", ["d", "e"]]})
def a_step_waits_for_all_of_the_group_before_it(t, stage):
    before = group(t.note.si(stage.key, text) for text in "abc")
    after = chord([t.note.si(stage.key, text) for text in "de"], t.echo.si("after"))
    value = stage.value(before | t.note.si(stage.key, "between") | after)
    notes = stage.notes(6)
    return {"value": value, "notes": [sorted(notes[:3]), notes[3], sorted(notes[4:])]}


def said(stage, canvas, count=1, *, ordered=True):
    """What a canvas comes to, and what its callbacks noted; the order is that of the notes or of their texts."""
    value = stage.value(canvas)
    notes = stage.notes(count)
    return {"value": value, "notes": notes if ordered and len(notes) < 2 else sorted(notes, key=repr)}


@case({"value": [6, 6], "notes": ["chord", [6]]}, since=(5, 7))
def a_link_of_a_chord_whose_body_is_a_group(t, stage):
    first = t.total.s()
    first.link(t.hear.s(key=stage.key))
    canvas = chord([t.echo.s(2), t.echo.s(4)], group(first, t.total.s()))
    value = stage.value(canvas, link=t.note.si(stage.key, "chord"))
    return {"value": value, "notes": stage.sorted_notes(2)}
