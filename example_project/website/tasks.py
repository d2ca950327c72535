"""The site's own work."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta

from celery import shared_task
from django.contrib.sessions.models import Session
from django.utils import timezone

from celery_workmanager import Result, Worker
from example_project.website import chains
from example_project.website.models import ALBUM, PREVIEWS, UPLOADS, WORKBENCHES, Picture

#: How long a picture is kept.
KEPT = timedelta(days=1)
#: A file without a picture that is younger than this may be an upload that is just being received.
GRACE = timedelta(hours=1)


@shared_task(base=Worker)
def sweep() -> Result:
    """Remove pictures a day after they came, sessions that have ended, and files that belong to nobody."""
    old = [each for each in Picture.objects.filter(sent_at__lt=timezone.now() - KEPT) if not _is_under_way(each)]
    for picture in old:
        picture.remove_files()
        picture.delete()
    sessions, _ = Session.objects.filter(expire_date__lt=timezone.now()).delete()
    return Result.success(pictures=len(old), sessions=sessions, files=_remove_strays())


def _is_under_way(picture: Picture) -> bool:
    return any(not info.state.is_finished for info in chains.works_of(picture))


def _remove_strays() -> int:
    """Remove files of pictures that are no more, and the workbenches of visitors without a picture."""
    pictures = {str(key) for key in Picture.objects.values_list("id", flat=True)}
    visitors = set(Picture.objects.values_list("visitor", flat=True))
    latest = time.time() - GRACE.total_seconds()
    strays = [
        path
        for folder in (UPLOADS, PREVIEWS, ALBUM)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name[:36] not in pictures and path.stat().st_mtime < latest
    ]
    for path in strays:
        path.unlink(missing_ok=True)
    if WORKBENCHES.is_dir():
        for bench in WORKBENCHES.iterdir():
            if bench.name not in visitors:
                shutil.rmtree(bench, ignore_errors=True)
    return len(strays)
