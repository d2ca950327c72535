"""The app of the workers in containers: pytest-celery fills in what stands as None."""

from __future__ import annotations

import json

from celery import Celery

from celery_workmanager import WorkManager

imports = None

app = Celery("celery_test_app")
config = None

if config:
    app.config_from_object(config)
    print(f"Changed worker configuration: {json.dumps(config, indent=4)}")

# In the container, kept when it is killed and restarted.
WorkManager(app, store_url="sqlite:////home/worker/store.sqlite3")

if __name__ == "__main__":
    app.start()
