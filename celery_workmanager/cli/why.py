"""``work why``: why a work doesn't run now."""

from __future__ import annotations

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, query
from celery_workmanager.cli.screen import LOOKS, Screen, clean, number, span
from celery_workmanager.cli.works import missing
from celery_workmanager.errors import WorkNotFound
from celery_workmanager.explanation import Explanation, Reason
from celery_workmanager.timing import moment

#: Nodes that are told of one by one; with --json all that were read are.
_MOST_NODES = 10


@command("why")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def why_command(screen: Screen, manager: WorkManager, *, ids: tuple[str, ...]) -> int:
    """Tell why works don't run now: every reason, the one to look at first.

    What holds a work up besides is told after it, and at last what will happen.
    """
    infos = manager.get_work_infos(query(ids=ids))
    found = [each for info in infos if (each := _explained(manager, info.id)) is not None]
    if screen.as_json:
        screen.json({"works": [each.to_dict() for each in found]})
    else:
        workers = {info.id: info.worker_name for info in infos}
        for at, each in enumerate(found):
            if at:
                screen.say()
            _show(screen, each, workers[each.work_id], manager.clock.now())
    return FINE if not missing(screen, ids, infos) else TROUBLE


def _explained(manager: WorkManager, work_id: str) -> Explanation | None:
    try:
        return manager.explain(work_id)
    except WorkNotFound:
        return None  # pruned since it was found


def _show(screen: Screen, explanation: Explanation, worker: str, now: int) -> None:
    sign, style = LOOKS[explanation.state]
    screen.say(f"{sign} {explanation.state.name}  {explanation.work_id}  {clean(worker)}", **style)
    first, *others = explanation.reasons
    _show_reason(screen, "→", first, now, bold=True)
    for each in others:
        _show_reason(screen, "·", each, now)


def _show_reason(screen: Screen, sign: str, reason: Reason, now: int, **style: bool) -> None:
    text = clean(reason.text)
    screen.say(f"  {sign} {text[0].upper()}{text[1:]}{_when(reason, now)}", **style)
    _show_nodes(screen, reason, now)


def _when(reason: Reason, now: int) -> str:
    if reason.until is not None:
        left = moment(reason.until) - now
        return f" (in {span(left)})" if left > 0 else ""
    return "" if reason.since is None else f" (for {span(now - moment(reason.since))})"


def _show_nodes(screen: Screen, reason: Reason, now: int) -> None:
    if len(reason.nodes) == 1 and not any(node.read_at is not None for node in reason.nodes):
        return  # the sentence has said it
    for node in reason.nodes[:_MOST_NODES]:
        read = "" if node.read_at is None else f" ({span(now - moment(node.read_at))} ago)"
        screen.say(f"      {clean(node.name)}: {clean(node.text)}{read}", dim=True)
    if len(reason.nodes) > _MOST_NODES:
        screen.say(f"      … and {number(len(reason.nodes) - _MOST_NODES)} more", dim=True)
