"""The check of some bytes: format from the bytes, structure by a walk, size, frames and end from it, then decoding."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Literal

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

from prefect_fanout.tasks.images.deadline import Stopped
from prefect_fanout.tasks.images.formats import avif, bmp, gif, jpeg, png, tiff, webp
from prefect_fanout.tasks.images.formats.structure import (
    MAX_PASSES,
    ContentError,
    Data,
    Decoding,
    Structure,
    check_frames,
    damaged,
)
from prefect_fanout.tasks.images.memory import CheckMemory
from prefect_fanout.tasks.images.options import ImageOptions

PREFIX_BYTES = 32
"""Bytes that tell a format."""

Frames = Literal["none", "first", "every"]


@dataclass(frozen=True, slots=True)
class _Format:
    """One format.

    Attributes:
        extension: The usual one, with the dot.
        plugin: Pillow's parser.
        walk: Reads the structure; refuses a file that is cut or beyond a limit, as far as its structure tells.
        by_header: Frames that verify="header" decodes, because the structure does not tell enough.
        counts: Whether Pillow knows the number of frames once it opened the file; else it would walk all of it again.
    """

    extension: str
    plugin: type[ImageFile]
    walk: Callable[[Data, ImageOptions], Structure]
    by_header: Frames
    counts: bool


_FORMATS: dict[str, _Format] = {
    "JPEG": _Format(".jpg", JpegImagePlugin.JpegImageFile, jpeg.walk, "none", counts=False),
    "PNG": _Format(".png", PngImagePlugin.PngImageFile, png.walk, "none", counts=True),
    "WEBP": _Format(".webp", WebPImagePlugin.WebPImageFile, webp.walk, "none", counts=True),
    "GIF": _Format(".gif", GifImagePlugin.GifImageFile, gif.walk, "first", counts=False),
    "AVIF": _Format(".avif", AvifImagePlugin.AvifImageFile, avif.walk, "first", counts=True),
    "BMP": _Format(".bmp", BmpImagePlugin.BmpImageFile, bmp.walk, "every", counts=False),
    "TIFF": _Format(".tif", TiffImagePlugin.TiffImageFile, tiff.walk, "every", counts=False),
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The facts of an image that a ledger row keeps.

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


_NO_DECODING = Decoding(0, 0)
_check_memory = CheckMemory()


def inspect(
    file: IO[bytes],
    options: ImageOptions,
    *,
    memory: CheckMemory = _check_memory,
    stopped: Callable[[], object] = lambda: None,
) -> ImageFacts:
    """Check that a file is an image that the options allow.

    With verify="full" every frame of every image is decoded, a JPEG at an eighth of its size: all of its data is still
    read, at half the cost. With "header" only frames are decoded whose structure does not tell whether they are whole.
    For a JPEG decoding finds little more, as libjpeg only warns of damage inside, and costs as much time as all else in
    a small download.

    Args:
        file: The bytes, at the start.
        options: The run's options.
        memory: Bound on the memory of all checks together, Pillow's parsing included.
        stopped: Called now and then; raises Stopped when the run is stopped.

    Raises:
        ContentError: The reason why the image is not wanted.
        Stopped: The run was stopped while the check waited or decoded.
    """
    name = _format_of(file.read(PREFIX_BYTES), options)
    frames = "every" if options.verify == "full" else _FORMATS[name].by_header
    try:
        structure = _walk(file, name, options)
        with memory.taken(_check_effort(structure, frames, options, memory), stopped):
            width, height = _open_and_decode(file, name, structure, frames, options, stopped)
    except (ContentError, Stopped):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ContentError("too_many_pixels", f"Pillow refuses the {name}: {error}") from error
    except Exception as error:  # Pillow's parsers raise whatever the bytes drive them to
        raise damaged(name, (str(error) or type(error).__name__)[:200]) from error
    return ImageFacts(name, _FORMATS[name].extension, width, height)


def _format_of(prefix: bytes, options: ImageOptions) -> str:
    for name in _FORMATS:
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


def _walk(file: IO[bytes], name: str, options: ImageOptions) -> Structure:
    """Walk over all bytes of a file, without a copy."""
    if isinstance(file, io.BytesIO):
        return _FORMATS[name].walk(file.getvalue(), options)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _FORMATS[name].walk(data, options)


def _check_effort(structure: Structure, frames: Frames, options: ImageOptions, memory: CheckMemory) -> int:
    """Refuse an image that takes too much time or memory to check; return the memory that it takes, in bytes."""
    decoding = _NO_DECODING if frames == "none" else structure.first if frames == "first" else structure.every
    if decoding.pixels > MAX_PASSES * options.max_pixels:
        raise ContentError(
            "too_many_pixels",
            f"Decoding all frames of the image computes {decoding.pixels:,} pixels, over {MAX_PASSES} times "
            f"{options.max_pixels:,} (max_pixels).",
        )
    size_bytes = structure.parse_bytes + decoding.memory_bytes
    if size_bytes > memory.total_bytes:
        raise ContentError(
            "too_many_pixels",
            f"Checking the image of {structure.pixels:,} pixels takes {size_bytes / 1024**2:,.0f} MiB of memory, "
            f"over the {memory.total_bytes / 1024**2:,.0f} MiB that all checks may take together.",
        )
    return size_bytes


def _open_and_decode(
    file: IO[bytes],
    name: str,
    structure: Structure,
    frames: Frames,
    options: ImageOptions,
    stopped: Callable[[], object],
) -> tuple[int, int]:
    """Let Pillow parse the file and decode the frames that are to be decoded; return width and height."""
    file.seek(0)
    image = _FORMATS[name].plugin(file)
    try:
        width, height = image.size
        _check_pixels(image, structure)
        if min(width, height) < options.min_side_px:
            raise ContentError(
                "too_small", f"The image has {width} x {height} pixels, below {options.min_side_px} (min_side_px)."
            )
        count = structure.frames
        if _FORMATS[name].counts:
            count = getattr(image, "n_frames", 1)
            check_frames(count, options)
        if frames == "none":
            pass
        elif name == "JPEG":
            _decode_jpegs(file, image, structure, stopped)
        else:
            for number in range(count if frames == "every" else 1):
                stopped()
                if number:
                    image.seek(number)
                    _check_pixels(image, structure)
                image.load()
    finally:
        image.fp = None  # the file is the caller's; Pillow would close it
    return width, height


def _check_pixels(image: ImageFile, structure: Structure) -> None:
    """Refuse a frame that Pillow finds larger than the walk did: neither its pixels nor its memory were checked."""
    width, height = image.size
    if width * height > structure.pixels:
        raise damaged(image.format or "image", f"it has {width} x {height} pixels, more than it announces")


def _decode_jpegs(file: IO[bytes], image: ImageFile, structure: Structure, stopped: Callable[[], object]) -> None:
    """Decode a JPEG, and the pictures that follow it as files of their own, at an eighth of their size."""
    for start in structure.starts:
        stopped()
        if start:
            file.seek(start)
            image = JpegImagePlugin.JpegImageFile(file)
            image.tile = [image.tile[0]._replace(offset=start)]
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
