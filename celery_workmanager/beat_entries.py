"""The ordinary entries of a `beat_schedule`, fired by whichever beat holds the schedule's lease in the store.

A fire is claimed in the store, published, and confirmed. A beat that dies, or freezes, in between leaves it claimed:
the next holder publishes it again under the same task id, which is made of the entry's name and the moment. One that
comes back from a sleep finds its claims refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from celery.beat import ScheduleEntry, SchedulingError
from celery.schedules import schedule as Interval  # noqa: N812  # elsewhere in Celery this word means more
from kombu.exceptions import OperationalError
from sqlalchemy import Connection

from celery_workmanager.checks import LONGEST_TEXT
from celery_workmanager.clock import Clock
from celery_workmanager.duties import AWAY
from celery_workmanager.errors import DuplicateWorkId
from celery_workmanager.ids import derived_id
from celery_workmanager.outage import Outage
from celery_workmanager.store import Store, scheduling
from celery_workmanager.store.scheduling import Contents, EntryRow, ScheduleRow
from celery_workmanager.timing import SECOND, as_datetime, micros

__all__ = ("LEASE", "Entries", "stored_name", "with_clock")

logger = logging.getLogger(__name__)

#: Seconds after which another beat takes the schedule from one that doesn't renew, and how often it does in that time.
LEASE, RENEWALS = 7.0, 4
#: After this part of a lease without proof that it is still ours nothing is published.
END = 0.85
#: Seconds between two looks of a beat that holds nothing, and of one that couldn't publish.
LOOK, AGAIN = 1.0, 1.0
_CUT = 200
#: A broker that is away, or a store: what the publishing of a Worker's call raises.
_UNREACHED = (OperationalError, ConnectionError, *AWAY)

ChangeWorks = Callable[[Connection, Contents], None]


def stored_name(name: str) -> str:
    """The name of an entry as the store can keep it: a long one (Celery makes some of whole calls) is cut."""
    fits = len(name) <= LONGEST_TEXT and name.isprintable() and name
    return name if fits else f"{''.join(filter(str.isprintable, name))[:_CUT]}… {derived_id(name)}"


def with_clock(entry: ScheduleEntry, clock: Clock) -> ScheduleEntry:
    """Let the entry's schedule go by `clock`, as works do, unless it has been given a clock of its own."""
    known = entry.schedule
    if getattr(known, "nowfun", None) is None and hasattr(known, "__dict__"):
        # A copy: the one in the configuration is the user's, and Celery's own copying forgets the app.
        mine = object.__new__(type(known))
        vars(mine).update(vars(known), nowfun=lambda: as_datetime(int(clock.now())).astimezone(entry.app.timezone))
        entry.schedule = mine
    return entry


