"""A producer in a process of its own, to be killed in the middle of an enqueue."""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from celery_workmanager import WorkManager
from tests.chaos.backlog import Backlog
from tests.chaos.journal import Journal
from tests.chaos.load import Load, guarded
from tests.story import story_app


def main() -> None:
    """Enqueue, one thing after the other, until killed."""
    journal = Journal(Path(os.environ[story_app.FOLDER]))
    manager = WorkManager.get_instance(story_app.app)
    load = Load(manager, journal, random.Random(int(sys.argv[1])), Backlog(manager))
    print("ready", flush=True)
    pause = threading.Event()  # never set: there is no end but a kill
    while not pause.wait(0.02):
        guarded(load.produce, journal)


if __name__ == "__main__":
    main()
