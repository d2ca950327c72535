"""Who may see a work on a page: the project's own decision, and nobody without one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from django.core.checks import CheckMessage, Error
from django.http import HttpRequest
from django.utils.module_loading import import_string

from celery_workmanager.app import WorkManager
from celery_workmanager.errors import ConfigurationError, InvalidSetting, NotInitialized
from celery_workmanager.settings import PREFIX
from celery_workmanager.work import WorkInfo

#: What the setting ``page_access`` names. Only ``True`` opens: what merely counts as true may be a slip.
Access = Callable[[HttpRequest, WorkInfo], bool]

_SETTING = PREFIX + "page_access"
_EXPECTED = "the dotted path of a function(request, work_info) that returns a bool"


def access_of(manager: WorkManager) -> Access:
    """The project's rule; without one, nobody sees anything. Raises InvalidSetting when it can't be used."""
    path = manager.settings.page_access
    return _closed if path is None else _imported(path)


def _closed(_request: HttpRequest, _info: WorkInfo) -> bool:
    return False


def _imported(path: str) -> Access:
    try:
        found: Any = import_string(path)
    except ImportError:
        raise InvalidSetting(_SETTING, _EXPECTED, path) from None
    if not callable(found) or inspect.iscoroutinefunction(found) or not _takes_two(found):
        raise InvalidSetting(_SETTING, _EXPECTED, path)
    rule: Access = found
    return rule


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def check_access(**_: Any) -> list[CheckMessage]:
    """Django's system check of the rule: a bad one is told at the start, and not to the first visitor."""
    try:
        manager = WorkManager.get_instance()
        manager.settings  # noqa: B018 - whether they can be read
    except (NotInitialized, ConfigurationError):
        return []  # another check tells of it
    try:
        access_of(manager)
    except InvalidSetting as error:
        return [Error(str(error), id="celery_workmanager.E101")]
    return []
