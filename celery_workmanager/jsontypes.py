"""The type of what can be stored: JSON."""

from __future__ import annotations

from typing import TypeAlias

#: A JSON value in Python's types.
JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
