"""The configuration of the Celery app: no server is needed, unless the environment names one."""

import os
from pathlib import Path

#: Where pictures and state are kept; each checkout has its own.
HOME = Path(os.environ.get("BLUR_O_MATIC_HOME", Path(__file__).parents[1])).absolute()
PICTURES = HOME / "pictures"
STATE = HOME / ".state"
MESSAGES = STATE / "messages"
for folder in (PICTURES, STATE, MESSAGES):
    folder.mkdir(parents=True, exist_ok=True)

workmanager_store_url = os.environ.get("BLUR_O_MATIC_STORE", f"sqlite:///{STATE / 'store.sqlite3'}")

broker_url = os.environ.get("BLUR_O_MATIC_BROKER", "filesystem://")
broker_transport_options: dict[str, object] = {}
if broker_url == "filesystem://":  # only `celery inspect` and the like go through it: works wait in the store
    broker_transport_options = {
        "data_folder_in": str(MESSAGES),
        "data_folder_out": str(MESSAGES),
        "control_folder": str(MESSAGES),
        "polling_interval": 0.1,
    }

include = ["example_project.blur_o_matic.tasks"]
