"""Rules of access that are of no use."""

from __future__ import annotations

from typing import Any

NOT_A_FUNCTION = "yes"


def yes_please(_request: Any, _info: Any) -> Any:
    return "yes"


def of_one(_request: Any) -> bool:
    return True


async def later(_request: Any, _info: Any) -> bool:
    return True
