"""Alembic migrations of the store's tables."""

#: The revision this version of the package needs; a test holds it equal to the newest script.
HEAD = "0006"
VERSION_TABLE = "workmanager_version"
