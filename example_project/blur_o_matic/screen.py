"""What the user sees: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from celery_workmanager import State, WorkInfo

LOOKS = {
    State.BLOCKED: ("○", "dim"),
    State.ENQUEUED: ("○", "cyan"),
    State.RUNNING: ("●", "yellow"),
    State.SUCCEEDED: ("✔", "green"),
    State.FAILED: ("✘", "red"),
    State.CANCELLED: ("✘", "magenta"),
}


def name_of(info: WorkInfo) -> str:
    """The last word of the worker's name."""
    return info.worker_name.rsplit(".", 1)[-1]


def percent_of(info: WorkInfo) -> int:
    """How far the work is, by its own progress; what an interrupted run told counts no longer."""
    if info.state is State.SUCCEEDED:
        return 100
    return 0 if info.state is State.ENQUEUED else info.progress.get_int("percent", 0)


def note_of(info: WorkInfo) -> str:
    """What there is to say of the work beside its state."""
    if info.state is State.FAILED and not (info.error and info.error.exc_type == "PrerequisiteFailed"):
        return info.output_data.get_string("reason") or str(info.error or "")
    if info.interruptions and not info.state.is_finished:
        return "was interrupted, runs again"
    return ""


class Screen:
    """Shows the works of one chain until it is closed."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._live = Live(console=self.console, auto_refresh=False)
        self._seen: dict[str, tuple[State, int, str]] = {}

    def say(self, message: str, style: str = "") -> None:
        """One line for the user; as it is, however long."""
        self.console.print(Text(message, style), soft_wrap=True)

    def show(self, works: Sequence[WorkInfo]) -> None:
        """Show what changed."""
        if self.console.is_terminal:
            self._live.start()
            self._live.update(Padding(_table(works), (1, 2)), refresh=True)
            return
        for info in works:
            seen = info.state, percent_of(info) // 10, note_of(info)  # in steps of ten, or a log drowns in lines
            if self._seen.get(info.id) != seen:
                self._seen[info.id] = seen
                line = f"{name_of(info):<8} {info.state.name:<9} {percent_of(info):3d} %  {note_of(info)}"
                self.say(line.rstrip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the last picture of the table standing."""
        self._live.stop()
        if kind is KeyboardInterrupt:
            self.say("Stopping the worker, which may end what it runs; Ctrl-C again stops it at once.", "yellow")


def _table(works: Sequence[WorkInfo]) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(min_width=len("SUCCEEDED"))
    for info in works:
        sign, style = LOOKS[info.state]
        bar = ProgressBar(total=100, completed=percent_of(info), width=30, complete_style=style)
        name, percent = f"{sign} {name_of(info)}", f"{percent_of(info):3d} %"
        table.add_row(Text(name, style), Text(info.state.name, style), bar, Text(percent, style))
    notes = [Text(f"{name_of(info)}: {note_of(info)}", "dim") for info in works if note_of(info)]
    return Group(table, *notes)
