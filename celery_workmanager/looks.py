"""When a node that has seen nothing looks into the store again. For one thread, but for `ask`."""

from __future__ import annotations

from math import inf

__all__ = ("Looks",)


class Looks:
    """A look is due when somebody has asked for it, or nobody has for `patience` seconds."""

    def __init__(self) -> None:
        #: Whether the last look found nothing that anybody could claim.
        self.saw_nothing = False
        self.patience = 0.0
        self._is_asked = True
        self._again_at = -inf

    def ask(self) -> None:
        """Something may have become claimable."""
        self._is_asked = True

    def begin(self, now: float) -> bool:
        """Whether to look now (monotonic seconds): without a reason a node does only while it has seen something."""
        if self.saw_nothing and not self._is_asked and now < self._again_at:
            return False
        # Before the look: what is asked for while it is made may be something that it doesn't see.
        self._is_asked, self._again_at = False, now + self.patience
        return True

    def until_next(self, now: float) -> float:
        """Seconds until one is due for want of reasons; `patience` where there was one by then."""
        left = self._again_at - now
        return left if 0 < left < self.patience else self.patience
