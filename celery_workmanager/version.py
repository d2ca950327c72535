"""The version of this package: nodes tell it, so that two of them side by side can be seen."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
