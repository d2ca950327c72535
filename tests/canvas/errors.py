"""Errors: what fails with what, which error callbacks are called, with what, and how often."""

from __future__ import annotations

from celery import chain, chord, group

from tests.canvas.cases import Table

ERRORS = Table()
case = ERRORS.case

BOOM = ("ValueError", "boom")
CHORD_ERROR = ("ChordError", "Dependency <id> raised ValueError('boom')")
SHOWN = {"error": "ValueError", "traceback": True}


# -- single tasks ----------------------------------------------------------------------------------------------------


@case({"value": BOOM, "notes": ["its id"]}, core=True)
def an_old_style_errback_is_told_the_id(t, stage):
    result = t.boom.s().on_error(t.told.s(key=stage.key)).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": BOOM, "notes": [{**SHOWN, "shown": "its id"}]}, core=True)
def a_new_style_errback_is_shown_request_error_and_traceback(t, stage):
    result = t.boom.s().on_error(t.shown.s(key=stage.key)).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": BOOM, "notes": [{"told of": "its id", "parent": "its id", "root": "its id"}]})
def a_bound_errback_is_a_task_of_its_own(t, stage):
    result = t.boom.s().on_error(t.told_bound.s(key=stage.key)).apply_async()
    notes = [{key: "its id" if value == result.id else value for key, value in note.items()} for note in stage.notes(1)]
    return {"value": stage.value(result), "notes": notes}


@case({"value": BOOM, "notes": ["its id"]}, since=(5, 7))
def an_errback_with_an_argument_of_its_own(t, stage):
    result = t.boom.s().on_error(t.told.s(stage.key)).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": BOOM, "notes": ["its id"]})
def an_errback_given_at_the_call(t, stage):
    result = t.boom.apply_async(link_error=t.told.s(key=stage.key))
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": BOOM, "notes": ["went wrong"]})
def an_immutable_errback_is_told_nothing(t, stage):
    return said(stage, t.boom.s().on_error(t.note.si(stage.key, "went wrong")))


@case({"value": BOOM, "notes": ["a", "b", {**SHOWN, "shown": "its id"}, "its id"]})
def every_errback_is_called(t, stage):
    canvas = t.boom.s()
    for errback in (t.note.si(stage.key, "a"), t.note.si(stage.key, "b")):
        canvas.link_error(errback)
    canvas.link_error(t.told.s(key=stage.key))
    canvas.link_error(t.shown.s(key=stage.key))
    result = canvas.apply_async()
    return {"value": stage.value(result), "notes": known(stage.sorted_notes(4), result)}


@case({"value": BOOM, "notes": ["still", {**SHOWN, "shown": "its id"}]})
def an_errback_that_breaks_stops_no_other(t, stage):
    canvas = t.boom.s().on_error(t.shown_and_breaks.s(key=stage.key))
    canvas.link_error(t.note.si(stage.key, "still"))
    result = canvas.apply_async()
    return {"value": stage.value(result), "notes": known(stage.sorted_notes(2), result)}


@case({"value": BOOM, "notes": [["x"]]})
def an_errback_may_be_a_chain(t, stage):
    return said(stage, t.boom.s().on_error(t.echo.si("x") | t.hear.s(key=stage.key)))


@case({"value": BOOM, "notes": ["a", "b"]})
def an_errback_may_be_a_group(t, stage):
    return said(stage, t.boom.s().on_error(group(t.note.si(stage.key, "a"), t.note.si(stage.key, "b"))), 2)


@case({"value": BOOM, "notes": [["late"]]})
def an_errback_may_be_retried(t, stage):
    return said(stage, t.boom.s().on_error(t.again.si("late") | t.hear.s(key=stage.key)))


@case({"value": 3, "notes": []})
def no_errback_is_called_without_an_error(t, stage):
    return said(stage, t.plus.s(1, 2).on_error(t.told.s(key=stage.key)), 0)


@case({"value": ("KeyError", "'no more'"), "notes": ["its id"]})
def an_errback_is_called_once_retries_are_over(t, stage):
    result = t.gives_up.s().on_error(t.told.s(key=stage.key)).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


