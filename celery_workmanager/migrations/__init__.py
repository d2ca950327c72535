"""Alembic migrations of the store's tables."""

#: The revision this version of the package needs; a test holds it equal to the newest script.
HEAD = "0006"
VERSION_TABLE = "workmanager_version"
#: The fact that names the oldest revision whose versions the tables still fit. Without it: they fit every one.
#: Versions that are long released look for it, so it keeps this name.
OLDEST_FACT = "schema_oldest"
#: Seconds that a migration waits for a table which transactions are using, before it lets them pass and tries again.
LOCK_WAIT = 3
