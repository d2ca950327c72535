"""The auditor: compares what was promised, what ran and what the store says, when the storm is over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from celery_workmanager.timing import micros
from celery_workmanager.work import State, WorkInfo
from tests.chaos.history import Step
from tests.chaos.journal import Notes
from tests.chaos.runs import Faults, Line, Run, repeats, runs_of

#: Seconds beyond a lease within which what a lost node ran must wait for the next one again, and run if it is its turn.
GRACE = 2.0
#: Which state may follow which, written down once more: the product's own table is what is audited.
_LEGAL = {
    None: {State.ENQUEUED, State.BLOCKED, State.FAILED, State.CANCELLED},
    State.BLOCKED: {State.ENQUEUED, State.FAILED, State.CANCELLED},
    State.ENQUEUED: {State.ENQUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED},
    State.RUNNING: {State.RUNNING, State.ENQUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED},
}


@dataclass
class Evidence:
    """All that an audit is made of."""

    notes: Notes
    infos: list[WorkInfo]
    steps: list[Step]
    lines: list[Line]
    lease: float
    #: Works that wait, and for which the store could say why.
    explained: set[str] = field(default_factory=set)
    #: What was found when every name was used once more.
    unheld: list[str] = field(default_factory=list)
    #: Until when (microseconds) occurrences were due.
    until: int = 0


class Audit:
    """All checks; `found` has what breaks a promise, by promise."""

    def __init__(self, evidence: Evidence) -> None:
        self.notes, self._evidence = evidence.notes, evidence
        self.infos = {info.id: info for info in evidence.infos}
        self.runs = runs_of(evidence.lines)
        self.faults = Faults([*evidence.notes.faults, *evidence.notes.stalls], evidence.lease)
        self._runs_of: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            self._runs_of[run.work].append(run)
        #: Works that stand between joined chains: the product's own, they log nothing.
        self._own = {info.id for info in evidence.infos if not info.worker_name.startswith("story.")}
        self._made = {step.work for step in evidence.steps if step.was is None}
        self._gone = {step.work for step in evidence.steps if step.became is None}
        #: Runs that followed another one of the same work, by reason.
        self.again = Counter[str]()
        #: When each run lost its work (monotonic seconds), by its token.
        self._lost_at = {step.owner: step.at for step in evidence.steps if step.owner not in (None, step.heir)}
        #: Seconds from each node's death until what it ran waited for the next one again, where nothing else was in the
        #: way; of what was looked at in the last act, when nothing waited before it: until it ran again.
        self.delays: list[float] = []
        checks = {
            "lost": self._lost,
            "illegal transitions": self._illegal,
            "stale finishes accepted": self._stale,
            "children before their parents": self._early,
            "joins forgotten": self._forgotten,
            "periods doubled": self._doubled,
            "periods lost": self._missed,
            "names held by nobody": lambda: iter(evidence.unheld),
            "unexplained repeats": self._repeated,
            "runs that overlap, of a node that wasn't frozen": self._overlapping,
            "halves of an enqueue": self._halves,
            f"back later than lease + {GRACE:g} s": self._late,
            "other": self._other,
        }
        self.found = {promise: list(check()) for promise, check in checks.items()}

    @property
    def anomalies(self) -> list[str]:
        return [f"{promise}: {each}" for promise, found in self.found.items() for each in found]

    @property
    def changes(self) -> int:
        """How many changes of state or owner the databases kept."""
        return len(self._evidence.steps)

    @property
    def waiting(self) -> set[str]:
        """Accepted works that wait for a reason that can be seen."""
        return {each for each in self.notes.accepted.keys() & self.infos.keys() if self._waits_visibly(each)}

    @property
    def replaced(self) -> set[str]:
        """Accepted works that a later call under their name deleted."""
        named = {each for call in self.notes.calls if call.name is not None for each in call.edges}
        return (self.notes.accepted.keys() & self._gone & named) - self.infos.keys()

    # -- works ----------------------------------------------------------------------------------------------------

    def _waits_visibly(self, work_id: str) -> bool:
        info = self.infos[work_id]
        is_due_later = info.state is State.ENQUEUED and info.next_schedule_time is not None
        return work_id in self.notes.delayed and is_due_later and work_id in self._evidence.explained

    def _lost(self) -> Iterator[str]:
        replaced = self.replaced
        for each in self.notes.accepted:
            info = self.infos.get(each)
            if info is None:
                if each not in replaced:
                    yield f"{each} was accepted and is gone"
            elif not info.state.is_finished and not self._waits_visibly(each):
                yield f"{each} is {info.state.name} and nothing says why: {info}"

    def _illegal(self) -> Iterator[str]:
        last: dict[str, State | None] = {}
        for step in self._evidence.steps:
            if step.became is None:
                continue
            if step.was is not None and last.get(step.work) is not step.was:
                yield f"{step.work} was {last.get(step.work)} and left {step.was.name}"
            if step.became not in _LEGAL.get(step.was, set()):
                yield f"{step.work} went from {step.was and step.was.name} to {step.became.name}: {step}"
            if step.was is State.BLOCKED and step.owner is not None:
                yield f"{step.work} was BLOCKED and owned: {step}"
            last[step.work] = step.became

    def _stale(self) -> Iterator[str]:
        for step in self._evidence.steps:
            info = self.infos.get(step.work)
            if info is None or info.state is not step.became or info.id in self._own:
                continue
            if step.was is None or step.was.is_finished:
                continue
            if step.became is State.SUCCEEDED and step.owner is None:
                yield f"{step.work} succeeded, and nobody owned it"
            token = info.output_data.get("token")
            if token is None:
                if step.became is State.SUCCEEDED:
                    yield f"{step.work} succeeded without an output: {info.output_data}"
            elif token != step.owner or info.output_data.get("of") != step.work:
                yield f"{step.work} has the output of run {token}, and was owned by run {step.owner}"
            elif not any(run.token == token and run.ended is not None for run in self._runs_of[step.work]):
                yield f"{step.work} has the output of a run that never ended"

    def _early(self) -> Iterator[str]:
        for each, info in self.infos.items():
            mine = self._runs_of.get(each)
            if not mine:
                continue
            for parent in self._parents(info):
                before = self.infos.get(parent)
                if before is not None and before.state is not State.SUCCEEDED:
                    yield f"{each} ran, and its parent {parent} is {before.state.name}"
                ended = [run.ended for run in self._runs_of.get(parent, ()) if run.ended and run.said == "success"]
                if not ended or min(ended) > mine[0].begun:
                    yield f"{each} started before its parent {parent} had ended"

    def _parents(self, info: WorkInfo) -> Iterator[str]:
        for parent in info.prerequisites:
            if parent in self._own:
                yield from self._parents(self.infos[parent])
            else:
                yield parent

    def _forgotten(self) -> Iterator[str]:
        for each, info in self.infos.items():
            parents = {parent: self.infos[parent].state for parent in info.prerequisites if parent in self.infos}
            if info.state is State.BLOCKED and not any(not state.is_finished for state in parents.values()):
                yield f"{each} waits for {parents}"

    # -- periods --------------------------------------------------------------------------------------------------

    def _doubled(self) -> Iterator[str]:
        ended = Counter((step.work, step.period) for step in self._evidence.steps if step.ended)
        for (work, period), times in ended.items():
            if times > 1:
                yield f"occurrence {period} of {work} was ended {times} times"
        for first, second in repeats(run for run in self.runs if run.of is not None):
            if self.faults.reason(first, second) is None:
                yield f"occurrence ran again for no reason: {first} {second}; {self.faults.near(second.begun)}"

    def _missed(self) -> Iterator[str]:
        moments: dict[str, set[int]] = defaultdict(set)
        for run in self.runs:
            if run.of is not None:
                moments[run.work].add(run.of)
        for each, info in self.infos.items():
            about = info.periodicity_info
            if about is None or about.repeat_interval is None or each not in self.notes.accepted:
                continue
            interval = micros(about.repeat_interval)
            if not moments[each] or max(moments[each]) < self._evidence.until - 2 * interval:
                yield f"the last occurrence of {each} is {max(moments[each], default=None)}, {self._evidence.until}"
            for one, next_one in pairwise(sorted(moments[each])):
                if next_one - one != interval:
                    yield f"{each} ran at {one} and then at {next_one}, its interval is {interval}"

    # -- runs -----------------------------------------------------------------------------------------------------

    def _repeated(self) -> Iterator[str]:
        for first, second in repeats(self.runs):
            reason = self.faults.reason(first, second)
            self.again[reason or "no reason"] += 1
            if reason is None and first.of is None:
                yield f"ran again for no reason: {first} {second}; {self.faults.near(second.begun)}"

    def _overlapping(self) -> Iterator[str]:
        # A node that is merely cut off must have ended its runs before its lease ends.
        for first, second in repeats(self.runs):
            if first.ended is not None and first.ended > second.begun and not self.faults.froze(first):
                yield f"by {first.ended - second.begun:.2f} s: {first} {second}; {self.faults.near(second.begun)}"

    def _late(self) -> Iterator[str]:
        followed = list(repeats(self.runs))
        for each, node in self.notes.watched.items():
            mine = self._runs_of[each]
            if not mine or mine[-1].node == node:
                yield f"{each} never began again after its node {node} had been killed"
        for death in self.faults.deaths():
            for first, second in followed:
                cut_short = first.ended is None or first.ended > death.at
                if first.node != death.pid or not (first.begun < death.at < second.begun) or not cut_short:
                    continue
                # The claim may be lost with the moments before a crash: then only the next run is known.
                lost_at = self._lost_at.get(first.token, second.begun)
                again = second.begun if first.work in self.notes.watched else lost_at
                if self.faults.disturbs(death.at - self._evidence.lease, again, but=death):
                    continue
                self.delays.append(delay := again - death.at)
                if delay > self._evidence.lease + GRACE:
                    yield f"{delay:.1f} s after {death}: {first} {second}"

    # -- calls ----------------------------------------------------------------------------------------------------

    def _halves(self) -> Iterator[str]:
        for call in self.notes.calls:
            stored = call.edges.keys() & self._made
            if stored and len(stored) != len(call.edges):
                yield f"{len(stored)} of {len(call.edges)} works of one call were stored: {call}"

    def _other(self) -> Iterator[str]:
        yield from self.notes.broken
        known = set[str]()
        for call in self.notes.calls:
            known |= call.edges.keys()
            if (call.refused or call.kept == ()) and call.edges.keys() & self._made:
                yield f"stored, although {call.refused or 'left out'}: {call}"
            for each in set(call.kept or ()) - self._made:
                yield f"{each} was accepted and never stored"
        for each in self._made - known - self._own:
            yield f"{each} was never enqueued"
