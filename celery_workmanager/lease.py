"""A node's lease: proof of life for all its works at once, and the duty to stop them when it can't be given.

The lease is renewed well before it ends. A node that cannot renew stops its runs before the others may take its works;
one that finds itself declared lost takes a new identity.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from celery_workmanager.clock import Clock
from celery_workmanager.dispatcher import Dispatcher
from celery_workmanager.errors import StoreBusy
from celery_workmanager.ids import new_id
from celery_workmanager.outage import Outage
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.store.leasing import NodeRow
from celery_workmanager.timing import SECOND
from celery_workmanager.work import State, StopReason, WorkInfo

logger = logging.getLogger(__name__)

#: A lease is renewed this often in its time.
RENEWALS = 4
#: After this part of a lease without renewal the runs are told to stop, after that part they must have ended.
WARN, END = 0.6, 0.85
#: Runs younger than this (seconds) end by themselves before a look at the store would tell them anything.
SETTLED_IN = 0.1
#: Seconds until a node tells that it reads something else.
SOON = 0.5
#: Seconds between two looks at what this node still owns; as short as the second when the bell rings.
LOOK, QUICK_LOOK = 1.0, 0.2
#: Seconds between two steps while something runs.
_LOOK_AFTER = 0.25
_MOMENT = 0.001


class Lease:
    """The identity of one node and what keeps it alive."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        name: str,
        *,
        length: float,
        stop_grace: float,
        facts: Callable[[], Mapping[str, Any]],
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._name = name
        self._length = length
        self._grace = stop_grace
        self._facts = facts
        self._outage = outage or Outage()
        self._renewed_at: float | None = None
        self._renew_at = 0.0
        self._looked_at = 0.0
        self._was_rung = False
        #: When the step under way began, and the one that was under way at the last `watch` (monotonic seconds).
        self._step_began: float | None = None
        self._step_seen: float | None = None
        #: Works that are ours in the store only, and since when (monotonic seconds).
        self._forgotten: dict[tuple[str, int], float] = {}
        self.node = ""

    def step(self, *, rung: bool = False) -> None:
        """Renew when it is time, and look whether the works in hand are still ours. Raises while the store is away."""
        self._step_began = now = self._clock.monotonic()
        try:
            try:
                if now >= self._renew_at:
                    self._renew(now)
                    self._renew_at = now + self._length / RENEWALS
                    self._put_back_forgotten(now)
            finally:
                # After the try to renew: a store that is just back finds its works running. Also when the try failed.
                self._end_in_time(self._clock.monotonic())
            self._look(now, rung=rung)
        finally:
            self._step_began = None

    def watch(self) -> None:
        """Stop the runs in time while a step waits for a store that doesn't answer: for a thread of its own.

        Only a step that was there at the last look waits in vain: in one that has just begun, a process that was frozen
        is about to renew.
        """
        under_way = self._step_began
        if under_way is not None and under_way == self._step_seen:
            self._end_in_time(self._clock.monotonic())
        self._step_seen = under_way

    def until_next(self) -> float:
        """Seconds until there may be something to do again: what runs is looked after, a change is told `SOON`."""
        now = self._clock.monotonic()
        longest = min(_LOOK_AFTER if self._dispatcher.runs else SOON, self._length / 8)
        # Late by a moment rather than early by one, which would be a step for nothing.
        return min(longest, max(0.0, self._renew_at - now) + _MOMENT)

    def facts_changed(self) -> None:
        """What the node tells of itself has changed: renew soon, but not for each of many changes."""
        self._renew_at = min(self._renew_at, self._clock.monotonic() + SOON)

    def _renew(self, now: float) -> None:
        try:
            self._store.open()  # from then on the clock is the database's: a first lease by a slow one would be over
            until = self._clock.now() + round(self._length * SECOND)
            if not self.node:
                self._register(until)
            elif not self._store.renew(self.node, until, self._facts_json()):
                self._begin_anew(until)
        except StoreBusy:
            if self._store.database.is_sqlite:
                # One writer at a time: who holds us up cannot be healing our works either.
                self._renewed_at = now
            raise
        self._renewed_at = now
        self._outage.back()
        self._dispatcher.leased(self.node, now + self._length * END)

    def _register(self, until: int) -> None:
        row = this_process(self._name, self._clock.now(), until, self._facts_json())
        self._store.register(row)
        self.node = row.id

    def _begin_anew(self, until: int) -> None:
        logger.warning("node %s was declared lost: its works run elsewhere, it goes on as a new node", self.node)
        self._dispatcher.lost()
        self._dispatcher.stop(list(self._dispatcher.runs), StopReason.UNKNOWN, self._grace)
        self._register(until)

    def _facts_json(self) -> str:
        return json.dumps(dict(self._facts()))

    def _end_in_time(self, now: float) -> None:
        if self._renewed_at is None:
            return
        age = now - self._renewed_at
        if age < self._length * WARN:
            return
        self._dispatcher.accepting = False
        if going := sum(not run.stopping for run in list(self._dispatcher.runs.values())):
            logger.warning("the lease cannot be renewed; %d runs are stopped", going)
        left = max(0.0, self._length * END - age)
        self._dispatcher.stop(list(self._dispatcher.runs), StopReason.UNKNOWN, min(self._grace, left))

    def _put_back_forgotten(self, now: float) -> None:
        """Put back works that are ours in the store while nobody here knows of them: a claim's answer may be lost.

        A whole lease must have gone by, so that it isn't a claim on its way; late claims are fenced by their tokens.
        """
        held = set(self._store.owned(self.node).items()) - self._dispatcher.in_hand()
        self._forgotten = {each: self._forgotten.get(each, now) for each in held}
        overdue = sorted(work_id for (work_id, _), since in self._forgotten.items() if now - since >= self._length)
        if overdue:
            logger.warning("%d works were claimed and forgotten; they are put back", len(overdue))
            self._store.put_back(self.node, overdue)
            self._dispatcher.look_again()

    def _look(self, now: float, *, rung: bool) -> None:
        """Stop runs whose works were cancelled, replaced or given to another node."""
        self._was_rung = self._was_rung or rung
        if now - self._looked_at < (QUICK_LOOK if self._was_rung else LOOK):
            return
        runs = {
            each.claim.id: each.claim
            for each in list(self._dispatcher.runs.values())
            if not each.stopping and now - each.handed_over_at >= SETTLED_IN
        }
        if not runs:
            return
        self._looked_at, self._was_rung = now, False
        owned = self._store.owned(self.node)
        lost = [each for each, claim in runs.items() if owned.get(each) != claim.token]
        if not lost:
            return
        found = {info.id: info for info in self._store.work_infos(WorkQuery(ids=lost))}
        for each in lost:
            self._stop(each, found.get(each))

    def _stop(self, work_id: str, info: WorkInfo | None) -> None:
        """Stop a run that has lost its work, of which this is known."""
        if info is None:  # gone with its unique name
            self._dispatcher.stop([work_id], StopReason.CANCELLED_BY_APP, self._grace)
        elif info.state is State.CANCELLED:
            by_user = info.stop_reason is StopReason.USER
            reason = StopReason.USER if by_user else StopReason.CANCELLED_BY_APP
            # Who terminates it doesn't want to wait.
            self._dispatcher.stop([work_id], reason, 0.0 if by_user else self._grace)
        elif not info.state.is_finished:  # healed, and another run's by now
            self._dispatcher.stop([work_id], StopReason.UNKNOWN, self._grace)

    def release(self) -> None:
        """Say goodbye; what a node still holds keeps its lease and is healed."""
        if self.node:
            self._store.unregister(self.node)


