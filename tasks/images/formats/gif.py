"""The blocks of a GIF to its trailer, with the rectangle of every frame: a tiny file can hold millions."""

from __future__ import annotations

import re
import struct

from prefect_fanout.tasks.images.formats.structure import (
    MAX_PARTS,
    MAX_SKIPPED_BYTES,
    Data,
    Decoding,
    Structure,
    check_frames,
    check_parts,
    check_pixels,
    cut_off,
    damaged,
    max_pieces,
)
from prefect_fanout.tasks.images.options import ImageOptions

BYTES_PER_PIXEL = 4
"""Measured: 1 for the first frame, which stays indexed, and another 1 where it is enlarged."""
ANIMATED_BYTES_PER_PIXEL = 20
"""Measured: 13 to 17; Pillow keeps the picture, the frame, both in RGBA and the part to restore."""
PARSE_COPIES = 4
"""Copies of a comment that Pillow keeps: its sub-blocks in a list, and all of them joined."""
_INTRODUCER = re.compile(rb"[!,;]")
"""Extension, image, trailer. Pillow and browsers skip other bytes between blocks."""
_COMMENT = 0xFE


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk all blocks to the trailer.

    A frame may be larger than the screen that the header announces: Pillow enlarges the picture then. Some encoders
    leave out the trailer of a single picture; it lacks nothing when its data ends where the file ends.

    Source: "Graphics Interchange Format, Version 89a", sections 17 to 27.

    Raises:
        ContentError: The file is cut, or beyond a limit.
    """
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        position = 13 + _table_bytes(flags)
        frames = extensions = blocks = skipped = comment = 0
        first = None
        while (match := _INTRODUCER.search(data, position)) and data[match.start()] != 0x3B:
            skipped += match.start() - position
            if skipped > MAX_SKIPPED_BYTES:
                raise damaged("GIF", "more junk between its blocks than any real one has")
            position = match.end()
            if data[match.start()] == 0x2C:
                left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, position)
                width, height = max(width, left + frame_width), max(height, top + frame_height)
                check_pixels(width, height, options)
                first = first or (width, height)
                frames += 1
                check_frames(frames, options)
                position += 10 + _table_bytes(flags)
                is_comment = False
            else:
                extensions += 1
                check_parts(extensions - frames, "GIF", "extensions beside one for each frame", MAX_PARTS)
                is_comment = data[position] == _COMMENT
                position += 1
            begin = position
            position, blocks = _skip_blocks(data, position, blocks)
            comment += (position - begin) * is_comment
    except (IndexError, struct.error):
        raise cut_off("GIF", "it ends inside a block") from None
    if match is None and not (frames == 1 and position == len(data)):
        raise cut_off("GIF", "its trailer is missing")
    if first is None:
        raise damaged("GIF", "it holds no picture")
    pixels = width * height
    return Structure(
        frames=frames,
        pixels=pixels,
        parse_bytes=PARSE_COPIES * comment,
        first=Decoding(BYTES_PER_PIXEL * first[0] * first[1], first[0] * first[1]),
        every=Decoding((ANIMATED_BYTES_PER_PIXEL if frames > 1 else BYTES_PER_PIXEL) * pixels, frames * pixels),
    )


def _skip_blocks(data: Data, position: int, blocks: int) -> tuple[int, int]:
    """Return the position behind a row of sub-blocks, and the sub-blocks of the file so far."""
    most = max_pieces(data)
    while size := data[position]:
        position += size + 1
        blocks += 1
        if blocks > most:
            raise damaged("GIF", "more and smaller blocks than any real one has")
    return position + 1, blocks


def _table_bytes(flags: int) -> int:
    """Return the bytes of the colour table that a flags byte announces."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
