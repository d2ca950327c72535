"""The URL of a store: read, and shown without what is secret in it."""

from __future__ import annotations

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from celery_workmanager import mysql
from celery_workmanager.errors import InvalidSetting, Unshown

__all__ = ("parsed", "shown", "without_secrets")

_SETTING = "workmanager_store_url"
_EXPECTED = "an SQLAlchemy URL of SQLite, PostgreSQL, MariaDB or MySQL"
_DATABASES = ("sqlite", "postgresql", *mysql.DIALECTS)
#: Drivers take a password from the URL's query, too.
_SECRET = re.compile("pass|pwd|secret|token|key|cred", re.IGNORECASE)
_MASK = "***"


def parsed(given: str | URL) -> URL:
    """`given` as a URL, with our driver where it names none. Raises InvalidSetting, which doesn't show it."""
    try:
        url = make_url(given)
        known = url.get_backend_name() in _DATABASES
        if known and "+" in url.drivername:
            url.get_dialect()
    except (ArgumentError, ValueError, ImportError):
        known = False
    if not known:
        raise InvalidSetting(_SETTING, _EXPECTED, Unshown(given))
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return mysql.with_driver(url)


def shown(url: URL) -> str:
    """`url` without its passwords."""
    if any(map(_SECRET.search, url.query)):
        url = url.set(query={key: _MASK if _SECRET.search(key) else value for key, value in url.query.items()})
    return url.render_as_string(hide_password=True).replace("%2A%2A%2A", _MASK)


def without_secrets(text: str, url: URL) -> str:
    """`text`, which may be a driver's, without the passwords of `url`."""
    found = [value for key, value in url.query.items() if _SECRET.search(key) and isinstance(value, str)]
    for secret in (str(url.password or ""), *found):
        if secret:
            text = text.replace(secret, _MASK)
    return text