# -- chains ----------------------------------------------------------------------------------------------------------


@case({"value": BOOM, "states": ["FAILURE", "FAILURE", "SUCCESS"]}, core=True)
def what_follows_an_error_in_a_chain_fails_with_it(t, stage):
    return states(stage, chain(t.echo.s(1), t.boom.s(), t.plus.s(1)))


@case(
    "refused",
    plain=("TypeError",),
    why="Celery finds out when it is the member's turn; a canvas of Workers is looked at as a whole before it begins",
    mixed=False,
)
def a_member_of_a_chain_cannot_take_the_value(t, stage):
    try:
        return stage.value(chain(t.echo.s(1), t.echo.s(2), t.plus.s(1)))[0]
    except TypeError:
        return "refused"


@case({"value": BOOM, "states": ["FAILURE", "FAILURE", "FAILURE"]})
def the_first_of_a_chain_fails(t, stage):
    return states(stage, chain(t.boom.s(), t.plus.s(1), t.plus.s(2)))


@case({"value": BOOM, "states": ["FAILURE", "SUCCESS", "SUCCESS"]})
def the_last_of_a_chain_fails(t, stage):
    return states(stage, chain(t.echo.s(1), t.plus.s(1), t.boom.s()))


@case({"value": BOOM, "notes": ["before"]})
def nothing_runs_after_an_error(t, stage):
    canvas = chain(t.note.si(stage.key, "before"), t.boom.s(), t.note.si(stage.key, "after"))
    return said(stage, canvas)


@case({"value": BOOM, "notes": ["failed"]}, core=True)
def the_errback_of_a_chain_is_called_for_its_first(t, stage):
    canvas = chain(t.boom.s(), t.plus.s(1), t.plus.s(2)).on_error(t.note.si(stage.key, "failed"))
    return said(stage, canvas)


@case({"value": BOOM, "notes": ["failed"]})
def the_errback_of_a_chain_is_called_for_its_middle(t, stage):
    canvas = chain(t.echo.s(1), t.boom.s(), t.plus.s(2)).on_error(t.note.si(stage.key, "failed"))
    return said(stage, canvas)


@case({"value": BOOM, "notes": ["failed"]})
def the_errback_of_a_chain_is_called_for_its_last(t, stage):
    canvas = chain(t.echo.s(1), t.plus.s(2), t.boom.s()).on_error(t.note.si(stage.key, "failed"))
    return said(stage, canvas)


@case({"value": BOOM, "notes": ["failed"]})
def an_errback_given_at_the_call_of_a_chain(t, stage):
    canvas = chain(t.echo.s(1), t.boom.s(), t.plus.s(2))
    return {"value": stage.value(canvas, link_error=t.note.si(stage.key, "failed")), "notes": stage.notes(1)}


@case({"value": BOOM, "notes": [{**SHOWN, "shown": "the one that failed"}]})
def the_errback_of_a_chain_is_shown_the_one_that_failed(t, stage):
    result = chain(t.echo.s(1), t.boom.s(), t.plus.s(2)).on_error(t.shown.s(key=stage.key)).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result.parent, "the one that failed")}


@case({"value": BOOM, "notes": ["the one that failed"]})
def only_the_errback_of_the_one_that_failed_is_called(t, stage):
    members = [t.echo.s(1), t.boom.s(), t.plus.s(2)]
    names = ["the one before", "the one that failed", "the one after"]
    for member, name in zip(members, names, strict=True):
        member.link_error(t.note.si(stage.key, name))
    return said(stage, chain(members))


@case({"value": BOOM, "notes": ["inner", "outer"]})
def the_errbacks_of_a_chain_in_a_chain(t, stage):
    inner = chain(t.plus.s(1), t.boom.s()).on_error(t.note.si(stage.key, "inner"))
    canvas = chain(t.echo.s(0), inner, t.plus.s(2)).on_error(t.note.si(stage.key, "outer"))
    return said(stage, canvas, 2)


