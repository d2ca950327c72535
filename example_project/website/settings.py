"""The settings of the site. The environment names a database, a broker and hosts; without them no server is needed."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.utils import get_random_secret_key
from sqlalchemy import make_url

from example_project.blur_o_matic import config

#: Uploads, previews and blurred pictures; the site and all workers must see the same folder.
FILES = config.STATE / "site"
FILES.mkdir(exist_ok=True)

DEBUG = os.environ.get("BLUR_O_MATIC_DEBUG", "") not in ("", "0")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *os.environ.get("BLUR_O_MATIC_HOSTS", "").split()]


def _secret_key(kept: Path) -> str:
    """The key of this installation: the environment's, or one that is made once and kept for its owner's eyes."""
    if key := os.environ.get("BLUR_O_MATIC_SECRET_KEY"):
        return key
    if not kept.exists():
        with tempfile.NamedTemporaryFile("w", dir=kept.parent) as file:  # made with mode 0600
            file.write(get_random_secret_key())
            file.flush()
            with suppress(FileExistsError):  # another process was quicker
                os.link(file.name, kept)
    return kept.read_text()


SECRET_KEY = _secret_key(FILES / "secret-key")


def _database(text: str) -> dict[str, Any]:
    """Django's words for a URL like ``postgresql://user:password@host/name``."""
    url = make_url(text)
    if url.get_backend_name() == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": url.database,
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA journal_mode=WAL"},
        }
    return {
        "ENGINE": f"django.db.backends.{url.get_backend_name()}",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
    }


DATABASE_URL = os.environ.get("BLUR_O_MATIC_DATABASE", f"sqlite:///{FILES / 'site.sqlite3'}")
DATABASES = {"default": _database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CELERY_BROKER_URL = config.broker_url
CELERY_BROKER_TRANSPORT_OPTIONS = config.broker_transport_options
#: Readings for the worker, to be tried by hand: {"charging": false} unplugs it.
READINGS = FILES / "readings.json"
CELERY_WORKMANAGER_READINGS_FILE = str(READINGS)
CELERY_WORKMANAGER_STORAGE_PATHS = [str(FILES)]
CELERY_WORKMANAGER_PAGE_ACCESS = "example_project.website.visitors.may_see"

INSTALLED_APPS = [
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "celery_workmanager.django",
    "example_project.website",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "example_project.website.middleware.content_security_policy",
]
ROOT_URLCONF = "example_project.website.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"

# A visitor is a session. It ends a day after the last upload, and so does the picture.
SESSION_COOKIE_AGE = 24 * 60 * 60
X_FRAME_OPTIONS = "DENY"

# An upload goes to the disk in pieces, never into memory.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
DATA_UPLOAD_MAX_NUMBER_FILES = 1

# Without it, Django tells of errors by mail alone.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"django": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}
