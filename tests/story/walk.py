"""A random walk over the real store and the reference model, side by side."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from celery_workmanager.outcome import Ending
from celery_workmanager.pauses import PauseKind, PauseTarget
from celery_workmanager.store import pausing
from tests.story.draws import one_time, periodic
from tests.story.walk_base import LEASE
from tests.story.walk_producers import Producers
from tests.story.walk_runs import Runs


class StoreAndModel(Producers, Runs):
    """Each rule is a call of the store and the same move of the model; what time does is done here."""

    @initialize(several=st.lists(one_time, min_size=3, max_size=5), repeats=st.lists(periodic, max_size=2))
    def begin_with_some_works(self, several, repeats):
        self.enqueue(several)
        for spec in repeats:
            self.enqueue_periodic(spec, None, "KEEP")

    @rule(seconds=st.sampled_from([1, 5, 20, 60, 4000]))
    def time_passes_and_is_noticed(self, seconds):
        self.let_time_pass(seconds)

    @rule(seconds=st.sampled_from([0, 1, 5, 20, 60, 4000]))
    def time_passes(self, seconds):
        self.let_time_pass(seconds, look=False)

    @rule(only_expired=st.booleans())
    def prune(self, only_expired):
        self._sweep()
        answer = self.until_done(lambda: self.store.prune(only_expired=only_expired))
        gone = self.model.prune(only_expired=only_expired)
        assert not answer.came or answer.value == gone

    def _sweep(self) -> None:
        """There is never anything to repair, and no key is kept under which nothing happens."""
        assert self.store.sweep("") == ("", 0)
        assert self.store.forget_limits("") == ""

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def store_and_model_agree(self):
        self.watcher.look(self.model)

    def teardown(self):
        """Whatever happened: now that nothing more does, everything that was accepted ends."""
        self.database.fuse = None
        try:
            self._stop_what_has_no_end()
            for _ in range(400):
                if all(job.is_finished for job in self.model.jobs.values()):
                    return
                self.let_time_pass(7200)
                self.heal_before(self.clock.now() + LEASE + 1)
                node = self.seats[0] = self.register(0)
                while any(job.waits_for_files and self.model.is_ready(job) for job in self.model.jobs.values()):
                    self.change_files(node, 0)
                    self._finish_all(node)
                self.take(node, 100)
                self._finish_all(node)
                self.watcher.look(self.model)
            unfinished = [job for job in self.model.jobs.values() if not job.is_finished]
            raise AssertionError(f"expected everything to end, got: {unfinished}")
        finally:
            self.model.jobs.clear()

    def _stop_what_has_no_end(self) -> None:
        for kind, label in sorted(self.model.paused):
            assert pausing.resume(self.store, PauseTarget(PauseKind(kind), label))
        self.model.paused.clear()
        for each, job in list(self.model.jobs.items()):
            if job.spec.period is not None and not job.is_finished:
                assert self.store.cancel(each) == self.model.cancel([each])
        self.watcher.look(self.model)

    def _finish_all(self, node: str) -> None:
        hand, self.hands[node] = self.hands[node], []
        self.settle([self.outcome(claim, Ending.SUCCEEDED) for claim in hand])
