"""A Celery task call as the input of a work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ("AFTERMATH_WORKER", "HIDDEN", "Call", "Takes", "errbacks_of", "facts_of", "shown_facts")


#: How the names of workers begin that a chain or canvas brings along by itself.
HIDDEN = "celery_workmanager."
#: The worker of the hidden works that run what was to run when another work fails.
AFTERMATH_WORKER = "celery_workmanager.aftermath"


class Takes(StrEnum):
    """What a call takes from the works before it, as its first positional argument (Celery, "Canvas")."""

    NOTHING = ""
    #: The return value of the one work before it.
    VALUE = "value"
    #: The list of the return values of all works before it, in order: it is the body of a chord.
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of a task call, and what Celery's request says beside them.

    ``arguments`` is the JSON text of ``{"args": […], "kwargs": {…}}`` with Celery's types; a retry may have written
    others, ``"complete"`` with what the works before it returned, and ``"redelivered"`` marks a call that a run has
    rejected. ``facts`` is the JSON text of a mapping whose entries differ from their defaults: ``root`` and ``parent``
    (ids), ``group``, ``group_index``, ``chord`` (ids of the works that fail with this one as the body of its chord),
    ``errbacks`` (what runs when it fails), ``headers``, ``stamps``, ``priority``, ``shadow``, ``eta`` (ISO 8601),
    ``argsrepr``, ``kwargsrepr``, ``reply_to`` and ``nesting`` (how often it was replaced).
    """

    arguments: str
    takes: Takes = Takes.NOTHING
    facts: str = "{}"

    @property
    def option(self) -> dict[str, Any] | int:
        """The entry of a stored work's options that says that its input is a call, and all but the arguments."""
        if self.facts == "{}" and self.takes is Takes.NOTHING:
            return 1
        entry: dict[str, Any] = json.loads(self.facts)
        if self.takes is not Takes.NOTHING:
            entry["takes"] = str(self.takes)
        return entry


def facts_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a stored call, given the work's options; an empty mapping when there are none."""
    found = options.get("call")
    return dict(found) if isinstance(found, dict) else {}


def errbacks_of(facts: Mapping[str, Any]) -> list[Any]:
    """Return the error callbacks among the facts of a call, as signatures (mappings)."""
    return [entry["errback"] for entry in facts.get("errbacks", ()) if "errback" in entry]


def shown_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a call as Celery's request shows them."""
    shown = {name: facts[fact] for fact, name in _SHOWN.items() if fact in facts}
    if "stamps" in facts:
        shown |= {"stamps": facts["stamps"], "stamped_headers": list(facts["stamps"])}
    # Celery shows the headers of a message one by one, and those that are not its own as a mapping too.
    headers: dict[str, Any] = facts.get("headers", {})
    return headers | shown


_SHOWN = {
    "root": "root_id",
    "parent": "parent_id",
    "group": "group",
    "group_index": "group_index",
    "shadow": "shadow",
    "nesting": "replaced_task_nesting",
    "headers": "headers",
    "eta": "eta",
    "argsrepr": "argsrepr",
    "kwargsrepr": "kwargsrepr",
    "reply_to": "reply_to",
}