class Entries:
    """The entries of one schedule in one beat; `step` does what is due.

    `entries`: the ordinary ones by name; they are kept up to date. `works`: the names of entries that stand for works;
    `change_works` makes them so when this beat takes the schedule. `publish` sends an entry's task under an id.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        entries: Mapping[str, ScheduleEntry],
        publish: Callable[[ScheduleEntry, str], Any],
        *,
        works: Collection[str] = (),
        change_works: ChangeWorks = lambda *_: None,
        longest: float = 300.0,
    ) -> None:
        self._store, self._clock = store, store.clock
        self._name, self._entries, self._publish = name, entries, publish
        self._works, self._change_works = works, change_works
        self._longest = longest
        self._outage = Outage("what is due is sent later", "The broker (or the store)")
        self._mine: ScheduleRow | None = None
        self._was_mine = False
        self._proved_at = 0.0
        self._rows: dict[str, EntryRow] = {}
        #: When to look at each entry again (microseconds).
        self._due: dict[str, int] = {}

    @property
    def is_held(self) -> bool:
        """Whether this beat holds the schedule, as far as it knows."""
        return self._mine is not None

    def step(self, holder: str) -> float:
        """Do what is due, as the node `holder`; returns seconds until the next step. Raises while the store is away."""
        if self._mine is None or self._mine.holder != holder:
            if not self._take(holder):
                return LOOK
        elif self._clock.monotonic() - self._proved_at >= LEASE / RENEWALS and not self._renew():
            return 0.0
        if not self._fire_due():
            return AGAIN if self._mine is not None else 0.0
        return self._until_next()

    def release(self) -> None:
        """Let another beat go on. Raises while the store is away."""
        mine, self._mine = self._mine, None
        if mine is not None:
            scheduling.release(self._store, mine)

    # -- the lease ------------------------------------------------------------------------------------------------

    def _take(self, holder: str) -> bool:
        self._mine = None
        before = self._clock.monotonic()
        taken = scheduling.take(self._store, self._name, holder, round(LEASE * SECOND))
        if taken.holder != holder:
            if self._was_mine:
                logger.warning("beat: another beat has taken the schedule %r over", self._name)
            self._was_mine = False
            return False
        found = scheduling.load(self._store, taken, self._entries, self._works, self._change_works)
        if found is None:
            return False
        self._mine, self._proved_at, self._rows = taken, before, found.entries
        self._due = dict.fromkeys(self._entries, 0)
        for name in self._entries:
            self._show(name)
        if not self._was_mine:
            logger.info("beat: this beat holds the schedule %r now (%d entries)", self._name, len(found.entries))
        self._was_mine = True
        return True

    def _renew(self) -> bool:
        assert self._mine is not None  # noqa: S101  # only its holder renews
        before = self._clock.monotonic()
        if not scheduling.renew(self._store, self._mine, round(LEASE * SECOND)):
            self._mine = None
            return False
        self._proved_at = before
        return True

    def _until_next(self) -> float:
        renewal = self._proved_at + LEASE / RENEWALS - self._clock.monotonic()
        due = (min(self._due.values(), default=1 << 62) - self._clock.now()) / SECOND
        return max(0.0, min(renewal, due, self._longest))

    # -- firing ---------------------------------------------------------------------------------------------------

    def _fire_due(self) -> bool:
        """Fire what is due, the longest overdue first; ``False``: the schedule is another's, or nothing can be sent."""
        now = self._clock.now()
        due = [name for name, at in self._due.items() if at <= now]
        return all(self._see_to(name) for name in sorted(due, key=self._due.__getitem__))

    def _see_to(self, name: str) -> bool:
        row, entry = self._rows[name], self._entries[name]
        at = row.firing_at
        if at is None:
            is_due, seconds = self._is_due(entry)
            if not is_due:
                self._look_again(name, seconds)
                return True
            at = self._moment(entry, row)
        return self._fire(name, at)

    def _fire(self, name: str, at: int) -> bool:
        assert self._mine is not None  # noqa: S101  # only its holder fires
        row = self._rows[name]
        if not scheduling.claim(self._store, self._mine, row, at):
            self._mine = None  # it is another's, or the answer to an earlier write was lost: it is read again
            return False
        self._rows[name] = row = replace(row, firing_at=at)
        if self._clock.monotonic() - self._proved_at >= LEASE * END and not self._renew():
            return False  # we slept: it is the other's to publish
        if not self._sent_and_confirmed(row, at):
            # Behind the others: what can't be sent for a reason of its own must not keep them waiting.
            self._look_again(name, AGAIN)
            return False
        self._rows[name] = replace(row, last_run_at=at, total_run_count=row.total_run_count + 1, firing_at=None)
        entry = self._show(name)
        is_due, seconds = self._is_due(entry)
        self._look_again(name, 0.0 if is_due else seconds)
        return True

    def _sent_and_confirmed(self, row: EntryRow, at: int) -> bool:
        assert self._mine is not None  # noqa: S101  # only its holder fires
        sent = False
        try:
            sent = self._sent(row.name, at)
            if sent:
                scheduling.confirm(self._store, self._mine, row, at)
        except SystemExit:
            # The signal that ends beat came in between: what was sent is confirmed, or it would be sent again.
            if sent:
                scheduling.confirm(self._store, self._mine, row, at)
            raise
        return sent

    def _sent(self, name: str, at: int) -> bool:
        """Publish; ``False`` when it has to be tried again. A fire that can never be sent is logged and done with."""
        try:
            self._publish(self._entries[name], derived_id(self._name, name, at))
        except Exception as error:  # a task's own code may be in here
            cause = error.__context__ if isinstance(error, SchedulingError) and error.__context__ else error
            if isinstance(cause, DuplicateWorkId):
                return True  # a Worker's call, enqueued before the beat died
            if isinstance(cause, _UNREACHED):
                self._outage.away(cause)
                return False
            logger.error("beat: entry %r can't be sent: %r", name, cause, exc_info=cause)  # noqa: TRY400
            return True
        self._outage.back()
        return True

    def _is_due(self, entry: ScheduleEntry) -> tuple[bool, float]:
        try:
            is_due, seconds = entry.is_due()
        except Exception:
            # As in Celery: one entry whose next run can't be told must not stop the others.
            logger.exception("beat: the next run of %r can't be told; it is tried again", entry.name)
            return False, self._longest
        return bool(is_due), float(seconds)

    def _look_again(self, name: str, seconds: float) -> None:
        self._due[name] = self._clock.now() + max(0, round(min(seconds, self._longest) * SECOND))

    def _moment(self, entry: ScheduleEntry, row: EntryRow) -> int:
        """The moment this fire stands for: by it the next one is reckoned.

        A plain interval keeps its rhythm while it is punctual; after a pause it begins anew, as in Celery.
        """
        now = self._clock.now()
        known = entry.schedule
        if type(known) is Interval and not known.relative:
            every = micros(known.run_every)
            if now - row.last_run_at < 2 * every:
                now = row.last_run_at + every
        return max(now, row.last_run_at + 1)

    def _show(self, name: str) -> ScheduleEntry:
        """Let Celery's entry say what the store does."""
        entry, row = self._entries[name], self._rows[name]
        entry.last_run_at = _local(row.last_run_at, entry.app.timezone)
        entry.total_run_count = row.total_run_count
        return entry


def _local(at: int, zone: Any) -> datetime:
    return as_datetime(at).astimezone(zone)
