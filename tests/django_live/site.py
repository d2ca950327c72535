"""A Django project of these tests' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
from celery import Celery
from django.conf import settings
from django.http import HttpRequest

from celery_workmanager import WorkInfo, Worker

app = Celery("live", broker="memory://", set_as_current=False)
app.conf.task_default_queue = "celery"


def may_see(request: HttpRequest, info: WorkInfo) -> bool:
    """A visitor sees the works that are tagged with the name that a header gives."""
    return request.headers.get("Visitor", "nobody") in info.tags


@app.task(base=Worker, shared=False, bind=True, name="paint")
def paint(self: Any, colour: str = "red", *, fails: bool = False, secret: str = "") -> dict[str, str]:
    self.set_progress(percent=40, colour=colour)
    if fails:
        raise ValueError(f"no paint for {secret}")
    return {"picture": f"{colour}.png", "secret": secret}


def configure(folder: Path) -> None:
    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="throw-away",
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF="tests.django_live.urls",
        INSTALLED_APPS=["celery_workmanager.django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}},
        MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        USE_TZ=True,
    )
    django.setup()
