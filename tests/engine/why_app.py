"""The app of two workers on one machine: what each reads is in WHY_READINGS."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_workmanager import Worker, WorkManager

FOLDER = "WHY_FOLDER"

folder = Path(os.environ.get(FOLDER, "."))
app = Celery("why", broker="memory://", set_as_current=False)
app.conf.workmanager_node_readings = json.loads(os.environ.get("WHY_READINGS", "{}"))
app.conf.worker_proc_alive_timeout = 30
if FOLDER in os.environ:
    WorkManager(app, store_url=f"sqlite:///{folder / 'store.sqlite3'}")


@app.task(base=Worker, bind=True, name="why.tell", shared=False)
def tell(self: Any, **_: Any) -> dict[str, Any]:
    """Say what it was told of changes."""
    return {"uris": list(self.triggered_content_uris), "node": self.request.hostname}


@app.task(base=Worker, bind=True, name="why.wait", shared=False)
def wait(self: Any, gate: str) -> str:
    """Run until there is a file `gate`."""
    deadline = time.monotonic() + 60
    while not (folder / gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return str(self.request.hostname)
