"""Ends of runs on their way into the store: batched, kept while it is away, and never one for the sake of another."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from sqlalchemy.exc import DBAPIError

from celery_workmanager.clock import Clock
from celery_workmanager.database import is_conflict, is_disconnect
from celery_workmanager.errors import StatementTooLarge
from celery_workmanager.outcome import Claim, Ending, Outcome
from celery_workmanager.store import Settled, Store, Taker
from celery_workmanager.verdict import judge
from celery_workmanager.work import State, WorkError

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 256
#: Seconds between two tries for ends whose rows another transaction holds.
PATIENCE = 0.1
#: Seconds that the last ends of a node may be under way.
FAREWELL = 10.0

Ended = tuple[Claim, Outcome]


class Settlement:
    """Ends that are not written yet."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._new: list[Ended] = []
        self._held: list[Ended] = []
        #: The works and tokens of all these ends; the lease's thread looks at it.
        self.unwritten: set[tuple[str, int]] = set()
        self._try_held_at = 0.0
        self._under_way: Future[bool] | None = None
        #: What the ends have unblocked and their taker has claimed; for the dispatcher.
        self.claimed: deque[Claim] = deque()
        #: Whether ends may have made claimable what their taker hasn't claimed; likewise.
        self.left_some = False
        self.patience = PATIENCE

    @property
    def is_empty(self) -> bool:
        """Whether everything has been written."""
        return self._under_way is None and not self._new and not self._held

    @property
    def would_unblock(self) -> bool:
        """Whether others wait for an end that can be written now."""
        is_free = self._under_way is None or self._under_way.done()
        return is_free and any(claim.has_children for claim, _ in self._new)

    def add(self, claim: Claim, outcome: Outcome) -> None:
        """Take the end of a run."""
        self.unwritten.add((claim.id, claim.token))
        self._new.append((claim, outcome))

    def write(self, taker: Taker | None = None) -> bool:
        """Write what can be written; returns whether something was. Raises while the store is away, losing nothing.

        `taker` claims what is unblocked by it, see `claimed`.
        """
        if self._under_way is not None:
            self._under_way.exception(FAREWELL)  # waits; what it couldn't write is tried again now
            self._under_way = None
        return self._write_first(len(self._new), taker)

    def write_aside(self, make: Callable[[Callable[[], None]], object], on_end: Callable[[], object]) -> bool:
        """Like `write`, by a call that `make` makes in another thread; `on_end` is called when it has ended.

        One call at a time. What is added meanwhile waits for the next one, so that whatever has to be written before
        an end still is. Returns, or raises, what became of the last call.
        """
        wrote = False
        if self._under_way is not None:
            if not self._under_way.done():
                return False
            over, self._under_way = self._under_way, None
            wrote = over.result()
        if self._new or self._may_try_held():
            self._under_way = Future()
            make(partial(self._report, self._under_way, len(self._new), on_end))
        return wrote

    def _report(self, written: Future[bool], count: int, on_end: Callable[[], object]) -> None:
        try:
            written.set_result(self._write_first(count, None))
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            written.set_exception(error)
        on_end()

    def _may_try_held(self) -> bool:
        return bool(self._held) and self._clock.monotonic() >= self._try_held_at

    def _write_first(self, count: int, taker: Taker | None) -> bool:
        """Write the first `count` new ends, and those that were held."""
        wrote = count > 0
        while count > 0:
            batch = self._next_batch(count)
            self._write(batch, taker)
            taker = None  # its room was for one batch
            del self._new[: len(batch)]
            count -= len(batch)
        if self._may_try_held():
            held, self._held = self._held, []
            try:
                for ended in held:
                    self._write([ended])
            except BaseException:
                self._held = held
                raise
        return wrote

    def _next_batch(self, count: int) -> list[Ended]:
        """The first ends, each of another work: a run that had lost its work may end beside the one that has it now."""
        batch = self._new[: min(count, MOST_AT_ONCE)]
        ids: set[str] = set()
        for at, (claim, _) in enumerate(batch):
            if claim.id in ids:
                return batch[:at]
            ids.add(claim.id)
        return batch

    def _write(self, batch: list[Ended], taker: Taker | None = None) -> None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        terms = self._store.terms
        try:
            verdicts = [judge(claim, outcome, now, monotonic, terms) for claim, outcome in batch]
            settled = self._store.settle(verdicts, taker)
        except (DBAPIError, StatementTooLarge) as error:
            if isinstance(error, DBAPIError) and (is_disconnect(error) or is_conflict(error)):
                raise  # the database's trouble, not an end's: they are kept
            self._write_apart(batch, error)
            return
        self.claimed.extend(settled.claims)
        took_all = settled.claims and settled.unblocked == len(settled.claims)
        self.left_some |= not took_all or any(each.state is State.ENQUEUED for each in verdicts)
        self.unwritten -= {(claim.id, claim.token) for claim, _ in batch if claim.id not in settled.held}
        _tell(batch, settled)
        if settled.held:
            self._held += [ended for ended in batch if ended[0].id in settled.held]
            self._try_held_at = monotonic + PATIENCE
        if settled.stale:
            logger.info("%d runs had lost their works; what they returned is dropped", len(settled.stale))

    def _write_apart(self, batch: list[Ended], error: DBAPIError | StatementTooLarge) -> None:
        """The database refuses a batch: halve it until the one bad end stands alone, and fails with the reason."""
        if len(batch) > 1:
            middle = len(batch) // 2
            self._write(batch[:middle])
            self._write(batch[middle:])
            return
        claim, outcome = batch[0]
        cause = getattr(error, "orig", None) or error
        if outcome.ending is Ending.FAILED:
            # Not even the failure can be written: the node knows nothing of it any more, so its lease puts it back.
            logger.error("the end of work %s cannot be written: %s", claim.id, cause)
            self.unwritten.discard((claim.id, claim.token))
            return
        why = WorkError.from_exception(cause).to_json()
        refused = Outcome(Ending.FAILED, error=why, started_at=outcome.started_at, runtime=outcome.runtime)
        self._write([(claim, refused)])


def _tell(batch: list[Ended], settled: Settled) -> None:
    for claim, outcome in batch:
        if claim.told is not None and claim.id not in settled.held:
            claim.told(outcome if claim.id in settled.accepted else None)