@case({"value": BOOM, "states": ["FAILURE", "FAILURE", "FAILURE", "SUCCESS"]})
def a_chord_in_a_chain_fails_with_what_is_before_it(t, stage):
    canvas = chain(t.echo.s(0), t.boom.s(), chord([t.plus.s(1), t.plus.s(2)], t.total.s()), t.plus.s(1))
    result = canvas.apply_async()
    value = stage.value(result)
    found = []
    while result is not None:
        if not hasattr(result, "results"):
            found.append(stage.ended(result))
        result = result.parent
    return {"value": value, "states": found}


@case({"value": [BOOM, BOOM]}, why="Celery leaves the members of the group PENDING for ever")
def a_group_in_a_chain_fails_with_what_is_before_it(t, stage):
    result = chain(t.boom.s(), group(t.plus.s(1), t.plus.s(2))).apply_async()
    return {"value": [stage.value(member) for member in result.results]}


# -- groups ----------------------------------------------------------------------------------------------------------


@case({"value": [1, BOOM, 2], "all": [1, BOOM, 2], "failed": True, "successful": False, "completed": 2})
def one_of_a_group_fails(t, stage):
    result = group(t.echo.s(1), t.boom.s(), t.echo.s(2)).apply_async()
    members = [stage.value(member) for member in result.results]
    return {
        "value": stage.value(result),
        "all": members,
        "failed": result.failed(),
        "successful": result.successful(),
        "completed": result.completed_count(),
    }


@case({"value": [BOOM, 1], "notes": ["failed"]})
def the_errback_of_a_group_is_called_for_its_first(t, stage):
    return said(stage, with_errback(group(t.boom.s(), t.echo.s(1)), t.note.si(stage.key, "failed")))


@case({"value": [1, BOOM], "notes": ["failed"]})
def the_errback_of_a_group_is_called_for_its_last(t, stage):
    return said(stage, with_errback(group(t.echo.s(1), t.boom.s()), t.note.si(stage.key, "failed")))


@case({"value": [BOOM, BOOM], "notes": ["failed", "failed"]})
def the_errback_of_a_group_is_called_for_each_that_fails(t, stage):
    return said(stage, with_errback(group(t.boom.s(), t.boom.s()), t.note.si(stage.key, "failed")), 2)


@case({"value": ("TypeError", "Cannot add link to group: do that on individual tasks"), "notes": []})
def an_errback_given_at_the_call_of_a_group_is_refused(t, stage):
    try:
        result = group(t.boom.s(), t.echo.s(1)).apply_async(link_error=t.note.si(stage.key, "failed"))
    except TypeError as error:
        return {"value": ("TypeError", str(error)), "notes": stage.noted}
    return {"value": stage.value(result), "notes": stage.notes(1)}


@case({"value": [1, BOOM], "notes": ["failed"]})
def a_member_of_a_group_has_its_errback(t, stage):
    return said(stage, group(t.echo.s(1), t.boom.s().on_error(t.note.si(stage.key, "failed"))))


# -- chords ----------------------------------------------------------------------------------------------------------


@case({"value": CHORD_ERROR, "header": [1, BOOM]}, core=True)
def a_header_that_fails_fails_the_body(t, stage):
    result = chord([t.echo.s(1), t.boom.s()], t.total.s()).apply_async()
    return {"value": stage.value(result), "header": [stage.value(member) for member in result.parent.results]}


@case({"value": CHORD_ERROR, "notes": []})
def the_body_of_a_failed_header_does_not_run(t, stage):
    return said(stage, chord([t.echo.s(1), t.boom.s()], t.hear.s(key=stage.key)), 0)


@case({"value": BOOM})
def a_body_fails(t, stage):
    return {"value": stage.value(chord([t.echo.s(1), t.echo.s(2)], t.boom.s()))}


@case({"value": CHORD_ERROR})
def two_of_a_header_fail(t, stage):
    return {"value": stage.value(chord([t.boom.s(), t.echo.s(1), t.boom.s()], t.total.s()))}


@case({"value": CHORD_ERROR})
def a_chain_in_a_header_fails_at_its_first(t, stage):
    return {"value": stage.value(chord([t.boom.s() | t.plus.s(1), t.echo.s(1)], t.total.s()))}


