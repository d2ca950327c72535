"""The documentation keeps up with the code."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import celery_workmanager
from celery_workmanager.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


def settings_table() -> str:
    rows = [f"| `{PREFIX}{each.name}` | `{each.default!r}` | {each.metadata['doc']} |" for each in fields(Settings)]
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])


def test_every_setting_is_documented_with_its_default_and_meaning() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text()


def test_every_public_name_is_mentioned_in_the_documentation() -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

    assert [name for name in celery_workmanager.__all__ if f"{name}" not in pages] == []
