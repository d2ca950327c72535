"""Keeps the store's URL, which may hold a password, out of what Celery and Django show of their settings."""

from __future__ import annotations

import re
from typing import Any

from celery.app import utils

__all__ = ("hiding", "install")

_OURS = "STORE_URL"


def hiding(names: Any) -> re.Pattern[str]:
    """`names` (a pattern of the settings whose values are not shown), with ours among them."""
    if _OURS in names.pattern:
        return re.compile(names.pattern, names.flags)
    return re.compile(f"{names.pattern}|{_OURS}", names.flags)


def install() -> None:
    """Hide it from ``celery report``, ``inspect conf`` and Flower. Once in a process."""
    utils.HIDDEN_SETTINGS = hiding(utils.HIDDEN_SETTINGS)