@case({"value": CHORD_ERROR})
def a_chain_in_a_header_fails_at_its_last(t, stage):
    return {"value": stage.value(chord([t.echo.s(1) | t.boom.s(), t.echo.s(1)], t.total.s()))}


@case({"value": CHORD_ERROR}, why="Celery never tells the outer chord")
def a_chord_in_a_header_fails(t, stage):
    inner = chord([t.echo.s(1), t.boom.s()], t.total.s())
    return {"value": stage.value(chord([inner, t.echo.s(1)], t.total.s()))}


@case({"value": CHORD_ERROR})
def the_body_of_a_chord_in_a_header_fails(t, stage):
    inner = chord([t.echo.s(1), t.echo.s(2)], t.boom.s())
    return {"value": stage.value(chord([inner, t.echo.s(1)], t.total.s()))}


@case({"value": CHORD_ERROR})
def what_follows_a_chord_fails_with_it(t, stage):
    return {"value": stage.value(chord([t.echo.s(1), t.boom.s()], t.total.s()) | t.plus.s(1) | t.plus.s(2))}


@case({"value": CHORD_ERROR})
def a_chain_as_a_body_fails_with_the_header(t, stage):
    return {"value": stage.value(chord([t.echo.s(1), t.boom.s()], t.total.s() | t.plus.s(1)))}


@case({"value": [BOOM, BOOM]}, since=(5, 7))
def a_group_as_a_body_fails_with_the_header(t, stage):
    result = chord([t.echo.s(1), t.boom.s()], group(t.total.s(), t.echo.s())).apply_async()
    return {"value": [stage.value(member) for member in result.results]}


@case({"value": CHORD_ERROR, "notes": ["body"]}, core=True)
def the_errback_of_a_body_is_called_for_the_header(t, stage):
    body = t.total.s().on_error(t.note.si(stage.key, "body"))
    return said(stage, chord([t.echo.s(1), t.boom.s()], body))


@case({"value": CHORD_ERROR, "notes": ["its id"]})
def the_errback_of_a_body_is_told_the_bodys_id(t, stage):
    body = t.total.s().on_error(t.told.s(key=stage.key))
    result = chord([t.echo.s(1), t.boom.s()], body).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": CHORD_ERROR, "notes": [{"shown": "its id", "error": "ChordError", "traceback": False}]})
def the_errback_of_a_body_is_shown_the_chord_error(t, stage):
    body = t.total.s().on_error(t.shown.s(key=stage.key))
    result = chord([t.echo.s(1), t.boom.s()], body).apply_async()
    return {"value": stage.value(result), "notes": known(stage.notes(1), result)}


@case({"value": CHORD_ERROR, "notes": ["body"]})
def the_errback_of_a_chord_is_called_for_the_header(t, stage):
    canvas = with_errback(chord([t.echo.s(1), t.boom.s()], t.total.s()), t.note.si(stage.key, "body"))
    return said(stage, canvas)


@case({"value": BOOM, "notes": ["body"]})
def the_errback_of_a_chord_is_called_for_the_body(t, stage):
    canvas = with_errback(chord([t.echo.s(1), t.echo.s(2)], t.boom.s()), t.note.si(stage.key, "body"))
    return said(stage, canvas)


@case({"value": CHORD_ERROR, "notes": ["failed"]}, since=(5, 7))
def an_errback_given_at_the_call_of_a_chord(t, stage):
    canvas = chord([t.echo.s(1), t.boom.s()], t.total.s())
    return {"value": stage.value(canvas, link_error=t.note.si(stage.key, "failed")), "notes": stage.notes(1)}


@case({"value": CHORD_ERROR, "notes": ["failed", "failed"]})
def the_errback_of_a_chord_may_reach_its_header(t, stage):
    stage.app.conf.task_allow_error_cb_on_chord_header = True
    try:
        canvas = with_errback(chord([t.echo.s(1), t.boom.s()], t.total.s()), t.note.si(stage.key, "failed"))
    finally:
        stage.app.conf.task_allow_error_cb_on_chord_header = False
    return said(stage, canvas, 2)


