"""Constraints that a request can't have, and such as can hardly be meant."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta

from celery_workmanager.checks import ZERO
from celery_workmanager.constraints import Constraints
from celery_workmanager.errors import ConstraintsWarning, InvalidRequest
from celery_workmanager.node_labels import contradictions, parse_label_rule

__all__ = ("check_constraints", "warn_of")

#: Whom a warning names: the caller of a request's constructor.
_CALLER = 4
#: What says when a work may run; expedited work is to run now. (WorkManager allows it network and storage.)
_NOT_EXPEDITED = (
    "requires_charging",
    "requires_battery_not_low",
    "requires_device_idle",
    "content_uri_triggers",
    "time_windows",
)


def check_constraints(constraints: Constraints, *, has_backoff: bool, is_expedited: bool) -> None:
    """Refuse what WorkManager's ``WorkRequest.Builder.build`` refuses. Raises InvalidRequest."""
    if constraints.requires_device_idle and has_backoff:
        raise InvalidRequest("backoff", "left out with requires_device_idle", "backoff_policy or backoff_delay")
    if is_expedited and (given := [name for name in _NOT_EXPEDITED if getattr(constraints, name)]):
        raise InvalidRequest("expedited work", f"without {', '.join(_NOT_EXPEDITED)}", ", ".join(given))


def warn_of(constraints: Constraints, deadline: timedelta | datetime | None, delay: timedelta) -> None:
    """Warn (ConstraintsWarning) of what contradicts itself, or can hardly be met.

    `delay`: what passes of the time until the deadline before the work may run at all.
    """
    sentences = list(_doubts(constraints))
    if isinstance(deadline, timedelta) and ZERO < delay >= deadline:
        sentences.append(f"the deadline ({deadline}) comes before the initial delay ({delay}): constraints never count")
    for sentence in sentences:
        warnings.warn(sentence, ConstraintsWarning, stacklevel=_CALLER)


def _doubts(asked: Constraints) -> Iterator[str]:
    for key in contradictions(map(parse_label_rule, asked.node_labels)):
        rules = " and ".join(repr(text) for text in asked.node_labels if parse_label_rule(text).key == key)
        yield f"no node can meet {rules}: the work will wait forever"
    if asked.requires_device_idle and asked.requires_charging:
        yield "requires_device_idle with requires_charging is rarely met"  # as Android's lint says
    least, most = asked.trigger_content_update_delay, asked.trigger_content_max_delay
    if not asked.content_uri_triggers and (least, most) != (None, None):
        yield "delays of content triggers mean nothing without content_uri_triggers"
    if least is not None and most is not None and least > most:
        yield f"trigger_content_update_delay ({least}) is longer than trigger_content_max_delay ({most}), which ends it"
