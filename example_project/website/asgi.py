"""`uvicorn example_project.website.asgi:application` serves the site, its static files too."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.website.settings")
site = ASGIStaticFilesHandler(get_asgi_application())

from example_project.website.limits import BodyLimit  # noqa: E402  (it knows a model, and Django is set up by now)

application = BodyLimit(site)
