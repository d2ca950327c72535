"""An upload becomes a picture, or the sender is told why not. Nothing the client says about it is believed."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import BinaryIO

from django.core.files.uploadedfile import UploadedFile
from PIL import Image, ImageOps, UnidentifiedImageError

from example_project.blur_o_matic.picture import SUFFIXES
from example_project.website.models import PREVIEWS, UPLOADS, Picture

MAX_BYTES = 25 * 1024 * 1024
MAX_SIZE = "25 MB"
#: A picture of so many pixels takes 200 MB of memory at most; photographs of 20 megapixels take 60 MB.
MAX_PIXELS = 50_000_000
PREVIEW = 960, 960

#: So many pictures are decoded at the same time, whatever the number of senders.
_decoding = threading.BoundedSemaphore(2)


class RefusedError(Exception):
    """The upload is no picture that can be blurred; its text is for the sender."""


def receive(upload: UploadedFile, picture: Picture) -> None:
    """Keep the upload and a preview under the picture's own names, and fill in its size. Raises RefusedError."""
    if upload.size > MAX_BYTES:
        raise RefusedError(f"This file is larger than {MAX_SIZE}.")
    kind, (picture.width, picture.height) = _examine(upload)
    picture.suffix = SUFFIXES[kind]
    for folder in (UPLOADS, PREVIEWS):
        folder.mkdir(exist_ok=True)
    try:
        with _decoding:
            _make_preview(upload, picture.preview)
        with picture.upload.open("xb") as kept:
            upload.seek(0)
            shutil.copyfileobj(upload, kept)
    except BaseException:
        picture.remove_files()
        raise


def _examine(file: BinaryIO) -> tuple[str, tuple[int, int]]:
    """The format and size, from the content; not one pixel is decoded before both are known to be fine."""
    try:
        with Image.open(file, formats=tuple(SUFFIXES)) as found:
            kind, size = found.format or "", found.size
            _check_pixels(*size)
            found.verify()
    except Image.DecompressionBombError:  # Pillow's own limit is far higher
        raise RefusedError(f"This picture has more than {MAX_PIXELS // 1_000_000} megapixels.") from None
    except UnidentifiedImageError:
        raise RefusedError("This is not a JPEG, PNG or WebP picture.") from None
    except Exception as error:  # each of Pillow's decoders has its own kinds
        raise RefusedError("This picture is damaged.") from error
    return kind, size


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError


def _make_preview(file: BinaryIO, path: Path) -> None:
    """A small JPEG of our own making; that it can be made proves that the whole file can be decoded."""
    file.seek(0)
    try:
        with Image.open(file, formats=tuple(SUFFIXES)) as opened:
            opened.draft("RGB", PREVIEW)  # a JPEG is decoded in small at once
            opened.thumbnail(PREVIEW)
            small = ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception as error:
        raise RefusedError("This picture is damaged.") from error
    flat = Image.new("RGB", small.size, "white")
    flat.paste(small, mask=small)
    flat.save(path, "JPEG", quality=85)
