"""What all commands share: their JSON option, how they find the WorkManager, and how their errors are told."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.screen import Screen
from celery_workmanager.errors import InvalidRequest, NotInitialized, WorkManagerError
from celery_workmanager.query import WorkQuery
from celery_workmanager.store import Store
from celery_workmanager.work import State

#: Exit codes: all is well; nothing was found, or something is wrong. A wrong call is click's 2, Ctrl-C the shell's 130.
FINE, TROUBLE, INTERRUPTED = 0, 1, 130


class WorkCommand(CeleryCommand):
    """A command that answers with an exit code and tells each error in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            code = super().invoke(ctx)
        except NotInitialized as error:
            raise click.UsageError(f"{error} (is `celery -A proj` the right one?)", ctx) from error
        except WorkManagerError as error:
            raise click.ClickException(str(error)) from error
        except (SQLAlchemyError, ImportError) as error:
            # A store URL that can't be read, a driver that isn't installed, rights that are missing.
            told = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise click.ClickException(f"expected the store to be usable, got: {told}") from error
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            if not _was_interrupted(error):
                raise
            code = INTERRUPTED
        ctx.exit(code or FINE)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether a Ctrl-C is behind it: one that hits a library's own clean-up comes out as that library's error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make ``f(screen, manager, **options)`` the command `name`; its docstring is the help."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def run(*, as_json: bool, **options: Any) -> int | None:
            out: Any = click.get_current_context().obj
            if "DJANGO_SETTINGS_MODULE" in os.environ:
                # As in a worker: it lets Celery set Django up, whose database may be the store.
                out.app.loader.import_default_modules()
            return function(Screen(out, as_json=as_json), WorkManager.get_instance(out.app), **options)

        json = option("-j", "--json", "as_json", group="Output", is_flag=True, help="Print JSON.")
        return click.command(name, cls=WorkCommand, help=function.__doc__)(json(run))

    return decorate


def option(*names: str, group: str = "Options", **settings: Any) -> Callable[[Any], Any]:
    """An option under its heading of the help."""
    return click.option(*names, cls=CeleryOption, help_group=group, **settings)


def filter_option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option that says which works, and may be given several times."""
    return option(*names, group="Filters", multiple=True, **settings)


def read(store: Store, look: Callable[[Connection], Any]) -> Any:
    """What `look` finds in the store."""
    store.open()
    with store.database.plain() as connection:
        return look(connection)


def query(**fields: Any) -> WorkQuery:
    """A WorkQuery from what was given on the command line."""
    try:
        return WorkQuery(**fields)
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error


class StateType(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """A state by its name, in either case; also "unfinished" and "finished"."""

    name = "state"

    def __init__(self) -> None:
        super().__init__([*(state.name for state in State), "UNFINISHED", "FINISHED"], case_sensitive=False)


def states_of(names: tuple[str, ...]) -> tuple[State, ...]:
    """The states that were named."""
    chosen = {
        "FINISHED": [state for state in State if state.is_finished],
        "UNFINISHED": [state for state in State if not state.is_finished],
    }
    return tuple(dict.fromkeys(each for name in names for each in chosen.get(name) or [State[name]]))


def limit_option(default: int, help: str) -> Callable[[Any], Any]:
    """``--limit``: how many at most."""
    most = click.IntRange(1, 10_000)
    return option("--limit", type=most, default=default, show_default=True, metavar="N", help=help)
