"""Every canvas gives with Workers what it gives with plain tasks, and with both in any mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery import chain, chord, group

from tests.canvas import callbacks, errors, growing, knowing, results, shapes
from tests.canvas.cases import Case
from tests.canvas.stage import Side, Tasks

FAMILIES = (
    shapes.SHAPES, callbacks.CALLBACKS, errors.ERRORS, growing.GROWING, knowing.KNOWING, results.RESULTS,
)  # fmt: skip
CASES: dict[str, Case] = {name: each for family in FAMILIES for name, each in family.items()}
assert len(CASES) == sum(map(len, FAMILIES)), "two cases have one name"
CORE = [each for each in CASES.values() if each.core]

VERSION = tuple(int(part) for part in celery.__version__.split(".")[:2])

# Celery announces what the error callbacks of chords will do in a later version.
pytestmark = [pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning"), pytest.mark.slow]


def of(*cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(each, id=each.name.replace(" ", "-")) for each in cases])


@pytest.fixture(scope="module")
def side(redis_url, tmp_path_factory, request) -> Iterator[Callable[[str], Side]]:
    """Where cases are played: a worker for each name, which stays for the module."""
    folder = tmp_path_factory.mktemp("canvas")
    stores = {
        "plain": lambda: {"backend": redis_url, "store": None},
        # Its results are in the store, while the app's are in Redis.
        "workers": lambda: {"backend": redis_url, "store": f"sqlite:///{folder / 'workers.sqlite3'}"},
        "store": lambda: {"backend": "workmanager", "store": f"sqlite:///{folder / 'store.sqlite3'}"},
        "postgresql": lambda: {"backend": "rpc", "store": request.getfixturevalue("postgresql_url")},
        "database": lambda: {
            "backend": f"db+sqlite:///{folder / 'results.sqlite3'}",
            "store": f"sqlite:///{folder / 'database.sqlite3'}",
        },
    }
    made: dict[str, Side] = {}

    def at(name: str) -> Side:
        if name not in made:
            # Two processes of plain Celery may note the states of a task that is retried at once in the wrong order.
            processes = 1 if name == "plain" else 2
            made[name] = Side(folder / name, name, concurrency=processes, broker=redis_url, **stores[name]())
            made[name].start()
        return made[name]

    if not request.config.option.keyword:
        for name in ("plain", "workers", "store"):
            at(name)  # they get ready side by side
    yield at
    for each in made.values():
        each.terminate()
    for each in made.values():
        each.close()


@of(*CASES.values())
def test_plain_tasks(case, side):
    if case.since > VERSION:
        pytest.skip(f"a Celery before {'.'.join(map(str, case.since))} does otherwise")
    if case.never_ends:
        pytest.skip(case.why)
    observed = side("plain").play(case.name, case.play)
    if case.plain:
        assert observed in case.plain, case.why
    else:
        assert observed == case.expected


@of(*CASES.values())
def test_workers(case, side):
    assert side("store" if case.by_id else "workers").play(case.name, case.play) == case.expected


def in_turn() -> list[Any]:
    """Each case that can be mixed, the essential ones both ways round, the others in turn one way and the other."""
    patterns = ("worker first", "plain first")
    mixed = [each for each in CASES.values() if each.mixed]
    return [
        pytest.param(each, pattern, id=f"{each.name.replace(' ', '-')}-{pattern}")
        for number, each in enumerate(mixed)
        for pattern in (patterns if each.core else (patterns[number % 2],))
    ]


@pytest.mark.parametrize(("case", "pattern"), in_turn())
def test_workers_and_plain_tasks_in_turn(case, pattern, side):
    if case.never_ends:
        pytest.skip(case.why)
    observed = side("store" if case.by_id else "workers").play(case.name, case.play, pattern)
    assert observed in (case.expected, *case.plain)


@pytest.mark.parametrize(
    "where", ["store", "database", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)  # fmt: skip
@of(*CORE)
def test_workers_whatever_the_store_and_the_result_backend(case, where, side):
    assert side(where).play(case.name, case.play) == case.expected


@pytest.mark.parametrize("odd", ["plain", "worker"])
@pytest.mark.parametrize("place", range(7))
def test_one_of_another_kind_in_every_place(place, odd, side):
    """A canvas of six tasks and a callback, of which one is plain among Workers, or a Worker among plain ones."""
    app = side("workers").app
    usual, other = (Tasks(app, "canvas"), Tasks(app, "plain"))[:: 1 if odd == "plain" else -1]

    def play(_, stage):
        first, left, right, inner, body, last, link = ((other if i == place else usual) for i in range(7))
        end = last.plus.s(100)
        end.link(link.hear.s(key=stage.key))
        canvas = chain(
            first.plus.s(1, 1),
            group(left.plus.s(1), chain(right.plus.s(2), inner.times.s(10))),
            body.total.s(),
            end,
        )
        return {"value": stage.value(canvas), "notes": stage.notes(1)}

    assert side("workers").play(f"{odd} in place {place}", play) == {"value": 143, "notes": [[143]]}


@pytest.mark.parametrize("kinds", ["www", "wwp", "wpw", "wpp", "pww", "pwp", "ppw", "ppp"])
def test_every_mixture_of_a_chord_that_fails(kinds, side):
    """A member of the header fails, whichever tasks are Workers; the body is told once."""
    app = side("workers").app
    member, failing, body = (Tasks(app, "canvas" if kind == "w" else "plain") for kind in kinds)

    def play(_, stage):
        end = body.total.s().on_error(body.note.si(stage.key, "told"))
        value = stage.value(chord([member.echo.s(1), failing.boom.s()], end))
        return {"value": value, "notes": stage.notes(1)}

    assert side("workers").play("failing " + "".join(kinds), play) == {"value": errors.CHORD_ERROR, "notes": ["told"]}


def test_a_worker_is_replaced_by_workers_alone(side):
    app = side("workers").app
    workers, plain = Tasks(app, "canvas"), Tasks(app, "plain")

    def play(_, stage):
        return stage.value(workers.swap.s(to=workers.echo.s(1) | plain.plus.s(1)))

    kind, sentence = side("workers").play("a Worker replaced", play)
    assert kind == "UnsupportedOperation"
    assert "other tasks among them" in sentence


@pytest.mark.parametrize("where", ["plain", "workers", "store"])
def test_nothing_has_run_after_its_case_was_over(where, side):
    """What was seen once, as an error callback, was not called again later."""
    assert side(where).noted_since() == {}
