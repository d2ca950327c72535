"""What a long-running work shows of itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_workmanager.checks import check_text, check_whole

__all__ = ("ForegroundInfo",)

LONGEST_NOTIFICATION = 1000


@dataclass(frozen=True, slots=True)
class ForegroundInfo:
    """The notification of a long-running work (WorkManager semantics: ForegroundInfo).

    On a server the notification is a line of text for those who watch. Raises InvalidRequest.
    """

    notification_id: int
    notification: str
    #: A number of the user's own; 0: none.
    foreground_service_type: int = 0

    def __post_init__(self) -> None:
        check_whole("notification_id", self.notification_id, 0)
        check_text("notification", self.notification, LONGEST_NOTIFICATION)
        check_whole("foreground_service_type", self.foreground_service_type, 0)

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ForegroundInfo:
        """Return the one that ``to_json`` wrote."""
        return cls(**values)
