"""The words of the reference model: what is asked for, and what a work is. Times are in microseconds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

SECOND = 1_000_000
FINISHED = ("SUCCEEDED", "FAILED", "CANCELLED")
NOT_STOPPED = "NOT_STOPPED"


class Refused(Exception):
    """What was asked for can't be done, and nothing is changed."""


@dataclass(frozen=True)
class Period:
    """How a work repeats: after each run, or (`is_rate`) at moments that are known in advance."""

    interval: int
    flex: int | None = None
    is_rate: bool = False
    catch_up: str = "ONCE"
    most: int = 100
    end: int | None = None
    keep: int | None = None

    @property
    def moments(self) -> tuple[int, int | None, bool]:
        """What decides about when it runs, but for the end."""
        return (self.interval, self.flex, self.is_rate)


@dataclass(frozen=True, repr=False)
class Spec:
    """What a request asks for."""

    worker: str
    queue: str = "q"
    delay: int = 0
    backoff: int = 30 * SECOND
    priority: int = 0
    #: What becomes of it when there is no quota: RUN or DROP; None: it isn't expedited.
    expedited: str | None = None
    expires: int | None = None
    max_attempts: int | None = None
    tags: frozenset[str] = frozenset()
    #: What fills in the keys of its limits, and the rest of its input.
    part: int = 0
    input: str = "{}"
    #: What it asks of a node, a change of files it waits for, and how long at most it does.
    constraint: str | None = None
    trigger: bool = False
    deadline: int | None = None
    #: Key and number; key, number and time.
    concurrency: tuple[str, int] | None = None
    rate: tuple[str, int, int] | None = None
    period: Period | None = None
    #: Of an update of periodic work: the moment of the next run, or that there is none set any more.
    override: int | None = None
    clears_override: bool = False

    def __repr__(self) -> str:
        """Only what differs: a failing walk is read by people."""
        differing = (each for each in fields(self) if getattr(self, each.name) != each.default)
        return f"Spec({', '.join(f'{each.name}={getattr(self, each.name)!r}' for each in differing)})"

    @property
    def is_limited(self) -> bool:
        return self.concurrency is not None or self.rate is not None

    def key(self, key: str) -> str:
        return key.replace("{part}", str(self.part))

    @property
    def keys(self) -> set[str]:
        """The keys of its limits, filled in."""
        return {self.key(limit[0]) for limit in (self.concurrency, self.rate) if limit is not None}


@dataclass(eq=False)
class Job:
    """A work as the model sees it."""

    id: str
    spec: Spec
    state: str
    parents: list[str]
    names: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    attempts: int = 0
    interruptions: int = 0
    generation: int = 0
    created_at: int = 0
    enqueued_at: int | None = None
    run_at: int = 0
    expires_at: int | None = None
    promoted: bool = False
    privileged: bool = False
    claim: tuple[str, int] | None = None
    last_token: int | None = None
    output: str | None = None
    finished_at: int | None = None
    stop_reason: str = NOT_STOPPED
    #: Why each stopped run was, when, and the how manieth of its attempts it was.
    stops: list[tuple[str, int, int]] = field(default_factory=list)
    #: When it waits for its constraints no longer, and whether that has come.
    deadline_at: int | None = None
    is_free: bool = False
    #: Of one-time work: the deadline that was asked for last, past or not.
    decided_deadline: int | None = None
    #: The files that it waits for have changed.
    triggered: bool = False
    #: Keys under which it counts while it runs.
    permits: set[str] = field(default_factory=set)
    #: Of periodic work: periods that have ended, the moment that the next run stands for, and one that was set instead
    #: (while it ran: for the run after that).
    count: int = 0
    at: int = 0
    override_at: int | None = None
    override_is_new: bool = False
    #: The run that holds it has ended its period itself, in a transaction of its own, and only lets go of it yet.
    has_completed: bool = False
    #: The runs it has had: the period of each, the moment it stood for, and how it ended.
    history: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def urgency(self) -> int:
        return 255 - self.spec.priority - (256 if self.privileged else 0)

    @property
    def order(self) -> tuple[int, int, str]:
        """Its place among those that may run: the most urgent first, then the oldest."""
        return (self.urgency, self.run_at, self.id)

    @property
    def waits_for_files(self) -> bool:
        return self.spec.trigger and not self.triggered and not self.is_free

    @property
    def asks_for(self) -> str | None:
        """The constraint that still counts."""
        return None if self.is_free else self.spec.constraint


@dataclass
class Head:
    """One step of an enqueue: works with the same parents; the first step of a named chain has a policy."""

    works: list[tuple[str, Spec]]
    parents: list[str] = field(default_factory=list)
    name: str | None = None
    policy: str = "KEEP"
