"""What a node has to offer to works: its queues, its workers, and the constraints that its readings meet.

Claiming and stopping ask the same question of the same readings, so nothing is claimed that would be stopped at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from celery_workmanager.clock import Clock
from celery_workmanager.constraints import Constraints
from celery_workmanager.judgement import Unmet, unmet
from celery_workmanager.lanes import Lane, lane_of
from celery_workmanager.outcome import Claim
from celery_workmanager.readings import Readings
from celery_workmanager.timing import SECOND

#: Sets that nobody has asked for during this time (seconds) are no longer watched.
FORGOTTEN_AFTER = 300.0


class Offer:
    """Judges lanes and runs by what the node serves and reads at this moment. For several threads.

    `lanes`: those it serves whatever it reads, with the worker name of each. `watch` is told of the sets of constraints
    that matter here, whenever these are others.
    """

    def __init__(
        self,
        lanes: Callable[[], Mapping[int, str]],
        clock: Clock,
        readings: Callable[[], Readings],
        watch: Callable[[Iterable[Constraints]], None] = lambda _sets: None,
    ) -> None:
        self.lanes = lanes
        self._clock = clock
        self._readings = readings
        self._watch = watch
        #: The sets that were asked for, by their keys, and when last (monotonic seconds).
        self._asked: dict[str, tuple[Constraints, float]] = {}
        #: What was judged by which readings, within one second: nodes look into the same lanes again and again.
        self._judged: tuple[Readings, int, dict[Constraints, Unmet | None]] = Readings.NONE, 0, {}

    def serves(self, lane: Lane) -> bool:
        """Whether works of `lane` may run here at all."""
        return lane_of(lane.queue, lane.worker) in self.lanes()

    def covers(self, lane: Lane) -> bool:
        """Whether works of `lane` may be claimed now."""
        return self.serves(lane) and self._first_unmet(lane.constraints) is None

    def lost(self, claim: Claim) -> Unmet | None:
        """The first unmet constraint of a claimed work, in Android's order; none once its deadline has passed."""
        given, now = claim.options.get("constraints"), self._clock.now()
        if given is None or claim.options.get("deadline", now + 1) <= now:
            return None
        return self._first_unmet(Constraints.known_of(given)[0])

    def _first_unmet(self, constraints: Constraints) -> Unmet | None:
        if not constraints:
            return None
        now = self._clock.now()
        readings, second = self._readings(), now // SECOND
        memory = self._judged
        if memory[0] is not readings or memory[1] != second:
            memory = self._judged = readings, second, {}
        judged = memory[2]
        if constraints not in judged:
            self._ask_for(constraints)
            judged[constraints] = next(iter(unmet(constraints, readings, now)), None)
        return judged[constraints]

    def _ask_for(self, constraints: Constraints) -> None:
        key = constraints.key
        is_new = key not in self._asked
        self._asked[key] = constraints, self._clock.monotonic()
        if is_new:
            self._tell()

    def forget(self) -> None:
        """Watch no longer what nobody has asked for lately."""
        before = self._clock.monotonic() - FORGOTTEN_AFTER
        old = [key for key, (_, at) in list(self._asked.items()) if at < before]
        for key in old:
            del self._asked[key]
        if old:
            self._tell()

    def _tell(self) -> None:
        self._watch([constraints for constraints, _ in list(self._asked.values())])
