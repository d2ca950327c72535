"""What settings decide about an engine."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("EngineOptions",)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits in bytes, and how many claims may be in flight at once (slots)."""

    data_max_bytes: int = 64 * 1024
    call_max_bytes: int = 8 * 1024 * 1024
    slots: int = 1024
    #: How often a work's process may be lost before the work fails.
    max_interruptions: int = 10
    #: Seconds that a cold shutdown waits for runs in the foreground, and that such a run may last (None: any time).
    foreground_wait: float = 0.0
    foreground_timeout: float | None = None
    #: Seconds that a run which lasted too long has before its process is terminated.
    stop_grace: float = 10.0

    def is_overdue(self, since: float | None, now: float) -> bool:
        """Whether a run that is in the foreground ``since`` then has lasted too long (monotonic seconds)."""
        return since is not None and self.foreground_timeout is not None and now - since > self.foreground_timeout
