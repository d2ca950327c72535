"""Checks of plain arguments: each returns the value in the type we keep, or raises InvalidRequest."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from celery_workmanager.errors import InvalidRequest

#: A ``timedelta``, or a number of seconds.
Duration: TypeAlias = timedelta | float | int

ZERO = timedelta(0)
#: Characters of a name or a tag.
LONGEST_TEXT = 255
#: A moment this far in the future is still a ``datetime`` (and a 64-bit count of microseconds).
LONGEST_DURATION = timedelta(days=2_500_000)
#: Beyond it (272 years) a number of seconds, which is what JSON carries, has no room for single microseconds.
_FINE = timedelta(seconds=2**33)

# Control characters and lone surrogates: no database, log or header takes them all.
_UNWANTED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_text(what: str, value: Any, longest: int = LONGEST_TEXT) -> str:
    """Return ``value`` when it is a non-empty line of at most ``longest`` characters."""
    if isinstance(value, str) and 0 < len(value) <= longest and not _UNWANTED.search(value):
        return str.__str__(value)
    raise InvalidRequest(what, f"a non-empty str of at most {longest} characters, none a control character", value)


def check_duration(what: str, value: Any) -> timedelta:
    """Return ``value`` (``timedelta`` or seconds) as a ``timedelta`` that is not negative.

    Of more than 272 years the fraction of a second is dropped.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        duration = _seconds(what, value)
    else:
        raise InvalidRequest(what, "a timedelta or a number of seconds", value)
    if duration < ZERO:
        raise InvalidRequest(what, "zero or more", value)
    if duration > LONGEST_DURATION:
        raise InvalidRequest(what, f"at most {LONGEST_DURATION.days} days", value)
    return duration if duration < _FINE else timedelta(duration.days, duration.seconds)


def _seconds(what: str, value: float) -> timedelta:
    try:
        return timedelta(seconds=value)
    except OverflowError:
        raise InvalidRequest(what, f"at most {LONGEST_DURATION.days} days", value) from None
    except ValueError:
        raise InvalidRequest(what, "a timedelta or a number of seconds", value) from None


def check_time_limit(what: str, value: Any) -> float:
    """Return ``value`` (``timedelta`` or seconds) as positive seconds."""
    seconds = check_duration(what, value).total_seconds()
    if seconds <= 0:
        raise InvalidRequest(what, "more than zero", value)
    return seconds


def check_moment(what: str, value: Any) -> datetime:
    """Return ``value`` when it is a timezone-aware ``datetime``."""
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    raise InvalidRequest(what, "a timezone-aware datetime", value)


def check_whole(what: str, value: Any, low: int, high: float = math.inf) -> int:
    """Return ``value`` when it is an int (and not a bool) from ``low`` to ``high``."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return int(value)
    span = f"an int >= {low}" if high == math.inf else f"an int from {low} to {high}"
    raise InvalidRequest(what, span, value)
