"""Fields and indexes that make the same columns as the store's own migrations."""

from __future__ import annotations

from typing import Any

from django.db import models


class TextKey(models.CharField):
    """Ids and names: compared as they are, letter by letter."""

    def db_type(self, connection: Any) -> str | None:
        """The same type on PostgreSQL by its long name."""
        kind: str | None = super().db_type(connection)
        if connection.vendor == "postgresql" and kind is not None:
            # Django gives each key that it knows as a "varchar" a second index for LIKE, which no statement here asks.
            return kind.replace("varchar", "character varying")
        return kind


class SmallIndex(models.Index):
    """An index of the rows in which `guard` isn't NULL: of all rows where the database has no partial indexes."""

    def __init__(self, guard: str, *, fields: Any, name: str) -> None:
        self.guard = guard
        super().__init__(fields=fields, name=name, condition=models.Q((f"{guard}__isnull", False)))

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        """The statement; Django itself would leave the index out where it can't be partial."""
        if schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, using, **kwargs)
        whole = models.Index(fields=self.fields, name=self.name)
        return whole.create_sql(model, schema_editor, using, **kwargs)

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """How a migration writes it down."""
        path, _, _ = super().deconstruct()
        return path, (self.guard,), {"fields": self.fields, "name": self.name}