@case({"value": CHORD_ERROR, "notes": ["member"]})
def a_member_of_a_header_has_its_errback(t, stage):
    canvas = chord([t.echo.s(1), t.boom.s().on_error(t.note.si(stage.key, "member"))], t.total.s())
    return said(stage, canvas)


@case({"value": CHORD_ERROR, "notes": ["chain"]})
def a_chain_in_a_header_has_its_errback(t, stage):
    member = chain(t.echo.s(1), t.boom.s(), t.plus.s(1)).on_error(t.note.si(stage.key, "chain"))
    return said(stage, chord([t.echo.s(1), member], t.total.s()))


@case({"value": CHORD_ERROR, "notes": ["body"]})
def the_errback_of_a_chain_body_is_called_for_the_header(t, stage):
    body = chain(t.total.s(), t.plus.s(1)).on_error(t.note.si(stage.key, "body"))
    return said(stage, chord([t.echo.s(1), t.boom.s()], body))


@case({"value": BOOM, "notes": ["body"]})
def the_errback_of_a_chain_body_is_called_for_its_end(t, stage):
    body = chain(t.total.s(), t.boom.s()).on_error(t.note.si(stage.key, "body"))
    return said(stage, chord([t.echo.s(1), t.echo.s(2)], body))


@case({"value": "ChordError", "notes": ["inner", "outer"]}, why="Celery never tells the outer chord")
def the_errbacks_of_a_chord_in_a_header(t, stage):
    inner = chord([t.echo.s(1), t.boom.s()], t.total.s().on_error(t.note.si(stage.key, "inner")))
    canvas = chord([inner, t.echo.s(1)], t.total.s().on_error(t.note.si(stage.key, "outer")))
    value = stage.value(canvas)
    return {"value": value[0], "notes": stage.sorted_notes(2)}


@case({"value": CHORD_ERROR, "notes": ["chain"]})
def the_errback_of_a_chain_with_a_chord_inside(t, stage):
    canvas = chain(t.echo.s(1), group(t.plus.s(1), t.boom.s()), t.total.s()).on_error(t.note.si(stage.key, "chain"))
    value, notes = stage.value(canvas), stage.notes(1)
    return {"value": value, "notes": notes[:1]}


@case({"value": "ChordError", "states": ["FAILURE", "FAILURE", "SUCCESS"]})
def the_states_around_a_failed_header(t, stage):
    result = chain(t.echo.s(1), group(t.plus.s(1), t.boom.s()), t.total.s(), t.plus.s(1)).apply_async()
    value = stage.value(result)
    first = result.parent.parent.parent
    return {"value": value[0], "states": [stage.ended(each) for each in (result, result.parent, first)]}


@case({"value": ("KeyError", "'no more'"), "states": ["FAILURE", "FAILURE", "SUCCESS"]})
def a_retried_member_of_a_chain_gives_up(t, stage):
    return states(stage, chain(t.echo.s(1), t.gives_up.s(), t.plus.s(1)))


@case({"value": ("ChordError", "Dependency <id> raised KeyError('no more')")})
def a_retried_member_of_a_header_gives_up(t, stage):
    return {"value": stage.value(chord([t.gives_up.s(), t.echo.s(1)], t.total.s()))}


# -- what cases share ------------------------------------------------------------------------------------------------


def said(stage, canvas, count=1):
    """What a canvas comes to, and what its error callbacks noted."""
    return {"value": stage.value(canvas), "notes": stage.sorted_notes(count)}


def states(stage, canvas):
    """What a chain comes to, and the states of its members from the last to the first."""
    result = canvas.apply_async()
    value, found = stage.value(result), []
    while result is not None:
        found.append(stage.ended(result))
        result = result.parent
    return {"value": value, "states": found}


def known(notes, result, name="its id"):
    """The notes with the result's id made known."""

    def name_of(value):
        return name if value == result.id else value

    told = [note["told of"] if isinstance(note, dict) and "told of" in note else note for note in notes]
    return [{**note, "shown": name_of(note["shown"])} if isinstance(note, dict) else name_of(note) for note in told]


def with_errback(canvas, errback):
    """The canvas with the error callback linked to it."""
    canvas.link_error(errback)
    return canvas
