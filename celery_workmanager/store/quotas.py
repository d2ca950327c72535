"""The quota of expedited works: spent at the claim, as a rate is.

Source: WorkManager, ``WorkRequest.Builder.setExpedited`` and ``OutOfQuotaPolicy``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, case, update

from celery_workmanager.bounds import Bound, quota_of
from celery_workmanager.outcome import Claim
from celery_workmanager.policies import OutOfQuotaPolicy
from celery_workmanager.store.cancelling import cancel_with_descendants
from celery_workmanager.store.graph import HeldByOthers
from celery_workmanager.store.limiting import lock, write
from celery_workmanager.store.rows import EXPEDITED
from celery_workmanager.tables import work
from celery_workmanager.terms import Terms
from celery_workmanager.work import StopReason, WorkError

OUT_OF_QUOTA = WorkError("OutOfQuota", "out of quota for expedited works, and to be dropped then").to_json()


def spend(connection: Connection, claims: Sequence[Claim], quota: Mapping[str, Bound], now: int) -> list[Claim]:
    """Spend a token for each of `claims`, which are expedited; returns those for which there is none."""
    bounds = {claim.id: quota_of(claim.options, claim.worker, quota) for claim in claims}
    locked = lock(connection, {bound.key for each in bounds.values() for bound in each}, now)
    out, spent = list[Claim](), set[str]()
    for claim in claims:
        if locked.room.lacking(bounds[claim.id]) is not None:
            out.append(claim)
            continue
        locked.room.take(bounds[claim.id])
        spent |= {bound.key for bound in bounds[claim.id]}
    write(connection, locked, spent)
    return out


# It may have been paused since it was claimed, or updated: then it is perhaps expedited no more.
_BACK = (
    update(work)
    .where(work.c.id == bindparam("claimed"), work.c.token == bindparam("by"))
    .values(node=None, token=None, ready_lane=case((work.c.held.is_(None), work.c.lane), else_=None))
)
_DOWNGRADE = _BACK.values(
    urgency=case((work.c.urgency < 0, work.c.urgency + EXPEDITED), else_=work.c.urgency), version=work.c.version + 1
)


def refuse(connection: Connection, claim: Claim, now: int, terms: Terms) -> None:
    """Do with a claimed work that is out of quota as its policy says: it is expedited no more, or dropped."""
    mine = {"claimed": claim.id, "by": claim.token}
    if claim.options.get("expedited") != OutOfQuotaPolicy.DROP_WORK_REQUEST:
        connection.execute(_DOWNGRADE, mine)
        return
    try:
        cancel_with_descendants(
            connection, [claim.id], now, terms, reason=StopReason.QUOTA, error=OUT_OF_QUOTA, wait=False
        )
    except HeldByOthers:
        connection.execute(_BACK, mine)  # somebody holds one of its dependents; it is dropped when it is claimed again
