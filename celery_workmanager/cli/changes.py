"""``work cancel``, ``work retry``, ``work run-now`` and ``work prune``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option, query, read
from celery_workmanager.cli.screen import Screen, clean, number, plural
from celery_workmanager.cli.works import missing, show_works
from celery_workmanager.errors import WorkManagerError
from celery_workmanager.operation import Operation
from celery_workmanager.overview import to_cancel, to_prune

_DRY = option("--dry-run", is_flag=True, help="Change nothing, say what would be done.")


# -- cancel ------------------------------------------------------------------------------------------------------


@command("cancel")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@option("--tag", group="Which", metavar="TAG", help="All unfinished works with this tag.")
@option("--name", group="Which", metavar="NAME", help="All unfinished works of this unique name.")
@option("--all", "everything", group="Which", is_flag=True, help="All unfinished works.")
@_DRY
@option("-y", "--yes", is_flag=True, help="Don't ask before --all.")
def cancel_command(
    screen: Screen,
    manager: WorkManager,
    *,
    ids: tuple[str, ...],
    tag: str | None,
    name: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """Cancel works, and all that depends on them.

    What runs is told to stop. Finished works stay as they are, but what waits behind one that is named by its id is
    cancelled.
    """
    if sum((bool(ids), tag is not None, name is not None, everything)) != 1:
        raise click.UsageError("expected ids, or one of --tag, --name and --all")
    unknown = missing(screen, ids, manager.get_work_infos(query(ids=ids))) if ids else []
    if dry_run:
        return _show_doomed(screen, manager, ids=ids, tag=tag, unique_name=name)
    if everything and not yes:
        _ask(manager)
    if tag is not None:
        done = manager.cancel_all_work_by_tag(tag).ids
    elif name is not None:
        done = manager.cancel_unique_work(name).ids
    elif everything:
        done = manager.cancel_all_work().ids
    else:
        done = tuple(dict.fromkeys(each for work_id in ids for each in manager.cancel_work_by_id(work_id).ids))
    if screen.as_json:
        screen.json({"cancelled": list(done)})
    else:
        screen.say(f"{plural(len(done), 'work')} cancelled." if done else "There was nothing to cancel.")
    return FINE if done and not unknown else TROUBLE


def _ask(manager: WorkManager) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("expected --yes with --all where nobody can be asked")
    ids, more = read(manager.store, to_cancel)
    click.confirm(f"Cancel {plural(len(ids), 'unfinished work', more=more)}?", abort=True)


def _show_doomed(screen: Screen, manager: WorkManager, **which: Any) -> int:
    ids, more = read(manager.store, lambda connection: to_cancel(connection, **which))
    works = manager.infos_of(ids)
    if screen.as_json:
        screen.json({"would_cancel": [info.to_dict() for info in works], "more": more})
        return FINE if works else TROUBLE
    if works:
        show_works(screen, manager, works)
    told = plural(len(works), "work", more=more) if works else "No work"
    screen.say(f"{told} would be cancelled.", bold=True)
    return FINE if works else TROUBLE


# -- retry and run-now -------------------------------------------------------------------------------------------


@command("retry")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def retry_command(screen: Screen, manager: WorkManager, *, ids: tuple[str, ...]) -> int:
    """Run finished works again, each as a new work that remembers the old one."""
    return _each(screen, ids, manager.retry, lambda old, done: f"{old} runs again as {done.id}")


@command("run-now")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def run_now_command(screen: Screen, manager: WorkManager, *, ids: tuple[str, ...]) -> int:
    """Let works wait no longer for their delay or backoff.

    A BLOCKED work still waits for the works before it, and then runs without its delay.
    """

    def tell(work_id: str, done: Operation) -> str:
        return f"{work_id} " + ("waits no longer" if done.applied else "was not waiting for its time; nothing changed")

    return _each(screen, ids, manager.run_now, tell)


def _each(
    screen: Screen, ids: Sequence[str], change: Callable[[str], Operation], tell: Callable[[str, Operation], str]
) -> int:
    """Change works one by one; what is wrong with one is told and keeps none of the others."""
    answers: list[dict[str, Any]] = []
    for work_id in dict.fromkeys(ids):
        try:
            done = change(work_id)
        except (WorkManagerError, LookupError) as error:
            answers.append({"id": work_id, "applied": False, "ids": [], "error": str(error)})
            screen.warn(f"{clean(work_id)}: {error}")
            continue
        answers.append({"id": work_id, "applied": done.applied, "ids": list(done.ids), "error": None})
        if not screen.as_json:
            screen.say(tell(work_id, done))
    if screen.as_json:
        screen.json({"works": answers})
    return FINE if all(answer["error"] is None for answer in answers) else TROUBLE


# -- prune -------------------------------------------------------------------------------------------------------


@command("prune")
@option("--expired", is_flag=True, help="Only works whose retention has ended.")
@_DRY
def prune_command(screen: Screen, manager: WorkManager, *, expired: bool, dry_run: bool) -> int:
    """Delete finished works that no unfinished work depends on."""
    manager.store.open()
    if dry_run:
        before = manager.clock.now() if expired else None
        counts, more = read(manager.store, lambda connection: to_prune(connection, before))
        pruned = sum(counts.values())
        told = f"{plural(pruned, 'work', more=more)} would be deleted"
        split = ", ".join(f"{number(count)} {state.name}" for state, count in sorted(counts.items()))
        told += f": {split}." if split else "."
        document: dict[str, Any] = {"would_prune": pruned, "more": more}
        document["states"] = {state.name: count for state, count in counts.items()}
    else:
        pruned = manager.store.prune(only_expired=expired)
        told, document = f"{plural(pruned, 'work')} deleted.", {"pruned": pruned}
    if screen.as_json:
        screen.json(document)
    else:
        screen.say(told)
    return FINE
