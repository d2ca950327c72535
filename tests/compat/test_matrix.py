"""Celery's features, one row each: what plain tasks do is asserted, and what Workers do beside it.

`docs/celery-compatibility.md` is generated from the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.registry import PLAIN, POSTGRESQL, Row, all_rows
from tests.conftest import need

ROWS = list(all_rows())

pytestmark = [pytest.mark.redis, pytest.mark.slow]


def cases() -> list[Any]:
    marks = {POSTGRESQL: [pytest.mark.postgresql]}
    return [
        pytest.param(row, side, id=f"{row.name}-{side}", marks=marks.get(side, ()))
        for row in ROWS
        for side in row.sides
    ]


@pytest.mark.parametrize(("row", "side"), cases())
def test_a_feature(row: Row, side: str, shown: Callable[[Row, str], Any]) -> None:
    if side == POSTGRESQL:
        need("postgresql")
    expected = row.expected_of(side)
    # The reference is not on trial: now and then plain Celery loses a message it holds for later, or is late.
    assert (side == PLAIN and _shown_first(row, shown) == expected) or shown(row, side) == expected


def _shown_first(row: Row, shown: Callable[[Row, str], Any]) -> Any:
    try:
        return shown(row, PLAIN)
    except AssertionError as nothing_in_time:
        return nothing_in_time
