"""A Django project of these tests' own, whose store is in either of two databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
from celery import Celery
from django.conf import settings
from django.http import HttpRequest
from django.test.utils import setup_test_environment
from sqlalchemy import make_url

from celery_workmanager import Worker, WorkInfo

app = Celery("live", broker="memory://", set_as_current=False)
app.conf.task_default_queue = "celery"


def while_painting() -> None:
    """What happens during a run; replaced by tests."""


def may_see(request: HttpRequest, info: WorkInfo) -> bool:
    """A visitor sees the works that are tagged with the name that a header gives."""
    return request.headers.get("Visitor", "nobody") in info.tags


@app.task(base=Worker, shared=False, bind=True, name="paint")
def paint(self: Any, colour: str = "red", *, fails: bool = False, secret: str = "") -> dict[str, str]:
    self.set_progress(percent=40, colour=colour)
    while_painting()
    if fails:
        raise ValueError(f"no paint for {secret}")
    return {"picture": f"{colour}.png", "secret": secret}


def configure(folder: Path, postgresql_url: str | None) -> None:
    """Set Django up: users, sessions and the log in the first database, the store in each in turn."""
    databases: dict[str, dict[str, Any]] = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}
    }
    if postgresql_url is not None:
        url = make_url(postgresql_url)
        named = {"NAME": url.database, "USER": url.username, "HOST": url.host, "PORT": url.port}
        databases["postgresql"] = {"ENGINE": "django.db.backends.postgresql", "PASSWORD": url.password, **named}
    settings.configure(
        SECRET_KEY="throw-away",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.django_live.urls",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "celery_workmanager.django",
        ],
        DATABASES=databases,
        DATABASE_ROUTERS=["celery_workmanager.django.router.WorkManagerRouter"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        MIDDLEWARE=[
            "django.middleware.gzip.GZipMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        STATIC_URL="/static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        TIME_ZONE="UTC",
        USE_TZ=True,
    )
    django.setup()
    setup_test_environment()
