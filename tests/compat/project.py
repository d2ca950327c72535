"""What a worker process loads (``celery -A tests.compat.project worker``)."""

from __future__ import annotations

from tests.compat.apps import Facts, make_app

app = make_app(Facts.from_environment())
app.set_default()
