"""Celery's canvas as a durable graph: chains, groups, chords and links become works and edges.

What a canvas means is told by Celery's guide ("Canvas: Designing Work-flows"). Its durable part is all that comes
before the first step with an ordinary task in it; that step and what follows it are published by a small built-in work
(`builtin_workers`), and are Celery's from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from celery import chord, group
from celery.canvas import Signature, _chain, chunks, maybe_signature

from celery_workmanager.call import Takes
from celery_workmanager.calls import request_from_call
from celery_workmanager.canvas_parts import (
    Given,
    Node,
    Outcome,
    Step,
    add_reports,
    header_of,
    joined,
    listed,
    members_of,
    of_chord,
    oldest,
    plain,
    restored,
    steps_of,
    unique,
)  # fmt: skip
from celery_workmanager.continuation import WorkContinuation
from celery_workmanager.ids import new_id
from celery_workmanager.policies import ExistingWorkPolicy
from celery_workmanager.publish_signals import announce, announced
from celery_workmanager.requests import OneTimeWorkRequest
from celery_workmanager.timing import as_datetime

__all__ = ("Compiler",)

ACCUMULATE_WORKER = "celery_workmanager.accumulate"
MAP_WORKER = "celery_workmanager.map"
STARMAP_WORKER = "celery_workmanager.starmap"
PUBLISH_WORKER = "celery_workmanager.publish"
REPORT_WORKER = "celery_workmanager.report"
#: Celery's own tasks that stand in a canvas, and the workers that do the same.
ACCUMULATE = "celery.accumulate"
_BUILT_IN = {
    ACCUMULATE: ACCUMULATE_WORKER,
    "celery.map": MAP_WORKER,
    "celery.starmap": STARMAP_WORKER,
}
#: Built-in works run where the work before them has run.
_FOLLOWERS = (ACCUMULATE_WORKER, PUBLISH_WORKER, REPORT_WORKER)
#: Options of a chord or a chain that are not passed on to what is in it.
_OWN = ("task_id", "link", "link_error", "chord", "group_id", "group_index", "chain")
_DELAYS = ("countdown", "eta")


class Compiler:
    """Collects the nodes of a canvas, each after those it waits for."""

    def __init__(self, manager: Any, *, is_published: bool = False) -> None:
        self.manager, self.app = manager, manager.app
        #: Celery's signals of publishing were sent when somebody sent this canvas as a message.
        self._is_published = is_published
        self.nodes: list[Node] = []
        #: The task that this canvas is enqueued in, if any: it is the parent of what comes first.
        self._around = self.app.current_worker_task
        self._headers: list[Outcome] = []
        self._whole: dict[Outcome, Outcome] = {}

    # -- what is durable -----------------------------------------------------------------------------------------

    def begins_durable(self, canvas: Signature) -> bool:
        """Whether all that runs first is a Worker, and no chord of Celery's own waits for it."""
        if isinstance(canvas, _chain):
            steps = steps_of(canvas, self.app)
            if not steps:
                return False
            first = steps[0].signature
            # What is published must not begin with what would be published again.
            return self.begins_durable(first) if len(steps) == 1 or isinstance(first, chord) else self.is_durable(first)
        if isinstance(canvas, chunks):
            return self.begins_durable(canvas.group())
        if isinstance(canvas, group):
            members = list(members_of(canvas, self.app))
            return bool(members) and all(not of_chord(m) and self.begins_durable(m) for m in members)
        if isinstance(canvas, chord):
            return self.is_durable(header_of(canvas))
        return self._worker_of(canvas) is not None

    def is_durable(self, canvas: Signature) -> bool:
        """Whether every task of it is a Worker; callbacks don't count."""
        if isinstance(canvas, _chain):
            return all(self.is_durable(step.signature) for step in steps_of(canvas, self.app))
        if isinstance(canvas, chunks):
            return self.is_durable(canvas.group())
        if isinstance(canvas, group):
            return all(self.is_durable(member) for member in members_of(canvas, self.app))
        if isinstance(canvas, chord):
            return self.is_durable(header_of(canvas)) and canvas.body is not None and self.is_durable(canvas.body)
        return not canvas.options.get("chord") and self._worker_of(canvas) is not None

    def _worker_of(self, signature: Signature) -> Any:
        name = signature.task
        if name in ("celery.map", "celery.starmap"):
            inner = maybe_signature(signature.kwargs["task"], app=self.app)
            if self._worker(inner.task) is None:
                return None
        return self._worker(_BUILT_IN.get(name, name))

    def _worker(self, name: str) -> Any:
        found = self.app.tasks.get(name)
        return found if getattr(found, "is_durable_worker", False) else None

    # -- parts ---------------------------------------------------------------------------------------------------

    def part(self, canvas: Signature, source: Outcome, given: Given) -> Outcome:
        """Add the nodes of a part that follows `source`."""
        source = self._gathered(source)
        if not source.members or source in self._headers:
            return self._part(canvas, source, given)
        self._headers.append(source)
        mark = len(self.nodes)
        outcome = self._part(canvas, source, given)
        bodies = [node.id for node in self.nodes[mark:] if node.source is source and not node.aside]
        for member in source.members:
            member.options.setdefault("chord_bodies", bodies)
        return outcome

    def _part(self, canvas: Signature, source: Outcome, given: Given) -> Outcome:
        if isinstance(canvas, _chain):
            return self._chain(canvas, source, given)
        if isinstance(canvas, chunks):
            return self._group(canvas.group(), source, given)
        if isinstance(canvas, group):
            return self._group(canvas, source, given)
        if isinstance(canvas, chord):
            if not self.is_durable(header_of(canvas)):
                return self._publish(canvas, source, given)
            return self._chord(canvas, source, given)
        task = self._worker_of(canvas)
        return self._publish(canvas, source, given) if task is None else self._task(canvas, task, source, given)

    def _task(self, signature: Signature, task: Any, source: Outcome, given: Given) -> Outcome:
        options = {key: value for key, value in given.options.items() if value is not None}
        args, kwargs, merged = signature._merge(given.args, given.kwargs, options)  # noqa: SLF001  # as apply_async
        options = dict(merged)
        links = unique(listed(options.pop("link", None)), given.links)
        errbacks = unique(listed(options.pop("link_error", None)), given.errbacks)
        chord_body = options.pop("chord", None)
        takes = Takes.NOTHING if signature.immutable else source.takes
        if "it" in kwargs and task.name in _BUILT_IN.values():
            kwargs = {**kwargs, "it": list(kwargs["it"])}
        node = self._add(Node(task, tuple(args), kwargs, options, source, takes))
        node.options["errbacks"] = [{"errback": plain(errback)} for errback in errbacks]
        result = task.AsyncResult(node.id)
        reports = () if chord_body is None else (self.report(node, chord_body),)
        outcome = Outcome((node,), Takes.VALUE, result, result, reports)
        self._links(links, outcome)
        return outcome

    def _links(self, links: Iterable[Any], outcome: Outcome) -> None:
        mark = len(self.nodes)
        for link in links:
            self.part(maybe_signature(link, app=self.app), outcome, Given())
        for node in self.nodes[mark:]:
            node.aside = True

    def _add(self, node: Node) -> Node:
        options, before = node.options, node.source.nodes
        options["task_id"] = options.get("task_id") or new_id()
        parent = root = None
        if before:
            last = before[-1]
            parent, root = last.options["parent_id"] if last.gathers else last.id, last.options["root_id"]
        elif self._around is not None:
            parent, root = self._around.request.id, self._around.request.root_id or self._around.request.id
        options["parent_id"] = options.get("parent_id") or parent
        options["root_id"] = options.get("root_id") or root or options["task_id"]
        self.nodes.append(node)
        return node

    def _chain(self, canvas: Any, source: Outcome, given: Given) -> Outcome:
        own = {key: value for key, value in canvas.options.items() if key not in ("link", "link_error")}
        options = {**own, **given.options}
        of_last = {name: options.pop(name) for name in _OWN if name in options}
        errbacks = unique(given.errbacks, listed(of_last.pop("link_error", None)))
        steps = [replace(step, errbacks=unique(step.errbacks, errbacks)) for step in steps_of(canvas, self.app)]
        mark = len(self.nodes)
        before, first = source, None
        args = given.args if canvas.immutable else (*given.args, *canvas.args)
        for number, step in enumerate(steps):
            rest = steps[number + 1 :]
            signature, rest = self._joined(step.signature, rest)
            passed = Given(
                args=args if number == 0 else (),
                kwargs=given.kwargs if number == 0 else {},
                options={**(options if number == 0 else {}), **(of_last if not rest else {})},
                links=step.links if rest else (*step.links, *given.links),
                errbacks=step.errbacks,
            )
            if rest and not self.is_durable(signature):
                steps_left = (replace(step, signature=signature), *rest)
                signature = joined(steps_left)
                passed = replace(passed, options={**passed.options, **of_last}, links=given.links, errbacks=())
                outcome, rest = self._publish(signature, before, passed), []
            else:
                outcome = self.part(signature, before, passed)
            if before.result is not None and outcome.first is not None:
                outcome.first.parent = before.result
            first = first or outcome.first
            before = outcome
            if not rest:
                break
        for node in self.nodes[mark:]:
            add_reports(node, before.reports)
        return replace(before, first=first)

    def _joined(self, signature: Signature, rest: list[Step]) -> tuple[Signature, list[Step]]:
        """A chord whose body ends with ordinary tasks takes the rest of its chain into its body."""
        if rest and isinstance(signature, chord) and not self.is_durable(signature.body):
            longer = signature.clone()
            longer.body = joined([Step(signature.body), *rest])
            return longer, []
        return signature, rest

    def _group(self, canvas: Any, source: Outcome, given: Given) -> Outcome:
        if given.links:
            raise TypeError("Cannot add link to group: use a chord")
        options = {**canvas.options, **given.options}
        group_id = options.pop("task_id", None) or new_id()
        errbacks = unique(listed(options.pop("link_error", None)), given.errbacks)
        options.pop("link", None)
        ends: list[Outcome] = []
        mark = len(self.nodes)
        for index, member in enumerate(members_of(canvas, self.app)):
            place = {**options, "group_id": group_id, "group_index": index}
            ends.append(self.part(member, source, Given(given.args, given.kwargs, place, errbacks=errbacks)))
        result = self.app.GroupResult(group_id, [end.result for end in ends])
        nodes = tuple(node for end in ends for node in end.nodes)
        reports = tuple(report for end in ends for report in end.reports)
        members = tuple(node for node in self.nodes[mark:] if not node.aside)
        return Outcome(nodes, Takes.LIST, result, result, reports, members, tuple(ends))

    def _gathered(self, source: Outcome) -> Outcome:
        """What follows a group takes one value of each member: one that ends in a group gives its list (as Celery)."""
        if all(end.takes is not Takes.LIST for end in source.ends):
            return source
        if source not in self._whole:
            mark = len(self.nodes)
            nodes = tuple(node for index, end in enumerate(source.ends) for node in self._one(end, source, index))
            members = (*source.members, *self.nodes[mark:])
            self._whole[source] = replace(source, nodes=nodes, members=members, ends=())
        return self._whole[source]

    def _one(self, end: Outcome, group_of: Outcome, index: int) -> tuple[Node, ...]:
        if end.takes is not Takes.LIST:
            return end.nodes
        whole, worker = self._gathered(end), self.app.tasks[ACCUMULATE_WORKER]
        place = {"group_id": group_of.result.id, "group_index": index, "errbacks": []}
        node = self._add(Node(worker, (), {"index": 0}, place, whole, Takes.LIST, gathers=True))
        for member in whole.members:
            member.options.setdefault("chord_bodies", [node.id])
        return (node,)

    def _chord(self, canvas: Any, source: Outcome, given: Given) -> Outcome:
        options = {**canvas.options, **given.options}
        of_body = {name: options.pop(name) for name in _OWN if name in options}
        links = (*listed(of_body.pop("link", None)), *given.links)
        errbacks = unique(listed(of_body.pop("link_error", None)), given.errbacks)
        header = header_of(canvas)
        args = given.args if canvas.immutable else (*given.args, *canvas.args)
        kwargs = {**canvas.kwargs.get("kwargs", {}), **given.kwargs}
        head = self._head(header, source, Given(args, kwargs, options, errbacks=given.errbacks))
        shared = {key: value for key, value in options.items() if key not in (*_DELAYS, "parent_id")}
        # Celery calls a body without a header at once, with an empty list.
        empty: tuple[Any, ...] = () if head.nodes else ([],)
        passed = Given(empty, {}, {**shared, **of_body}, links, errbacks)
        outcome = self._body(canvas.body, head if head.nodes else replace(source, takes=Takes.NOTHING), passed)
        outcome.first.parent = head.result
        return replace(outcome, first=head.result)

    def _body(self, body: Signature, head: Outcome, given: Given) -> Outcome:
        if isinstance(body, group):
            options = {key: value for key, value in given.options.items() if key not in ("group_id", "group_index")}
            given = replace(given, options=options)
            if given.links and body.tasks:
                # A callback of a group is one of its first task, and takes nothing (Source: Celery, ``group.link``).
                links = [maybe_signature(link, app=self.app).clone().set(immutable=True) for link in given.links]
                first, *others = members_of(body, self.app)
                body = group([restored(Step(first, tuple(links))), *others], app=self.app, **body.options)
                given = replace(given, links=())
        return self.part(body, head, given)

    def _head(self, header: Any, source: Outcome, given: Given) -> Outcome:
        """The header of a chord; callbacks for errors are for the body, unless Celery is told otherwise."""
        if self.app.conf.task_allow_error_cb_on_chord_header:
            return self._group(header, source, given)
        errbacks, given = given.errbacks, replace(given, errbacks=())
        if errbacks and any(isinstance(member, chord) for member in members_of(header, self.app)):
            # Only chords inside the header take them, for their bodies.
            steps = [Step(m, (), errbacks if isinstance(m, chord) else ()) for m in members_of(header, self.app)]
            header = group([restored(step) for step in steps], app=self.app, **header.options)
        return self._group(header, source, given)

    # -- what is not durable -------------------------------------------------------------------------------------

    def _publish(self, canvas: Signature, source: Outcome, given: Given) -> Outcome:
        """A work that hands the rest of a canvas to Celery."""
        canvas = restored(Step(canvas.clone(), given.links, given.errbacks))
        if isinstance(canvas, chord) and isinstance(canvas.body, _chain):
            # In a chain, Celery takes such a body apart: if the header fails, so does each of its tasks.
            canvas = joined([Step(canvas)])
        options = {key: value for key, value in given.options.items() if value is not None}
        place = {name: options.pop(name) for name in ("group_id", "group_index", "chord") if name in options}
        result = canvas.freeze(options.pop("task_id", None), **place)
        kwargs = {"args": list(given.args), "kwargs": dict(given.kwargs), "options": options}
        publish = self.app.tasks[PUBLISH_WORKER]
        body = plain(canvas)
        node = Node(publish, (), {"signature": body, **kwargs}, {}, source, source.takes)
        self._add(node)
        options.setdefault("parent_id", node.options["parent_id"])
        options.setdefault("root_id", node.options["root_id"] if node.options["parent_id"] else None)
        node.options["errbacks"] = [{"always": {"published": body, "is_body": source.takes is Takes.LIST}}]
        return Outcome((node,), Takes.NOTHING, result, oldest(result))

    def report(self, node: Node, chord_body: Any = None) -> dict[str, Any]:
        """Tell the app's result backend what became of this work, and the chord that Celery keeps there, if any.

        Celery keeps a chord that has ordinary tasks in its header.
        """
        options = node.options
        context = {
            "id": node.id,
            "task": node.task.name,
            "group": None if chord_body is None else options.get("group_id"),
            "group_index": options.get("group_index"),
            "root_id": options["root_id"],
            "parent_id": options["parent_id"],
            "chord": plain(chord_body),
            # Where the rpc:// backend sends a result.
            "reply_to": options.get("reply_to"),
            "correlation_id": node.id,
        }
        entry = {"always": {"report": context}}
        options["errbacks"] = [*options.get("errbacks", ()), entry]
        after = Outcome((node,), Takes.VALUE)
        self._add(Node(self.app.tasks[REPORT_WORKER], (), {"context": context}, {}, after, Takes.VALUE, aside=True))
        return entry

    # -- the graph -----------------------------------------------------------------------------------------------

    def continuation(
        self, outcome: Outcome, name: str | None = None, policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP
    ) -> WorkContinuation:
        """Return the collected nodes as a continuation that goes on where `outcome` ends."""
        manager = self.manager
        now = as_datetime(int(manager.clock.now()))
        steps: dict[Node, WorkContinuation] = {}
        begin = () if name is None else (WorkContinuation((), manager, (), name, policy),)
        for node in self.nodes:
            parents = tuple(steps[each] for each in node.source.nodes) or begin
            request = self._request(node, now, parents)
            steps[node] = WorkContinuation((request,), manager, parents, name, policy)
        ends = tuple(dict.fromkeys(steps[node] for node in outcome.nodes))
        waited_for = {id(parent) for step in steps.values() for parent in step.parents}
        asides = tuple(step for step in steps.values() if id(step) not in waited_for and step not in ends)
        if len(ends) == 1 and not asides:
            return ends[0]
        return WorkContinuation((), manager, ends, name, policy, asides=asides)

    def _request(self, node: Node, now: Any, parents: Sequence[WorkContinuation]) -> OneTimeWorkRequest:
        if node.options.get("queue") is None and parents and node.task.name in _FOLLOWERS:
            before = next((request for parent in parents for request in parent.requests), None)
            if before is not None:
                node.options["queue"] = self.manager.queue_of(before)
        if not self._is_published:
            announce(node.task, node.args, node.kwargs, node.options)
        return request_from_call(node.task, node.args, node.kwargs, node.options, now, node.takes)

    def enqueue(self, outcome: Outcome) -> None:
        """Store everything in one transaction."""
        self.continuation(outcome).enqueue()
        for node in self.nodes:
            announced(node.task, node.args, node.kwargs, node.options)
