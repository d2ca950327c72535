"""Tables that fit, and the words for numbers and times."""

from __future__ import annotations

from typing import Any

import pytest

from celery_workmanager.cli.screen import Cell, Column, Screen, clean, cut, number, plural, span, width_of
from celery_workmanager.timing import SECOND


class Narrow(Screen):
    """A screen of a given width, without colours."""

    def __init__(self, width: int | None) -> None:
        self.width = width

    @property
    def size(self) -> tuple[int | None, int]:
        return self.width, 24

    def styled(self, text: str, **style: Any) -> str:
        return text


COLUMNS = (Column("ID"), Column("NAME", least=6), Column("TAGS", least=4, may_go=True), Column("N", to_the_right=True))
ROWS = [["1", "a name that is long", "some tags", "5"], ["22", "short", "", "1234"]]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            None,
            """
ID  NAME                 TAGS          N
1   a name that is long  some tags     5
22  short                           1234
""",
        ),
        (
            30,
            """
ID  NAME       TAGS          N
1   a name t…  some tags     5
22  short                 1234
""",
        ),
        (
            20,
            """
ID  NAME           N
1   a name th…     5
22  short       1234
""",
        ),
        (
            5,
            """
ID  NAME       N
1   a nam…     5
22  short   1234
""",
        ),
    ],
)
def test_a_table_is_cut_and_then_left_out_to_fit_but_never_its_fixed_columns(width: int | None, expected: str):
    lines = Narrow(width).lines(COLUMNS, ROWS)
    assert "\n".join(lines) == expected.strip("\n")


def test_a_column_without_any_content_is_not_shown_and_wide_letters_are_counted_twice():
    rows = [["1", "画像.処理", "", "5"], ["2", "éé", "", "6"]]
    assert Narrow(None).lines(COLUMNS, rows) == [
        "ID  NAME       N",
        "1   画像.処理  5",
        "2   éé         6",
    ]


def test_a_table_without_titles_has_only_its_rows():
    assert Narrow(None).lines([Column("")] * 2, [["a", (Cell("b"), Cell("c"))]]) == ["a  bc"]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("画像処理", 5, "画像…"),
        ("画像処理", 4, "画…"),
        ("e\u0301a", 2, "e\u0301a"),
    ],
)
def test_text_is_cut_at_columns_of_the_terminal(text: str, width: int, expected: str):
    assert cut(text, width) == expected
    assert width_of(expected) <= width


def test_of_a_dotted_name_the_end_is_kept():
    assert cut("shop.photos.tasks.blur", 12, ends_matter=True) == "….tasks.blur"
    assert cut("画像.処理", 6, ends_matter=True) == "….処理"
    columns = (Column("WORKER", least=8, ends_matter=True), Column("N"))
    assert Narrow(14).lines(columns, [["shop.photos.blur", "1"]]) == [
        "WORKER       N",
        "…hotos.blur  1",
    ]


def test_what_a_terminal_would_obey_is_written_out():
    assert clean("red \x1b[31m\nbell\a 日本 \udc80") == r"red \x1b[31m\nbell\x07 日本 \udc80"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (86_400 * 1200, "1 200 d"), (-5, "0 s")],
)
def test_a_length_of_time_is_told_roughly(seconds: float, expected: str):
    assert span(round(seconds * SECOND)) == expected


def test_numbers_are_grouped_and_capped_ones_say_so():
    assert number(999) == "999"
    assert number(10_000, more=True) == "> 10 000"
    assert [plural(0, "work"), plural(1, "work"), plural(2, "work")] == ["0 works", "1 work", "2 works"]
    assert plural(1, "work", more=True) == "> 1 works"
