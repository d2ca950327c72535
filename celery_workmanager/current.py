"""The run that this thread or coroutine is in: what a worker knows of itself while it runs."""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Any

from celery_workmanager.call import facts_of
from celery_workmanager.data import Data
from celery_workmanager.errors import DataTooLarge
from celery_workmanager.foreground import ForegroundInfo, with_foreground
from celery_workmanager.outcome import Claim, Outcome
from celery_workmanager.slots import Slots
from celery_workmanager.told_states import as_progress, is_own
from celery_workmanager.work import StopReason

__all__ = ("Run", "Runtime", "current_run", "running")


@dataclass(slots=True)
class Runtime:
    """What every run of this process shares. It is made before the pool forks, so that children inherit it."""

    app: Any
    slots: Slots
    #: Bytes of a work's input, output or progress.
    data_max_bytes: int
    #: Bytes of a task call's return value.
    call_max_bytes: int
    hostname: str = ""


class Run:
    """One run of a claim, in the process (or thread) that runs it."""

    __slots__ = (
        "_foreground", "_input", "_progress", "claim", "completed", "entered", "input_text", "next_call", "number",
        "output", "runtime", "show", "shown", "slot", "told",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, claim: Claim, slot: int, number: int, input_text: str) -> None:
        self.runtime, self.claim, self.slot, self.number = runtime, claim, slot, number
        self.input_text = input_text
        self._input: Data | None = None
        #: What the node was told last.
        self._progress = Data.EMPTY
        self._foreground: ForegroundInfo | None = None
        #: The worker's code was entered; a call of the same task from inside it is an ordinary call.
        self.entered = False
        #: The output as the store keeps it, once the worker has returned.
        self.output: str | None = None
        #: The same as Celery shows it, and whether the parent wants to be shown it.
        self.shown: Any = None
        self.show = True
        #: The arguments of its retry, if they are others.
        self.next_call: str | None = None
        #: What the worker committed itself.
        self.completed: Outcome | None = None
        #: The last state that it told of itself, and its meta (Celery's ``update_state``).
        self.told: tuple[str, Any] | None = None

    @property
    def is_call(self) -> bool:
        """Whether the input is a Celery task call (args and kwargs) rather than Data."""
        return "call" in self.claim.options

    @property
    def facts(self) -> dict[str, Any]:
        """What the task call says beside its arguments."""
        return facts_of(self.claim.options)

    @property
    def input_data(self) -> Data:
        """The merged input; of a task call its keyword arguments."""
        if self._input is None:
            if self.is_call:
                self._input = Data.from_json(json.dumps(json.loads(self.input_text)["kwargs"]))
            else:
                self._input = Data.from_json(self.input_text)
        return self._input

    @property
    def tags(self) -> frozenset[str]:
        """The work's tags, its worker's name among them."""
        return frozenset((self.claim.worker, *self.claim.options.get("tags", ())))

    @property
    def stop_reason(self) -> StopReason | None:
        """Why this run is asked to stop, ``None`` if it isn't. Reads shared memory: cheap enough for a loop."""
        reason = self.runtime.slots.stop_reason(self.slot, self.number)
        return None if reason is None else StopReason(reason)

    def change_call(self, call: str) -> None:
        """Give the next run these arguments (JSON text). Raises DataTooLarge."""
        if len(call) > self.runtime.call_max_bytes:
            raise DataTooLarge("arguments", len(call), self.runtime.call_max_bytes)
        self.next_call = call

    def tell_state(self, state: str, meta: Any) -> None:
        """Let Celery's results show a state of the project's own. Raises DataNotStorable, DataTooLarge."""
        self.told = state, meta
        if is_own(state):
            self.set_progress(as_progress(state, meta))

    def set_progress(self, progress: Data) -> None:
        """Publish progress to the node; the latest wins. Raises DataTooLarge."""
        progress.check_size(self.runtime.data_max_bytes, "progress")
        self._progress = progress
        self._tell()

    def set_foreground(self, info: ForegroundInfo) -> None:
        """Let the node know that this run is long and in the foreground, and with which notification."""
        self._foreground = info
        self.runtime.slots.stamp_foreground(self.slot, self.number, monotonic())
        self._tell()

    def _tell(self) -> None:
        text = self._progress.to_json()
        if self._foreground is not None:
            text = with_foreground(text, self._foreground, self.claim.token)
        self.runtime.slots.write_progress(self.slot, self.number, text.encode("ascii"))


#: A context variable, because coroutines and ``asyncio.to_thread`` inherit it.
running: ContextVar[Run | None] = ContextVar("celery_workmanager_run", default=None)
current_run = running.get
