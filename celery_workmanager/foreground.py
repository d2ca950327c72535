"""What a long-running work shows of itself while it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_workmanager.checks import check_text, check_whole

__all__ = ("LONGEST_JSON", "ForegroundInfo", "taken_apart", "with_foreground")

LONGEST_NOTIFICATION = 1000
#: Bytes that `with_foreground` may add to a progress.
LONGEST_JSON = 7 * 1024
#: Among the entries of a progress; nobody gives such a name to one.
_KEY = "\x1fforeground"
_KEY_AS_JSON = json.dumps(_KEY)


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


def with_foreground(progress: str, info: ForegroundInfo, token: int) -> str:
    """A progress (JSON text of a mapping) as the run `token` tells it in the foreground: the two travel together."""
    return json.dumps({**json.loads(progress), _KEY: [token, info.to_json()]})


def taken_apart(progress: str, token: int | None = None) -> tuple[str, ForegroundInfo | None]:
    """The progress that was told, and with what the run `token` is in the foreground, if it is that one."""
    if _KEY_AS_JSON not in progress:
        return progress, None
    told = json.loads(progress)
    teller, info = told.pop(_KEY)
    return json.dumps(told), ForegroundInfo.from_json(info) if teller == token else None
