"""Whether some bytes are an image that is wanted: format from the bytes, size from the header, damage from decoding."""

from __future__ import annotations

import io
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

# Each import registers its format with Pillow; Image.open would load them anew for every unknown file.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from prefect_fanout.tasks.images.gif import frames_at_least
from prefect_fanout.tasks.images.options import ImageOptions

DECODE_BYTES = 1024**3
"""Memory that all decoding together may take: 1 GiB, enough for the largest image that the default allows."""
BYTES_PER_PIXEL = 4
PREFIX_BYTES = 32
"""Bytes that tell a format."""

_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_END_IS_CHECKED = frozenset({"JPEG", "PNG", "WEBP"})
_EXTENSIONS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "AVIF": ".avif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}


class ContentError(Exception):
    """The bytes are not an image that is wanted."""

    def __init__(self, kind: str, message: str) -> None:
        """Args: kind: short slug, for counts. message: a sentence for a person."""
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the bytes say of themselves.

    Attributes:
        format: Pillow's name of the format.
        extension: Its usual extension, with the dot.
        width: Pixels.
        height: Pixels.
    """

    format: str
    extension: str
    width: int
    height: int


class DecodeMemory:
    """Lets decoding wait while others take the memory; a bound for the whole process.

    State: `_free`, in bytes, guarded by `_changed`. An image larger than all of it decodes alone.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = self._free = total_bytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Waits until so much is free and holds it."""
        size = min(size_bytes, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_decode_memory = DecodeMemory(DECODE_BYTES)


def inspect(file: IO[bytes], options: ImageOptions, *, memory: DecodeMemory = _decode_memory) -> ImageFacts:
    """Checks that a file is an image that the options allow.

    With verify="full" every image is decoded, a JPEG at an eighth of its size: all of its data is still read, at half
    the cost. With "header" those are not whose structure tells whether they are whole. For a JPEG decoding finds
    little more, as libjpeg only warns of damage inside, and costs as much time as all the rest of a small download.

    Args:
        file: The bytes, at the start.
        options: The run's options.
        memory: Bound on what decoding takes.

    Raises:
        ContentError: with the reason.
    """
    prefix = file.read(PREFIX_BYTES)
    name = _format_of(prefix, options)
    with _as_content_errors(name):
        file.seek(0)
        image = _PLUGINS[name](file)
        try:
            width, height = image.size
            _check_size(width, height, options)
            _check_frames(image, file, name, options)
            _check_end(file, name)
            if options.verify == "full" or name not in _END_IS_CHECKED:
                with memory.taken(width * height * BYTES_PER_PIXEL):
                    _decode(image, file, name)
        finally:
            image.fp = None  # the file is the caller's; Pillow would close it
    return ImageFacts(name, _EXTENSIONS[name], width, height)


def _format_of(prefix: bytes, options: ImageOptions) -> str:
    for name in _PLUGINS:
        accept = Image.OPEN[name][1]
        answer = accept(prefix) if accept is not None else False
        if answer is True or (answer and not isinstance(answer, str)):
            if name in options.formats:
                return name
            raise ContentError("format_not_allowed", f"The file is {name}, which is not among the formats to keep.")
    start = prefix.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg"):
        raise ContentError("format_not_allowed", "The file is SVG, which is not among the formats to keep.")
    what = "an HTML or XML page" if start.startswith(b"<") else "no known image format"
    raise ContentError("not_an_image", f"Expected an image, got {what}; it begins with {prefix[:16]!r}.")


@contextmanager
def _as_content_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ContentError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes drive them to
        text = str(error) or type(error).__name__
        raise ContentError("decode_error", f"The {name} is damaged or cut off ({text[:200]}).") from error


def _check_size(width: int, height: int, options: ImageOptions) -> None:
    if width * height > options.max_pixels:
        raise ContentError(
            "too_many_pixels", f"The image has {width:,} x {height:,} pixels, over {options.max_pixels:,} (max_pixels)."
        )
    if min(width, height) < options.min_side_px:
        raise ContentError(
            "too_small", f"The image has {width} x {height} pixels, below {options.min_side_px} (min_side_px)."
        )


def _check_frames(image: ImageFile, file: IO[bytes], name: str, options: ImageOptions) -> None:
    if name == "GIF":
        too_many = frames_at_least(file, options.max_frames + 1)
    elif name == "TIFF":
        too_many = False  # n_frames walks all of a TIFF; only the first page is ever decoded
    else:
        too_many = getattr(image, "n_frames", 1) > options.max_frames
    if too_many:
        raise ContentError("too_many_frames", f"The image has more than {options.max_frames:,} frames (max_frames).")


def _check_end(file: IO[bytes], name: str) -> None:
    """Looks for the marker that ends the format, for those that have one, or for the length that the header gives."""
    if name == "PNG":
        file.seek(0)
        PngImagePlugin.PngImageFile(file).verify()  # the checksum of every chunk, to the last
    elif name == "JPEG" and not _holds_after(file, file.tell(), b"\xff\xd9"):
        raise ContentError("decode_error", "The JPEG is cut off: its end marker is missing.")
    elif name == "WEBP":
        file.seek(4)
        announced = int.from_bytes(file.read(4), "little") + 8
        if file.seek(0, 2) < announced:
            raise ContentError("decode_error", f"The WebP is cut off: it should have {announced:,} bytes.")


def _holds_after(file: IO[bytes], start: int, marker: bytes) -> bool:
    """Whether a marker stands anywhere from a position on. From the end, as cameras append whole films."""
    if isinstance(file, io.BytesIO):
        return file.getvalue().rfind(marker, start) >= 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.rfind(marker, start) >= 0


def _decode(image: ImageFile, file: IO[bytes], name: str) -> None:
    if name == "JPEG":
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
    elif name == "PNG":
        file.seek(0)
        image = PngImagePlugin.PngImageFile(file)
    image.load()
