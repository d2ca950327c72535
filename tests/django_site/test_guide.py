"""docs/django.md to the letter: a project of its own, made by `startproject` and what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "django.md"


def code_after(words: str) -> str:
    """The code of the page that comes after these words."""
    found = re.search(re.escape(words) + ".*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, words
    return found[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What a newcomer has after the last step."""
    django(tmp_path, "django", "startproject", "shop", ".")
    django(tmp_path, "manage", "startapp", "blur")
    for file in (
        "shop/celery.py",
        "shop/__init__.py",
        "shop/urls.py",
        "blur/tasks.py",
        "blur/views.py",
        "blur/tests.py",
    ):
        (tmp_path / file).write_text(code_after(f"`{file}`"))
    with (tmp_path / "shop" / "settings.py").open("a") as settings:
        settings.write(code_after("`shop/settings.py`").replace("INSTALLED_APPS =", "INSTALLED_APPS +="))
        settings.write(code_after("With SQLite, "))
    return tmp_path


def django(folder: Path, module: str, *arguments: str) -> str:
    """`python -m …` there, to its good end."""
    environment = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_newcomer_s_project_works(project: Path):
    """Checks have nothing to say, and the page's own test passes."""
    django(project, "manage", "check", "--fail-level", "WARNING", "--database", "default")
    assert "Ran 1 test" in django(project, "manage", "test")
