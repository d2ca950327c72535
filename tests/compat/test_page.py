"""The documentation page says what the rows say."""

from __future__ import annotations

from tests.compat.page import PATH, page


def test_the_page_is_what_the_rows_generate() -> None:
    assert PATH.read_text() == page(), "expected docs/celery-compatibility.md as `make compatibility` writes it"
