"""Fields and indexes that make the same columns as the store's own migrations."""

from __future__ import annotations

from typing import Any

from django.db import models

from celery_workmanager import mysql


class _ExactText(models.Field):
    """Compared character by character, on MySQL too."""

    def db_type(self, connection: Any) -> str | None:
        """The type, and on MySQL the character set."""
        kind: str | None = super().db_type(connection)
        return f"{kind} CHARACTER SET utf8mb4" if connection.vendor == "mysql" else kind

    def db_parameters(self, connection: Any) -> dict[str, Any]:
        """The type, and on MySQL the collation."""
        found: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "mysql":
            found["collation"] = mysql.collation(is_mariadb=connection.mysql_is_mariadb)
        return found


class LongText(_ExactText, models.TextField):
    """JSON, of any length."""


class TextKey(_ExactText, models.CharField):
    """Ids and names."""

    def db_type(self, connection: Any) -> str | None:
        """The same type on PostgreSQL by its long name."""
        kind = super().db_type(connection)
        if connection.vendor == "postgresql" and kind is not None:
            # Django gives each key that it knows as a "varchar" a second index for LIKE, which no statement here asks.
            return kind.replace("varchar", "character varying")
        return kind


class SmallIndex(models.Index):
    """An index of the rows in which `guard` isn't NULL: of all rows where the database has no partial indexes.

    Django's own kind of a condition would leave the whole index out there.
    """

    def __init__(self, guard: str, *, fields: Any, name: str) -> None:
        self.guard = guard
        super().__init__(fields=fields, name=name)

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        """The statement that makes it."""
        if not schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, using, **kwargs)
        condition = models.Q((f"{self.guard}__isnull", False))
        partial = models.Index(fields=self.fields, name=self.name, condition=condition)
        return partial.create_sql(model, schema_editor, using, **kwargs)

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """How a migration writes it down."""
        path, _, kwargs = super().deconstruct()
        return path, (self.guard,), kwargs
