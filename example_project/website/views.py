"""The pages. Everything works without JavaScript; with it, pages follow the works by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from celery_workmanager import State
from example_project.blur_o_matic.picture import SUFFIXES
from example_project.website import chains, waiting
from example_project.website.forms import LEVELS, POLICY_WORDS, PhotoForm
from example_project.website.models import Picture
from example_project.website.uploads import MAX_BYTES, MAX_SIZE, RefusedError, receive
from example_project.website.visitors import own_picture, session_has_ended, visitor_of, welcome

_CONTENT_TYPES = {suffix: f"image/{kind.lower()}" for kind, suffix in SUFFIXES.items()}


@require_http_methods(["GET", "HEAD", "POST"])
def home(request: HttpRequest) -> HttpResponse:
    """The form; a good one starts the chain and leads to its page."""
    if request.method != "POST":
        return _home(request, PhotoForm())
    had_ended = session_has_ended(request)
    form = PhotoForm(request.POST, request.FILES)
    if not form.is_valid():
        return _home(request, form)
    picture = Picture(
        visitor=welcome(request),
        name=_shown_name(form.cleaned_data["photo"]),
        label=form.cleaned_data["label"],
        level=form.cleaned_data["level"],
    )
    try:
        receive(form.cleaned_data["photo"], picture)
    except RefusedError as error:
        form.add_error("photo", str(error))
        return _home(request, form)
    if had_ended:
        messages.info(request, "Your earlier session had ended; this is the first picture of a new one.")
    if _start(picture, form.cleaned_data["policy"], charging=form.cleaned_data["charging"]):
        return redirect("picture", picture.id)
    messages.warning(request, "This picture was not started: one of yours is under way, and it was kept.")
    return redirect("home")


def _start(picture: Picture, policy: str, *, charging: bool) -> bool:
    """Whether the chain was started: the picture and its works exist together, or not at all."""
    try:
        with transaction.atomic():
            picture.save()
            applied = chains.start(picture, chains.POLICIES[policy], charging=charging).applied
            transaction.set_rollback(not applied)
    except BaseException:
        picture.remove_files()
        raise
    if not applied:
        picture.remove_files()
    return applied


def _home(request: HttpRequest, form: PhotoForm) -> HttpResponse:
    latest = chains.history(visitor_of(request), limit=4)
    facts = {
        "form": form,
        "levels": LEVELS,
        "policies": POLICY_WORDS,
        "latest": latest,
        "labels": chains.labels_of(visitor_of(request)),
        "max_bytes": MAX_BYTES,
        "max_size": MAX_SIZE,
    }
    return render(request, "blur_o_matic/home.html", facts, status=400 if form.errors else 200)


def _shown_name(upload: UploadedFile) -> str:
    """The last part of what the client calls it (Django has cut off the rest), for the eye alone."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in upload.name or "")[:80]


@require_GET
def picture(request: HttpRequest, id: Any) -> HttpResponse:
    """One picture and the works of its chain."""
    found = own_picture(request, id)
    works = chains.works_of(found)
    facts = {
        "picture": found,
        "steps": [waiting.Step.of(info) for info in works],
        "level": LEVELS[found.level],
        "is_under_way": any(not info.state.is_finished for info in works),
        "has_file": bool(works) and works[-1].state is State.SUCCEEDED and found.blurred.exists(),
        "trouble": waiting.trouble_of(works),
        "obstacles": waiting.obstacles_of(works),
        "is_cancelled": any(info.state is State.CANCELLED for info in works),
    }
    return render(request, "blur_o_matic/picture.html", facts)


@require_POST
def cancel(request: HttpRequest, id: Any) -> HttpResponse:
    """Cancel the chain; what is finished stays as it is."""
    found = own_picture(request, id)
    chains.cancel(found)
    return redirect("picture", found.id)


@require_GET
def preview(request: HttpRequest, id: Any) -> HttpResponse:
    """The small picture."""
    return _file(own_picture(request, id).preview, "image/jpeg")


@require_GET
def blurred(request: HttpRequest, id: Any) -> HttpResponse:
    """The file that the chain made; with ``?download``, to be kept."""
    found = own_picture(request, id)
    response = _file(found.blurred, _CONTENT_TYPES[found.suffix])
    how = "attachment" if "download" in request.GET else "inline"
    response["Content-Disposition"] = f'{how}; filename="blurred-{found.level}{found.suffix}"'
    return response


def _file(path: Path, content_type: str) -> HttpResponse:
    """A file of our own making that a browser takes for a picture and nothing else."""
    try:
        response = HttpResponse(path.read_bytes(), content_type=content_type)
    except FileNotFoundError:
        raise Http404 from None
    response["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    response["Cache-Control"] = "private, max-age=3600"
    return response


@require_GET
def history(request: HttpRequest, label: str = "") -> HttpResponse:
    """The visitor's pictures, or those with a label."""
    visitor = visitor_of(request)
    facts = {"pictures": chains.history(visitor, label), "labels": chains.labels_of(visitor), "label": label}
    return render(request, "blur_o_matic/history.html", facts)


@require_GET
def why(request: HttpRequest) -> HttpResponse:
    """What of the visitor's waits, and why; and what the house itself does now and then."""
    return render(request, "blur_o_matic/why.html", waiting.situation(visitor_of(request)))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001  (Django hands it over)
    """The same page whether there is nothing, or something of somebody else's."""
    facts = {"has_ended": session_has_ended(request), "home": reverse("home")}
    return render(request, "blur_o_matic/not_found.html", facts, status=404)