def this_process(name: str, now: int, lease_until: int, facts: str) -> NodeRow:
    """This process as a node that begins now: under a new identity."""
    pid = os.getpid()
    return NodeRow(
        id=new_id(),
        name=name,
        host=this_host(),
        pid=pid,
        pid_started_at=process_started_at(pid),
        started_at=now,
        lease_until=lease_until,
        facts=facts,
    )


def this_host() -> str:
    """The machine, its start and its process numbering: where a process id of ours means something."""
    return _host_of(os.getpid())


@lru_cache(maxsize=1)
def _host_of(_pid: int) -> str:
    # None of it changes while a process lives, but for its name, under which it has told of itself by then.
    return f"{socket.gethostname()}/{_read('/proc/sys/kernel/random/boot_id')}/{_namespace()}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def process_started_at(pid: int) -> int:
    """When process `pid` began, in ticks since the machine's start; 0 where that can't be told.

    Ticks don't move with the system's clock, which creation times in seconds do.
    """
    stat = _read(f"/proc/{pid}/stat")
    return int(stat.rsplit(")", 1)[1].split()[19]) if stat else 0


def is_gone(pid: int, started_at: int) -> bool:
    """Whether the process `pid` that began at `started_at` has certainly ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # there is one, of another user's
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
    except psutil.Error:
        return False
    now = process_started_at(pid)
    return bool(now and started_at) and now != started_at


def dead_nodes(nodes: list[NodeRow]) -> list[str]:
    """Nodes of this machine whose process is gone: there is no need to wait for their leases."""
    here = this_host()
    return [node.id for node in nodes if node.host == here and is_gone(node.pid, node.pid_started_at)]
