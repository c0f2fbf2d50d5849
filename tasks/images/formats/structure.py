"""The announcements of an image file, and the limits that hold before a library parses or decodes any of it."""

from __future__ import annotations

import mmap
from typing import NamedTuple

from prefect_fanout.tasks.images.options import ImageOptions

MAX_PARTS = 10_000
"""Segments, chunks, boxes and the like of one file, beside its picture data. Real files have some dozen; Pillow keeps
an object for each."""
MAX_PIECES = 100_000
"""Pieces in which the picture data of one file may come, beside one for every `BYTES_PER_PIECE`."""
BYTES_PER_PIECE = 64
"""Encoders write pieces of 255 bytes (GIF) or some KiB (PNG). Pillow goes through them one by one, in Python."""
MAX_SKIPPED_BYTES = 1024 * 1024
"""Bytes between the parts of a file that belong to none. Libraries step over them one by one, for a quarter of a second
here."""
MAX_EXIF_BYTES = 2 * 1024 * 1024
"""Length of Exif data that Pillow parses. A JPEG segment holds 64 KiB; each number becomes an object of 200 bytes."""
MAX_PASSES = 50
"""Images of `max_pixels` that may be decoded one after another for one file: by default 2,000 frames of full HD, about
a minute of decoding."""

Data = bytes | mmap.mmap
"""The whole file: in memory, or mapped where it lies on a disk."""


class ContentError(Exception):
    """The bytes are not an image that is wanted."""

    def __init__(self, kind: str, message: str) -> None:
        """Args: kind: short slug, for counts. message: a sentence for a person."""
        super().__init__(message)
        self.kind = kind


class Decoding(NamedTuple):
    """The effort of decoding.

    Attributes:
        memory_bytes: Memory at its peak, without the parsed metadata.
        pixels: Pixels that are computed, counting each as often as it is computed.
    """

    memory_bytes: int
    pixels: int


class Structure(NamedTuple):
    """A file's announcements.

    Attributes:
        frames: Frames, pages or pictures.
        pixels: Pixels of the largest frame. Pillow must not find a larger one.
        parse_bytes: Memory for everything but pixels, at most.
        first: Decoding of the first frame alone.
        every: Decoding of all frames, one after another.
        starts: Positions at which the pictures of a JPEG begin; other formats find their frames themselves.
    """

    frames: int
    pixels: int
    parse_bytes: int
    first: Decoding
    every: Decoding
    starts: tuple[int, ...] = (0,)


def check_pixels(width: int, height: int, options: ImageOptions) -> None:
    """Refuse a picture or frame of more than `max_pixels`.

    Raises:
        ContentError: too_many_pixels.
    """
    if width * height > options.max_pixels:
        raise ContentError(
            "too_many_pixels", f"The image has {width:,} x {height:,} pixels, over {options.max_pixels:,} (max_pixels)."
        )


def check_frames(count: int, options: ImageOptions) -> None:
    """Refuse a file of more than `max_frames`.

    Raises:
        ContentError: too_many_frames.
    """
    if count > options.max_frames:
        raise ContentError("too_many_frames", f"The image has more than {options.max_frames:,} frames (max_frames).")


def check_parts(count: int, name: str, parts: str, limit: int = MAX_PARTS) -> None:
    """Refuse a file of more parts than any real one has.

    Args:
        count: Parts so far.
        name: The format.
        parts: The format's word for them, in the plural.
        limit: Most that may be there.

    Raises:
        ContentError: decode_error.
    """
    if count > limit:
        raise ContentError("decode_error", f"The {name} has more than {limit:,} {parts}, which no real image has.")


def max_pieces(data: Data) -> int:
    """Return the most pieces in which the picture data of a file may come."""
    return MAX_PIECES + len(data) // BYTES_PER_PIECE


def cut_off(name: str, detail: str) -> ContentError:
    """Return the error for a file that ends too early.

    Args:
        name: The format.
        detail: The rest of the sentence, after "The ... is cut off: ".
    """
    return ContentError("decode_error", f"The {name} is cut off: {detail}.")


def damaged(name: str, detail: str) -> ContentError:
    """Return the error for a file that contradicts its format.

    Args:
        name: The format.
        detail: The reason, in a few words.
    """
    return ContentError("decode_error", f"The {name} is damaged or cut off ({detail}).")
