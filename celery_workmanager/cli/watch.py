"""``work watch``: works as they change, live on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli import words
from celery_workmanager.cli.common import FINE, TROUBLE, command, filter_option, limit_option, query, read
from celery_workmanager.cli.screen import Cells, Column, Screen, clean, number
from celery_workmanager.cli.works import missing
from celery_workmanager.lifecycle import UNFINISHED
from celery_workmanager.observe import changes
from celery_workmanager.overview import unfinished
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.timing import as_datetime
from celery_workmanager.work import State, WorkInfo

_COLUMNS = (
    Column("ID", least=36, may_go=True),
    Column("WORKER", least=12, ends_matter=True),
    Column("STATE"),
    Column("AT", may_go=True),
    Column("NOTE", least=12, may_go=True),
)
#: Finished works that a live picture remembers.
_REMEMBERED = 200
#: Lines of a picture beside its works: the titles, the sum, what is left out, and where the cursor stands.
_FRAME = 4


@command("watch")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_option("--tag", "tags", metavar="TAG", help="Works with this tag.")
@filter_option("--name", "unique_names", metavar="NAME", help="Works of this unique name.")
@limit_option(1_000, "How many unfinished works to follow at once.")
def watch_command(screen: Screen, manager: WorkManager, *, limit: int, **which: Any) -> int:
    """Show works as they change, until all are finished.

    Without a filter all works are watched. With --json each change is one object on a line of its own. The exit code is
    0 when all that was watched has succeeded.
    """
    which = {name: values for name, values in which.items() if values}
    query(**which)  # says what is wrong with it
    if ids := which.get("ids"):
        missing(screen, ids, manager.get_work_infos(query(ids=ids)))
    watched = _Watched(manager.store, which, limit)
    show = _display(screen, manager)
    for changed in changes(manager.store, watched.look, None):
        show.update(changed, watched.gone)
        if not watched.unfinished:
            break
    show.conclude()
    if not show.ends:
        return TROUBLE if which else FINE
    return FINE if set(show.ends) == {State.SUCCEEDED} else TROUBLE


class _Watched:
    """The unfinished works of a query, which are followed to their ends."""

    def __init__(self, store: Store, which: dict[str, Any], limit: int) -> None:
        self._store = store
        self._which = which
        self._limit = limit
        self.unfinished: set[str] = set()
        #: Works that were deleted since the last look.
        self.gone: list[str] = []

    def look(self, seen: dict[str, int] | None) -> tuple[dict[str, int], list[WorkInfo]] | None:
        """The versions of what is unfinished, and what has changed; ``None``: nothing has (see `observe.changes`)."""
        now = self._unfinished()
        if seen is None and self._which:
            now |= self._store.versions(WorkQuery(limit=self._limit, newest_first=True, **self._which))
        if left := self.unfinished - now.keys():
            now |= self._store.versions(WorkQuery(ids=left))
        self.gone = sorted(left - now.keys())
        changed = [each for each in now if seen is None or seen.get(each) != now[each]]
        if seen is not None and not changed and not self.gone:
            return None
        infos = self._store.work_infos(WorkQuery(ids=changed)) if changed else []
        self.unfinished -= {*self.gone, *(info.id for info in infos if info.state.is_finished)}
        self.unfinished |= {info.id for info in infos if not info.state.is_finished}
        now |= {info.id: info.version for info in infos}
        return {each: now[each] for each in self.unfinished if each in now}, infos

    def _unfinished(self) -> dict[str, int]:
        if self._which:
            return self._store.versions(WorkQuery(states=UNFINISHED, limit=self._limit, **self._which))
        found: dict[str, int] = read(self._store, lambda connection: unfinished(connection, self._limit))
        return found


# -- what is shown -----------------------------------------------------------------------------------------------


class _Display:
    """Counts how works end; its kinds show them."""

    def __init__(self, screen: Screen, manager: WorkManager) -> None:
        self._screen = screen
        self._manager = manager
        self.ends: Counter[State] = Counter()

    def update(self, changed: Sequence[WorkInfo], gone: Sequence[str]) -> None:
        """Show what has changed."""
        self.ends.update(info.state for info in changed if info.state.is_finished)
        self._show(changed, gone)

    def conclude(self) -> None:
        """Say how it ended."""
        if not self._screen.as_json:
            self._screen.say(words.summary(self.ends.elements()) or "Nothing to watch.", dim=True)

    def _show(self, changed: Sequence[WorkInfo], gone: Sequence[str]) -> None:
        raise NotImplementedError


class _Json(_Display):
    def _show(self, changed: Sequence[WorkInfo], gone: Sequence[str]) -> None:
        for info in changed:
            self._screen.json(info.to_dict(), compact=True)
        for each in gone:
            self._screen.json({"id": each, "gone": True}, compact=True)
        sys.stdout.flush()


class _Lines(_Display):
    def __init__(self, screen: Screen, manager: WorkManager) -> None:
        super().__init__(screen, manager)
        self._said: dict[str, str] = {}

    def _show(self, changed: Sequence[WorkInfo], gone: Sequence[str]) -> None:
        at = words.local(as_datetime(self._manager.clock.now()), "%H:%M:%S")
        for info in changed:
            line = f"{info.state.name:<9}  {info.id}  {clean(info.worker_name)}  {words.note(info)}".rstrip()
            if self._said.get(info.id) != line:
                self._screen.say(f"{at}  {line}")
            self._said[info.id] = line
            if info.state.is_finished:
                del self._said[info.id]
        for each in gone:
            self._screen.say(f"{at}  deleted    {each}")
        sys.stdout.flush()


class _Picture(_Display):
    """A table that is drawn over itself."""

    def __init__(self, screen: Screen, manager: WorkManager) -> None:
        super().__init__(screen, manager)
        self._works: dict[str, WorkInfo] = {}
        self._height = 0

    def _show(self, changed: Sequence[WorkInfo], gone: Sequence[str]) -> None:
        if not changed and not gone:
            return
        self._works |= {info.id: info for info in changed}
        for each in gone:
            self._works.pop(each, None)
        finished = [info for info in self._works.values() if info.state.is_finished]
        for info in finished[: max(0, len(finished) - _REMEMBERED)]:
            del self._works[info.id]
        lines = self._screen.lines(_COLUMNS, [self._row(info) for info in self._shown()])
        if len(self._works) > len(lines) - 1:
            lines.append(f"… and {number(len(self._works) - len(lines) + 1)} more")
        lines.append(words.summary(self._states()))
        over = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        sys.stdout.write(over)
        for line in lines:
            self._screen.say(line)
        self._height = len(lines)
        sys.stdout.flush()

    def conclude(self) -> None:
        """The last picture says it all, if there was one."""
        if not self._works:
            super().conclude()

    def _states(self) -> list[State]:
        open_ = [info.state for info in self._works.values() if not info.state.is_finished]
        return [*open_, *self.ends.elements()]

    def _shown(self) -> list[WorkInfo]:
        """As many as the terminal has lines for, what moves before what rests; but in the order of their ids."""
        room = max(1, self._screen.size[1] - _FRAME)
        rank = {State.RUNNING: 0, State.ENQUEUED: 1, State.BLOCKED: 3}
        ranked = sorted(self._works.values(), key=lambda info: rank.get(info.state, 2))
        return sorted(ranked[:room], key=lambda info: info.id)

    def _row(self, info: WorkInfo) -> Cells:
        # Moments, not ages: nothing redraws a picture in which nothing changes.
        since = info.finished_at or (info.started_at if info.state is State.RUNNING else info.next_schedule_time)
        at = words.local(since, "%H:%M:%S")
        return [info.id, clean(info.worker_name), words.state_cell(info.state), at, words.note(info)]


def _display(screen: Screen, manager: WorkManager) -> _Display:
    kind = _Json if screen.as_json else _Picture if screen.is_terminal else _Lines
    return kind(screen, manager)
