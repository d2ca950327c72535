"""The project's settings. SITE_DATABASE_URL says which database it has, in SQLAlchemy's words."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import make_url

_ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
_URL = make_url(os.environ.get("SITE_DATABASE_URL", "sqlite://"))
_KIND = _URL.get_backend_name()
_NAME = _URL.database or ":memory:"


def _options() -> dict[str, Any]:
    if _KIND == "sqlite":
        return {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL;"}
    return {"pool": True} if "SITE_POOL" in os.environ else {}


if _KIND in ("mysql", "mariadb"):
    import pymysql

    # As PyMySQL's users do: Django asks for the version of mysqlclient.
    pymysql.version_info = (2, 2, 1, "final", 0)
    pymysql.install_as_MySQLdb()

SECRET_KEY = "throw-away"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["celery_workmanager.django", "tests.django_site"]
DATABASES = {
    "default": {
        "ENGINE": f"django.db.backends.{_ENGINES[_KIND]}",
        "NAME": _NAME,
        "USER": _URL.username or "",
        "PASSWORD": _URL.password or "",
        "HOST": _URL.host or "",
        "PORT": _URL.port or "",
        "OPTIONS": _options(),
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": 0 if "SITE_POOL" in os.environ else 60,
        # Otherwise Django tests on SQLite are in memory.
        "TEST": {"NAME": f"{_NAME}.test"} if _KIND == "sqlite" and _URL.database else {},
    },
    "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
DATABASE_ROUTERS = ["celery_workmanager.django.router.WorkManagerRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.django_site.urls"
USE_TZ = True
TIME_ZONE = "UTC"  # or Django would move the whole process to Chicago

CELERY_BROKER_URL = "memory://"
CELERY_WORKMANAGER_POLL_INTERVAL = 0.2
