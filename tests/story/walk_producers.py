"""What producers and people do, in a random walk."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from celery_workmanager.ids import new_id
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.planning import Insertion, Step
from celery_workmanager.policies import ExistingPeriodicWorkPolicy, ExistingWorkPolicy
from celery_workmanager.requests import WorkRequest
from celery_workmanager.store import pausing
from tests.story.draws import NAMES, one_time, pauses, periodic, periodic_policies, picks, policies
from tests.story.faults import Fuse
from tests.story.model_words import SECOND, Head, Spec
from tests.story.walk_base import Walk

_CHANGES = ("retry", "run_now", "run_now", "cancel", "cancel_by_tag", "cancel_by_name")


def _told(insertion: Insertion) -> tuple[list[str], list[str]]:
    return [new.request.id for new in insertion.works], list(insertion.skipped)


def _queue_of(request: WorkRequest) -> str:
    return request.queue or "q"


class Producers(Walk):
    """Enqueues under every policy, changes, cancels and pauses."""

    def _enqueue(self, heads: list[Head]) -> None:
        self.number += 1
        steps = [
            Step(
                tuple(self.request(spec, each) for each, spec in head.works),
                tuple(head.parents),
                head.name,
                ExistingWorkPolicy[head.policy],
            )
            for head in heads
        ]
        for head in heads:
            head.works = [(each, self.with_input(spec)) for each, spec in head.works]
        self.both(lambda: _told(self.store.enqueue(steps, _queue_of)), lambda: self.model.enqueue(heads))

    @rule(several=st.lists(one_time, min_size=1, max_size=3))
    def enqueue(self, several):
        self._enqueue([Head([(new_id(), spec) for spec in several])])

    @rule(several=st.lists(one_time, min_size=2, max_size=4), name=st.sampled_from([None, *NAMES]), policy=policies)
    def enqueue_chain(self, several, name, policy):
        heads: list[Head] = []
        for spec in several:
            before = [each for each, _ in heads[-1].works] if heads else []
            heads.append(Head([(new_id(), spec)], before, name, policy))
        self._enqueue(heads)

    @rule(spec=one_time, name=st.sampled_from(NAMES), policy=policies, width=st.integers(1, 3))
    def enqueue_diamond(self, spec, name, policy, width):
        top, bottom = new_id(), new_id()
        middle = [new_id() for _ in range(width)]
        sides = Head([(each, spec) for each in middle], [top], name, policy)
        self._enqueue([Head([(top, spec)], [], name, policy), sides, Head([(bottom, spec)], middle, name, policy)])

    @rule(spec=one_time, first=policies, second=policies)
    def enqueue_join_of_two_names(self, spec, first, second):
        ends = [new_id(), new_id()]
        heads = [
            Head([(each, spec)], [], name, policy)
            for each, name, policy in zip(ends, NAMES, (first, second), strict=True)
        ]
        self._enqueue([*heads, Head([(new_id(), spec)], ends)])

    @rule(pick=picks, spec=one_time, name=st.sampled_from([None, *NAMES]), policy=policies, follow=st.booleans())
    def enqueue_known_id_again(self, pick, spec, name, policy, follow):
        known = self.pick(pick)
        if known is None:
            return
        again = Spec(**{**spec.__dict__, "worker": self.model.jobs[known].spec.worker})
        heads = [Head([(known, again)], [], name, policy)]
        if follow:
            heads.append(Head([(new_id(), spec)], [known], name, policy))
        self._enqueue(heads)

    @rule(spec=periodic, name=st.sampled_from([None, "north", "hourly", "hourly"]), policy=periodic_policies)
    def enqueue_periodic(self, spec, name, policy):
        ends = spec.period.end
        if ends is not None and ends < self.clock.now() + 200 * SECOND:
            return
        self.number += 1
        fresh = new_id()
        spec = self.with_input(spec)
        step = Step((self.request(spec, fresh),), (), name, ExistingPeriodicWorkPolicy[policy])
        self.both(
            lambda: _told(self.store.enqueue([step], _queue_of)),
            lambda: (
                self.model.enqueue([Head([(fresh, spec)])])
                if name is None
                else self.model.enqueue_periodic(fresh, spec, name, policy)
            ),
        )

    # -- changes ------------------------------------------------------------------------------------------------------

    @rule(pick=picks, spec=one_time)
    def update(self, pick, spec):
        self._update(self.pick(pick), spec)

    @rule(pick=picks, spec=periodic, override=st.sampled_from([None, None, "clear", 0, 20, 300]))
    def update_periodic(self, pick, spec, override):
        others: dict[str, Any] = {}
        if override is not None:
            at = self.clock.now() + override * SECOND if override != "clear" else None
            others = {"override": at, "clears_override": at is None}
        self._update(self.pick(pick, lambda job: job.spec.period is not None), spec, **others)

    def _update(self, known: str | None, spec: Spec, **others: Any) -> None:
        if known is not None:
            self.number += 1
            changed = self.with_input(spec, **others)
            request = self.request(changed, known)
            self.both(
                lambda: self.store.update(request, _queue_of(request)).name, lambda: self.model.update(known, changed)
            )

    @rule(
        what=st.sampled_from(["retry", "run_now", "run_now", "cancel", "cancel_by_tag", "cancel_by_name"]), pick=picks
    )
    def change(self, what, pick):
        getattr(self, f"_{what}")(pick)

    def _retry(self, pick: int) -> None:
        known, fresh = self.pick(pick, lambda job: job.is_finished), new_id()
        if known is not None:
            self.both(lambda: self.store.retry(known, fresh), lambda: self.model.retry(known, fresh))

    def _run_now(self, pick: int) -> None:
        known = self.pick(pick)
        if known is not None:
            self.both(lambda: self.store.make_due(known), lambda: self.model.run_now(known))

    def _cancel(self, pick: int) -> None:
        known = self.pick(pick)
        if known is not None:
            self.both(lambda: self.store.cancel(known), lambda: self.model.cancel([known]))

    def _cancel_by_tag(self, pick: int) -> None:
        tag = ("red", "blue", "w.b")[pick % 3]
        found = [j.id for j in self._unfinished() if tag in j.tags or tag == j.spec.worker]
        self._cancel_matching(found, tag=tag)

    def _cancel_by_name(self, pick: int) -> None:
        name = NAMES[pick % 2]
        self._cancel_matching([job.id for job in self._unfinished() if name in job.names], unique_name=name)

    @precondition(lambda self: len(self.model.jobs) > 25)
    @rule()
    def cancel_all(self):
        self._cancel_matching([job.id for job in self._unfinished()])

    def _unfinished(self) -> list[Any]:
        return [job for job in self.model.jobs.values() if not job.is_finished]

    def _cancel_matching(self, found: list[str], **which: Any) -> None:
        call = (lambda: self.store.cancel_matching(**which)) if which else self.store.cancel_all
        answer, cancelled = self.until_done(call), self.model.cancel(found)
        assert not answer.came or answer.value == cancelled

    @rule(what=pauses, another=st.booleans())
    def pause_or_resume(self, what, another):
        """Mostly one thing is paused at a time: else nothing would run any more."""
        if self.model.paused and not another:
            what = min(self.model.paused)
        target = PauseTarget(PauseKind(what[0]), what[1])
        if what in self.model.paused:
            answer = self.until_done(lambda: pausing.resume(self.store, target))
            self.model.paused.discard(what)
        else:
            answer = self.until_done(lambda: pausing.pause(self.store, target))
            self.model.paused.add(what)
            assert not pausing.pause(self.store, target)
        assert not answer.came or answer.value

    @rule(commits=st.sampled_from([0, 0, 0, 1, 1, 2, 3]), reaches=st.booleans())
    def something_is_about_to_break(self, commits, reaches):
        """The next call with so many commits breaks at that one: before it has reached the server, or after."""
        self.database.fuse = Fuse(commits, reaches)
