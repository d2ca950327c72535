"""Claims of works under limits of the fleet: each made and judged in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.outcome import Claim
from celery_workmanager.store import claiming, limiting
from celery_workmanager.store.base import StoreBase

#: How many works one transaction looks at, and how many one claim: each that has no room is parked, once.
AT_ONCE, LOOK_AHEAD = 256, 512

Broken = list[tuple[Claim, InvalidRequest]]


def claim(
    store: StoreBase,
    lanes: Sequence[int],
    *,
    node: str,
    token: int,
    limit: int,
    caps: Mapping[int, int] | None = None,
    stamp: int | None = None,
) -> tuple[list[Claim], Broken]:
    """Claim up to `limit` works that have room; as `claiming.claim`. Also returns those whose keys can't be filled in.

    It looks further while some have none, so that the works of one key don't hide those of others.
    """
    found: list[Claim] = []
    broken: Broken = []
    looked, most = 0, limit

    def some(connection: Connection) -> limiting.Admission:
        now = store.clock.now()
        care = {"caps": caps, "stamp": stamp}
        claims = claiming.claim(connection, lanes, node=node, token=token, limit=most, now=now, **care)
        return limiting.admit(connection, claims, limit - len(found), now)

    while True:
        admission = store.database.run(some, relaxed=True)
        found += admission.claims
        broken += admission.broken
        looked += most
        # A cap says how many of a lane may begin: in a second look it would be counted twice.
        if not admission.parked or len(found) >= limit or looked >= LOOK_AHEAD or caps:
            return found, broken
        most = min(2 * most, AT_ONCE)


def claim_one(store: StoreBase, work_id: str, *, node: str, token: int) -> tuple[list[Claim], Broken]:
    """Claim this very work, if it may be claimed now and its limits have room."""

    def one(connection: Connection) -> limiting.Admission:
        claims = claiming.claim_one(connection, work_id, node=node, token=token)
        return limiting.admit(connection, claims, 1, store.clock.now())

    admission = store.database.run(one, relaxed=True)
    return admission.claims, admission.broken
