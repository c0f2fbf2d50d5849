"""The chunks of a WebP, those inside its frames included."""

from __future__ import annotations

import struct

from prefect_fanout.tasks.images.formats.structure import (
    MAX_PARTS,
    Data,
    Decoding,
    Structure,
    check_frames,
    check_parts,
    check_pixels,
    cut_off,
    damaged,
)
from prefect_fanout.tasks.images.options import ImageOptions

BYTES_PER_PIXEL = 16
"""Measured: 16.0 for all kinds: two canvases, the frame as bytes and the frame as Pillow has it."""
PARSE_COPIES = 3
"""Copies of the file: read in two pieces and joined, and its metadata once more."""

_CHUNK = struct.Struct("<4sI")
_FRAME_HEADER_BYTES = 16
_CHUNKS_PER_FRAME = 3
"""The picture, its transparency, and one to spare."""


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk all chunks; libwebp reads on behind a frame's header too, so the chunks in a frame are like those outside.

    Source: RFC 9649, "WebP Image Format", section 2.

    Raises:
        ContentError: The file is cut, or beyond a limit.
    """
    (announced,) = struct.unpack_from("<I", data, 4)
    announced += 8
    if len(data) < announced:
        raise cut_off("WebP", f"it should have {announced:,} bytes")
    width, height = _canvas(bytes(data[12:30]))
    check_pixels(width, height, options)
    position, frames, others = 12, 0, 0
    while position + _CHUNK.size <= announced:
        name, length = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        if name == b"ANMF":
            frames += 1
            check_frames(frames, options)
            position += _FRAME_HEADER_BYTES
        else:
            others += 1
            check_parts(others - _CHUNKS_PER_FRAME * frames, "WebP", "chunks beside its frames", MAX_PARTS)
            position += length + length % 2
    pixels = width * height
    memory = BYTES_PER_PIXEL * pixels
    return Structure(
        frames=max(1, frames),
        pixels=pixels,
        parse_bytes=PARSE_COPIES * len(data),
        first=Decoding(memory, pixels),
        every=Decoding(memory, max(1, frames) * pixels),
    )


def _canvas(chunk: bytes) -> tuple[int, int]:
    """Read the size of the picture from the beginning of the first chunk."""
    name, body = chunk[:4], chunk[8:]
    if name == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if name == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise damaged("WebP", "its size is missing")
