"""What the site remembers of an upload; what becomes of it, the works know."""

from __future__ import annotations

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models

UPLOADS: Path = settings.FILES / "uploads"
PREVIEWS: Path = settings.FILES / "previews"
ALBUM: Path = settings.FILES / "album"
WORKBENCHES: Path = settings.FILES / "workbenches"


class Picture(models.Model):
    """A photograph that somebody sent. All names of files come from its id, none from the sender."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    #: The session that sent it, by a name of its own (`visitors`).
    visitor = models.CharField(max_length=32)
    #: What the sender calls it: to be shown, and nothing else.
    name = models.CharField(max_length=80)
    label = models.CharField(max_length=30, blank=True)
    level = models.PositiveSmallIntegerField()
    suffix = models.CharField(max_length=5)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    sent_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return str(self.name)

    @property
    def upload(self) -> Path:
        """The file as it came. It is read by workers only, never served."""
        return UPLOADS / f"{self.id}{self.suffix}"

    @property
    def preview(self) -> Path:
        """A small picture, made again from the pixels."""
        return PREVIEWS / f"{self.id}.jpg"

    @property
    def blurred(self) -> Path:
        """Where `save` puts it."""
        return ALBUM / f"{self.id}-blurred-{self.level}{self.suffix}"

    @property
    def megapixels(self) -> float:
        """Its size."""
        return float(self.width * self.height / 1e6)

    def remove_files(self) -> None:
        """Delete all three."""
        for path in (self.upload, self.preview, self.blurred):
            path.unlink(missing_ok=True)
