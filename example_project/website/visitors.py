"""Who is who: a visitor is a session, under a name that is no key to it."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404

from celery_workmanager import WorkInfo
from example_project.website.models import Picture

_KEY = "visitor"


def visitor_of(request: HttpRequest) -> str:
    """The visitor's name; empty for somebody without a session. To look is no reason to make one."""
    return str(request.session.get(_KEY, ""))


def welcome(request: HttpRequest) -> str:
    """The visitor's name, made up on the first occasion; the session begins its day again."""
    request.session.modified = True
    return str(request.session.setdefault(_KEY, uuid.uuid4().hex))


def tag_of(visitor: str) -> str:
    """The tag that all works of the visitor carry."""
    return f"visitor:{visitor}"


def may_see(request: HttpRequest, info: WorkInfo) -> bool:
    """Whether a work is the visitor's own (setting ``workmanager_page_access``)."""
    visitor = visitor_of(request)
    return bool(visitor) and tag_of(visitor) in info.tags


def own_picture(request: HttpRequest, id: Any) -> Picture:
    """The visitor's own picture. Raises Http404, whether there is none or it is somebody else's."""
    visitor = visitor_of(request)
    if not visitor:
        raise Http404
    picture: Picture = get_object_or_404(Picture, id=id, visitor=visitor)
    return picture


def session_has_ended(request: HttpRequest) -> bool:
    """Whether the browser shows the cookie of a session that is no more."""
    return settings.SESSION_COOKIE_NAME in request.COOKIES and not visitor_of(request)
