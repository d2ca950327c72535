"""Claims at a ring, without a look, of a node that has seen nothing: so the first run begins an exchange sooner."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from celery_workmanager.outcome import Claim
from celery_workmanager.store import Store
from celery_workmanager.throttle import Throttle

__all__ = ("PromptClaims",)


class PromptClaims:
    """Whether it is worth it to claim before looking. For one thread, but for `was_rung`."""

    def __init__(self, store: Store, throttle: Throttle) -> None:
        self._store = store
        self._throttle = throttle
        #: Whether the bell has rung since `is_due` was last asked.
        self.was_rung = False
        #: Rings may tell of what waits for a moment, or what other nodes are faster to take: a try in vain is the last
        #: one, until a look has led to a claim.
        self.is_worth_it = True

    def is_due(self) -> bool:
        """Whether the bell has rung since this was last asked, and a try is worth it."""
        was_rung, self.was_rung = self.was_rung, False
        return was_rung and self.is_worth_it

    def claim(self, own: Mapping[int, str], node: str, room: int) -> tuple[list[Claim], bool]:
        """Claim up to `room` works from those of the `own` lanes that no rate limit holds back.

        Returns the claims, and whether there was nothing else that anybody could claim: else a look says what is next.
        """
        lanes = self._throttle.unlimited(own)
        claims, were_all = self._store.claim_promptly(lanes, node, secrets.randbits(62), room)
        self.is_worth_it = bool(claims)
        return claims, were_all
