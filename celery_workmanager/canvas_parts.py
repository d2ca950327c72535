"""The parts of a canvas on their way to a durable graph, and what is asked of signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import chain, group
from celery.canvas import Signature, _chain, maybe_signature
from celery.utils.functional import maybe_list
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads as kombu_loads

from celery_workmanager.call import Takes

__all__ = (
    "Given", "Node", "Outcome", "Step", "add_reports", "header_of", "joined", "listed", "members_of",
    "of_chord", "oldest", "plain", "restored", "steps_of", "unique",
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Node:
    """A work to be; ``options`` are those of its task call."""

    task: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: dict[str, Any]
    source: Outcome
    takes: Takes
    #: A callback: nothing waits for it, and a chord doesn't fail with it.
    aside: bool = False
    #: It only makes one value of several; the parent of what follows is the work before it.
    gathers: bool = False

    @property
    def id(self) -> str:
        """The work's id."""
        return str(self.options["task_id"])


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a part of a canvas ends with: the works whose values are handed on, and Celery's result object."""

    nodes: tuple[Node, ...] = ()
    takes: Takes = Takes.NOTHING
    result: Any = None
    #: The result at the beginning of this part: its parent is the result of the part before.
    first: Any = None
    #: What a chord that Celery keeps must be told if this part fails.
    reports: tuple[dict[str, Any], ...] = ()
    #: All works of a group: what takes their list, as the body of a chord, fails with each of them.
    members: tuple[Node, ...] = ()
    #: What each member of a group ends with.
    ends: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What a part of a canvas gets from outside."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[Any, ...] = ()
    errbacks: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a chain, with the callbacks that chains around it have added."""

    signature: Signature
    links: tuple[Any, ...] = ()
    errbacks: tuple[Any, ...] = ()


def plain(signature: Any) -> dict[str, Any]:
    """Return a signature as plain JSON types, in Celery's spelling of the others."""
    found: dict[str, Any] = kombu_loads(kombu_dumps(_listing(signature)))
    return found


def _listing(value: Any) -> Any:
    # What a canvas keeps lazily (the members of a group, the items of a map) is no list before it is asked for.
    if isinstance(value, Mapping):
        value = _with_one_body(value) if value.get("subtask_type") == "chord" else value
        return {key: _listing(each) for key, each in value.items()}
    return [_listing(each) for each in value] if isinstance(value, list | tuple) else value


def _with_one_body(chord: Mapping[str, Any]) -> Mapping[str, Any]:
    """A frozen chord holds its body at every end of its header too: a chain of chords grows by powers of two.

    Celery puts it there again when it runs.
    """
    return {**chord, "kwargs": {**chord["kwargs"], "header": _without_body(chord["kwargs"]["header"])}}


def _without_body(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return [_without_body(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    kwargs = dict(part["kwargs"])
    match part.get("subtask_type"):
        case "group":
            kwargs["tasks"] = _without_body(kwargs["tasks"])
        case "chain" if kwargs["tasks"]:
            *before, last = kwargs["tasks"]
            kwargs["tasks"] = [*before, _without_body(last)]
        case "chord":
            kwargs["body"] = _without_body(kwargs["body"])
    return {**part, "kwargs": kwargs, "options": {k: v for k, v in part["options"].items() if k != "chord"}}


def listed(value: Any) -> tuple[Any, ...]:
    """Return what may be one, several or none as a tuple."""
    return tuple(maybe_list(value) or ())


def unique(*several: Iterable[Any]) -> tuple[Any, ...]:
    """Return everything given once, in order."""
    found: list[Any] = []
    for each in (one for some in several for one in some):
        if each not in found:
            found.append(each)
    return tuple(found)


def header_of(canvas: Any) -> Any:
    """Return the header of a chord as a group."""
    header = canvas.tasks
    return header if isinstance(header, group) else group(list(header), app=canvas.app)


def steps_of(canvas: Any, app: Any) -> list[Step]:
    """The steps of a chain, chains in it unrolled; empty groups are left out, as Celery does."""
    steps: list[Step] = []
    for each in canvas.tasks:
        signature = _unrolled(maybe_signature(each, app=app))
        if isinstance(signature, _chain):
            steps += steps_of(signature, app)
        elif not (isinstance(signature, group) and not len(signature.tasks)):
            steps.append(Step(signature))
    links, errbacks = listed(canvas.options.get("link")), listed(canvas.options.get("link_error"))
    steps = [Step(step.signature, step.links, unique(step.errbacks, errbacks)) for step in steps]
    if links and steps:
        steps[-1] = Step(steps[-1].signature, (*steps[-1].links, *links), steps[-1].errbacks)
    return steps


def members_of(canvas: Any, app: Any) -> Iterator[Signature]:
    """The members of a group, groups in it unrolled; empty chains are left out, as Celery does."""
    for each in canvas.tasks:
        member = maybe_signature(each, app=app)
        if isinstance(member, group):
            yield from members_of(member, app)
        elif not (isinstance(member, _chain) and not member.tasks):
            yield member


def of_chord(member: Signature) -> bool:
    """Whether a chord that Celery keeps waits for it: freezing the chord has told what its members end with."""
    if isinstance(member, _chain):
        return bool(member.tasks) and of_chord(maybe_signature(member.tasks[-1], app=member.app))
    if isinstance(member, group):
        return any(of_chord(maybe_signature(each, app=member.app)) for each in member.tasks)
    return bool(member.options.get("chord"))


def _unrolled(signature: Signature) -> Signature:
    """A group of one is that one, as in Celery."""
    while isinstance(signature, group) and isinstance(signature.tasks, list | tuple) and len(signature.tasks) == 1:
        signature = maybe_signature(signature.tasks[0], app=signature.app)
    return signature


def restored(step: Step) -> Signature:
    """A step as a signature that carries its callbacks itself."""
    if not step.links and not step.errbacks:
        return step.signature
    signature = step.signature.clone()
    for link in step.links:
        signature.link(link)
    for errback in step.errbacks:
        signature.link_error(errback)
    return signature


def joined(steps: Iterable[Step]) -> Signature:
    """Steps as the chain that Celery makes of them: groups become the headers of what follows.

    With any option, ``chain`` makes none, and a group at the beginning would lose the arguments of the call.
    """
    return chain([restored(step) for step in steps])


def oldest(result: Any) -> Any:
    """Return the result at the beginning of a chain of results."""
    while result.parent is not None:
        result = result.parent
    return result


def add_reports(node: Node, reports: Sequence[dict[str, Any]]) -> None:
    """Let a work tell Celery's chords if it fails."""
    if not node.aside:
        node.options["errbacks"] = list(unique(node.options.get("errbacks", ()), reports))
