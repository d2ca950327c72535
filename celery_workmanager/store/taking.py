"""How nodes take works: claims, what is sorted out of them, and the room that the ends of runs leave to others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from celery_workmanager.errors import InvalidRequest, StoreError
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.store import claiming, limiting, periods, prompt, quotas
from celery_workmanager.store.base import StoreBase
from celery_workmanager.store.finishing import Settled
from celery_workmanager.store.following import Taker
from celery_workmanager.verdict import Verdict, catch_up, judge
from celery_workmanager.work import WorkError

logger = logging.getLogger(__name__)

#: How many works one transaction looks at, and how many one claim under limits: what has no room is parked, once.
AT_ONCE, LOOK_AHEAD = 256, 512

Broken = list[tuple[Claim, InvalidRequest]]


class TakingStore(StoreBase):
    """Claims works; works under limits of the fleet with permits, which it takes back."""

    def settle(self, verdicts: Sequence[Verdict], taker: Taker | None = None) -> Settled:
        """Write verdicts; `taker` claims what they unblock."""
        raise NotImplementedError

    def claim(self, lanes: Sequence[int], node: str, token: int, limit: int, **care: Any) -> list[Claim]:
        """Claim up to `limit` works of `lanes`; `care`: the caps and the stamp of `claiming.claim`."""
        how: dict[str, Any] = {"node": node, "token": token, "limit": limit, "now": self.clock.now(), **care}
        return self._to_run(self.database.run_relaxed(lambda conn: claiming.claim(conn, lanes, **how)))

    def claim_promptly(self, lanes: Iterable[int], node: str, token: int, limit: int) -> tuple[list[Claim], bool]:
        """Claim without a look, where one statement can say that (`prompt`); and whether those were all there are."""
        if self.database.dialect != "postgresql":
            return [], False
        how: dict[str, Any] = {"node": node, "token": token, "limit": limit, "now": self.clock.now()}
        found = self.database.run_relaxed(lambda conn: prompt.claim(conn, lanes, **how))
        return self._to_run(found), 0 < len(found) < limit

    def claim_one(self, work_id: str, node: str, token: int) -> list[Claim]:
        """Claim this very work, if it may be claimed now and its limits have room."""

        def one(connection: Connection) -> limiting.Admission:
            claims = claiming.claim_one(connection, work_id, node=node, token=token, now=self.clock.now())
            return limiting.admit(connection, claims, 1, self.clock.now())

        admission = self.database.run(one, relaxed=True)
        self._fail(admission.broken)
        return self._to_run(admission.claims)

    def claim_limited(
        self,
        lanes: Sequence[int],
        node: str,
        token: int,
        limit: int,
        *,
        caps: Mapping[int, int] | None = None,
        stamp: int | None = None,
    ) -> list[Claim]:
        """As `claim`, from `lanes` of works under limits of the fleet.

        It looks further while some have no room, so that the works of one key don't hide those of others.
        """
        found: list[Claim] = []
        broken: Broken = []
        looked, most = 0, limit

        def some(connection: Connection) -> limiting.Admission:
            now = self.clock.now()
            claims = claiming.claim(
                connection, lanes, node=node, token=token, limit=most, now=now, caps=caps, stamp=stamp
            )
            return limiting.admit(connection, claims, limit - len(found), now)

        while True:
            admission = self.database.run(some, relaxed=True)
            found += admission.claims
            broken += admission.broken
            looked += most
            # A cap says how many of a lane may begin: in a second look it would be counted twice.
            if not admission.parked or len(found) >= limit or looked >= LOOK_AHEAD or caps:
                break
            most = min(2 * most, AT_ONCE)
        self._fail(broken)
        return self._to_run(found)

    def _fail(self, broken: Broken) -> None:
        """Fail works whose limits' keys can't be filled in, each with its error."""
        if broken:
            now = self.clock.now()
            failures = ((each, WorkError.from_exception(error).to_json()) for each, error in broken)
            ends = ((each, Outcome(Ending.FAILED, error=error)) for each, error in failures)
            self.settle([judge(each, outcome, now, 0.0, self.terms) for each, outcome in ends])

    def _to_run(self, claims: list[Claim]) -> list[Claim]:
        """The claims without those that don't run now after all."""
        return self._caught_up(self._within_quota(claims))

    def _within_quota(self, claims: list[Claim]) -> list[Claim]:
        """The claims without expedited works that are out of quota."""
        expedited = [claim for claim in claims if claim.urgency < 0] if self.terms.expedited_quota else []
        if not expedited:
            return claims
        now, terms = self.clock.now(), self.terms
        out = self.database.run(lambda conn: quotas.spend(conn, expedited, terms.expedited_quota, now), relaxed=True)
        for claim in out:
            self._write(lambda conn, claim=claim: quotas.refuse(conn, claim, now, terms))  # type: ignore[misc]
        self.release([claim.id for claim in out if claim.has_permits])
        return [claim for claim in claims if claim not in out]

    def _caught_up(self, claims: list[Claim]) -> list[Claim]:
        """The claims without periodic works that have missed what they were claimed for and don't run now."""
        periodic = [claim for claim in claims if claim.standing is not None]
        if not periodic:
            return claims
        now = self.clock.now()
        before = {claim.id: claim.standing for claim in periodic}
        passed = {claim.id: found for claim in periodic if (found := catch_up(claim, now, self.terms)) is not None}
        if passed:
            self.settle(list(passed.values()))
        moved = [claim for claim in periodic if claim.standing is not before[claim.id]]
        if moved:
            # Written, or whoever heals a lost run would not know what it stood for.
            self._write(lambda conn: periods.write_moved(conn, moved))
        return [claim for claim in claims if claim.id not in passed]

    # -- room -----------------------------------------------------------------------------------------------------

    def release(self, ids: Sequence[str]) -> None:
        """Let others have the room of works whose runs have ended; that is committed already."""
        if not ids:
            return
        try:
            self.database.run(lambda conn: limiting.release(conn, ids, self.clock.now()), relaxed=True)
        except (DBAPIError, StoreError) as error:
            # What waits for them is looked at in time (`wake_limited`).
            logger.info("the limits of %d works are released later: %s", len(ids), error)

    def wake_limited(self) -> int:
        """Let works wait no longer for limits that have room again; returns how many keys were looked at."""
        return self.database.run(lambda conn: limiting.wake_due(conn, self.clock.now()), relaxed=True)

    def forget_limits(self, after: str) -> str:
        """Delete a chunk of limits, beyond `after`, under which nothing happens; returns where to go on."""
        following, keys = self._read(lambda conn: limiting.keys_beyond(conn, after))
        if keys:
            self._write(lambda conn: limiting.forget_unused(conn, keys, self.clock.now()))
        return following
