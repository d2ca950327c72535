"""The site's own test cases, run by Django's test runner in a project of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.celery.pool_worker import ROOT


def test_the_site_passes_its_test_cases(tmp_path: Path):
    environment = {**os.environ, "BLUR_O_MATIC_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "example_project.manage", "test", "tests.example", "--pattern", "tests_*.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
