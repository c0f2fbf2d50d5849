"""The header of a BMP."""

from __future__ import annotations

import struct

from prefect_fanout.tasks.images.formats.structure import (
    ContentError,
    Data,
    Decoding,
    Structure,
    check_pixels,
    damaged,
)
from prefect_fanout.tasks.images.options import ImageOptions

BYTES_PER_PIXEL = 8
"""Measured: 4.0, and 5 where Pillow unpacks run lengths."""
MAX_RUN_LENGTH_PIXELS = 16 * 1024 * 1024
"""Pixels of a run-length encoded BMP, which Pillow unpacks in Python: about two seconds. A scanned page at 300 dots an
inch has half of that."""

_RUN_LENGTHS = (1, 2)
_UPSIDE_DOWN = 0xFF000000
"""Heights from here on are negative numbers."""


def walk(data: Data, options: ImageOptions) -> Structure:
    """Read size and compression.

    Source: "[MS-WMF]: Windows Metafile Format", section 2.2.2.9; bitmap core headers as Pillow reads them.

    Raises:
        ContentError: The file is cut, or beyond a limit.
    """
    try:
        (header_bytes,) = struct.unpack_from("<I", data, 14)
        if header_bytes == 12:
            (width, height), compression = struct.unpack_from("<HH", data, 18), 0
        else:
            width, height, _, compression = struct.unpack_from("<IIII", data, 18)
    except struct.error:
        raise damaged("BMP", "its header is not whole") from None
    if height >= _UPSIDE_DOWN and header_bytes != 12:
        height = 2**32 - height
    check_pixels(width, height, options)
    pixels = width * height
    if compression in _RUN_LENGTHS and pixels > MAX_RUN_LENGTH_PIXELS:
        raise ContentError(
            "too_many_pixels",
            f"The image has {width:,} x {height:,} pixels, over the {MAX_RUN_LENGTH_PIXELS:,} that a BMP with run "
            "lengths may have.",
        )
    decoding = Decoding(BYTES_PER_PIXEL * pixels, pixels)
    return Structure(frames=1, pixels=pixels, parse_bytes=0, first=decoding, every=decoding)
