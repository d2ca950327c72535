"""What a node writes of works while they run: that they are RUNNING, and their progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from celery_workmanager.clock import Clock
from celery_workmanager.outcome import Claim
from celery_workmanager.running import Engine, Run
from celery_workmanager.store import Store
from celery_workmanager.timing import SECOND

__all__ = ("PROGRESS_INTERVAL", "START_PATIENCE", "RunMarks")

#: A run that is shorter than this (seconds) is never written as RUNNING: its end comes first.
START_PATIENCE = 0.02
#: Seconds between two looks at the progress of what runs.
PROGRESS_INTERVAL = 0.05


class RunMarks:
    """The marks of `runs`, which their dispatcher changes."""

    def __init__(self, store: Store, engine: Engine, clock: Clock, runs: Mapping[str, Run]) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._runs = runs
        self._progress_at = 0.0

    @property
    def patience(self) -> float:
        """Seconds until something may have to be written, while anything runs."""
        waits = any(run.started_at is not None and not run.claim.start_written for run in self._runs.values())
        return START_PATIENCE if waits else PROGRESS_INTERVAL

    def begin_with_care(self, claims: Iterable[Claim]) -> list[Claim]:
        """Write RUNNING ahead for works that were interrupted: if one kills its process, it must be seen to be it.

        Returns the claims that may be run: of the others somebody has taken the works meanwhile.
        """
        claims = list(claims)
        careful = [claim for claim in claims if claim.interruptions]
        if not careful:
            return claims
        now = self._clock.now()
        self._write_starts([(claim, now) for claim in careful])
        return [claim for claim in claims if not claim.interruptions or claim.start_written]

    def write(self, *, ends_follow: bool) -> None:
        """Write what there is to write; `ends_follow`: ends of runs are written next."""
        self._write_old_starts()
        self._write_progress(ends_follow=ends_follow)

    def _write_old_starts(self) -> None:
        monotonic, now = self._clock.monotonic(), self._clock.now()
        marks: list[tuple[Claim, int]] = []
        for run in self._runs.values():
            begun = run.started_at
            if begun is not None and not run.claim.start_written and monotonic - begun >= START_PATIENCE:
                marks.append((run.claim, now - round((monotonic - begun) * SECOND)))
        self._write_starts(marks)

    def _write_starts(self, marks: Sequence[tuple[Claim, int]]) -> None:
        if marks:
            written = self._store.write_starts(marks)
            for claim, _ in marks:
                claim.start_written = claim.id in written

    def _write_progress(self, *, ends_follow: bool) -> None:
        monotonic = self._clock.monotonic()
        # The last progress of a run must be written before its end is.
        if monotonic - self._progress_at < PROGRESS_INTERVAL and not ends_follow:
            return
        self._progress_at = monotonic
        entries = self._engine.progress()
        if not entries:
            return
        # A run that tells of its progress is RUNNING, however young it is.
        now = self._clock.now()
        self._write_starts([(claim, now) for claim, _ in entries if not claim.start_written])
        self._store.write_progress(entries)
