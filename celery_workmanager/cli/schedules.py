"""``work import-schedules``: django-celery-beat's tables as periodic works."""

from __future__ import annotations

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.beat_import import Imported, plan, rows
from celery_workmanager.cli.common import FINE, TROUBLE, command, option
from celery_workmanager.cli.screen import Cell, Column, Screen, clean, plural
from celery_workmanager.errors import WorkManagerError
from celery_workmanager.policies import ExistingPeriodicWorkPolicy
from celery_workmanager.timing import as_datetime

_COLUMNS = (
    Column("NAME", least=12, ends_matter=True),
    Column("TASK", least=12, ends_matter=True),
    Column("BECOMES"),
    Column("WHEN", least=12, may_go=True),
    Column("LEFT OUT", least=20),
)


@command("import-schedules")
@option("--dry-run", is_flag=True, help="Change nothing, say what would be done.")
def import_schedules_command(screen: Screen, manager: WorkManager, *, dry_run: bool) -> int:
    """Make periodic works of django-celery-beat's PeriodicTasks.

    Workers become periodic works; of an ordinary task, the work sends its message at each period. Their unique names
    are "beat:" and the row's name, so running it again updates them. The tables are left as they are: stop
    django-celery-beat's scheduler, or both will fire.
    """
    app = manager.app
    app.loader.import_default_modules()
    app.finalize()
    found = plan(app, rows(), as_datetime(int(manager.clock.now())))
    if not dry_run:
        found = [_stored(manager, each) for each in found]
    if screen.as_json:
        screen.json({"dry_run": dry_run, "schedules": [_document(each) for each in found]})
    else:
        _show(screen, found, dry_run=dry_run)
    return FINE if all(each.request is not None for each in found) else TROUBLE


def _stored(manager: WorkManager, each: Imported) -> Imported:
    if each.request is None:
        return each
    try:
        manager.enqueue_unique_periodic_work(each.unique_name, ExistingPeriodicWorkPolicy.UPDATE, each.request)
    except WorkManagerError as error:
        return Imported(each.name, each.task, None, str(error))
    return each


def _show(screen: Screen, found: list[Imported], *, dry_run: bool) -> None:
    if not found:
        screen.say("django-celery-beat has no periodic tasks.")
        return
    screen.table(_COLUMNS, [_row(each) for each in found])
    done = sum(each.request is not None for each in found)
    told = f"{plural(done, 'periodic work')} {'would be' if dry_run else 'were'} stored"
    left = f", {len(found) - done} left out" if done < len(found) else ""
    screen.say(f"{told}{left}.", bold=True)
    if done and not dry_run:
        click.echo("Now stop django-celery-beat's scheduler: it would fire them too.", err=True)


def _row(each: Imported) -> list[Cell | str]:
    becomes = "–" if each.request is None else "messages" if each.is_message else "runs"
    said = Cell(clean(each.said), {"fg": "yellow"} if each.request is None else {})
    return [clean(each.name), clean(each.task), becomes, _when(each), said]


def _when(each: Imported) -> str:
    request = each.request
    if request is None:
        return ""
    return f"{request.schedule} {request.timezone}" if request.schedule else f"every {request.repeat_interval}"


def _document(each: Imported) -> dict[str, object]:
    return {
        "name": each.name,
        "task": each.task,
        "unique_name": None if each.request is None else each.unique_name,
        "becomes": None if each.request is None else "messages" if each.is_message else "runs",
        "when": _when(each) or None,
        "said": each.said,
    }
