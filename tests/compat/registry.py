"""The rows of the compatibility matrix: what a feature is, the scenario that shows it, and what each side must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Scenario = Callable[[Any], Any]

#: The sides, as tests name them: the plain tasks, and Workers under each result backend and store.
PLAIN, REDIS, STORE, POSTGRESQL = "plain", "worker-redis", "worker-store", "worker-postgresql"
WORKERS = (REDIS, STORE, POSTGRESQL)


@dataclass(frozen=True, kw_only=True)
class Differs:
    """What a Worker shows instead, how the page says it, and why; on some sides only, if they are named."""

    shows: Any
    worker: str
    because: str
    sides: Sequence[str] = WORKERS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One feature: the scenario runs on each side and returns plain JSON types, which are compared."""

    group: str
    feature: str
    plain: str
    scenario: Scenario
    expect: Any
    differs: Differs | None
    note: str
    #: Run it on a PostgreSQL store too.
    postgresql: bool
    #: Run it while no other scenario runs.
    alone: bool

    @property
    def name(self) -> str:
        """Its id in the tests."""
        return f"{self.scenario.__module__.rpartition('.')[2]}-{self.scenario.__name__}"

    def expected_of(self, side: str) -> Any:
        """What the scenario must return on a side."""
        differs = self.differs is not None and side in self.differs.sides
        return self.differs.shows if differs else self.expect

    @property
    def sides(self) -> list[str]:
        """Where it runs."""
        return [PLAIN, REDIS, STORE, *([POSTGRESQL] if self.postgresql else [])]


@dataclass
class Group:
    """Rows of one subject: a table of the page."""

    title: str
    intro: str = ""
    #: Its scenarios change what is global to a process.
    alone: bool = False
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        GROUPS.append(self)

    def row(
        self, feature: str, *, plain: str, expect: Any, differs: Differs | None = None, note: str = "",
        postgresql: bool = False,
    ) -> Callable[[Scenario], Scenario]:  # fmt: skip
        """Add the decorated scenario; `expect` is what plain Celery shows, and Workers too unless they differ."""

        def add(scenario: Scenario) -> Scenario:
            self.rows.append(
                Row(
                    group=self.title,
                    feature=feature,
                    plain=plain,
                    scenario=scenario,
                    expect=expect,
                    differs=differs,
                    note=note,
                    postgresql=postgresql,
                    alone=self.alone,
                )
            )
            return scenario

        return add


#: In the order of the page: the order in which their modules are imported.
GROUPS: list[Group] = []


def all_rows() -> Iterator[Row]:
    """Every row, in the order of the page."""
    import tests.compat.rows  # noqa: F401  # each module of it adds its group

    return (row for group in GROUPS for row in group.rows)
