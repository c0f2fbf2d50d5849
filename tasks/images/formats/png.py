"""The chunks of a PNG, to the last, with their checksums."""

from __future__ import annotations

import re
import struct
import zlib

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
    max_pieces,
)
from prefect_fanout.tasks.images.options import ImageOptions

BYTES_PER_PIXEL = 4
"""Measured: 4.0, of any depth."""
ANIMATED_BYTES_PER_PIXEL = 16
"""Measured: 12 to 16; Pillow keeps the frame, the one before, a part to restore and a copy in RGBA."""
PARSE_COPIES = 8
"""Copies of a chunk that Pillow makes of a text: read, split and decoded, with 4 bytes a character."""
MAX_COMPRESSED = 1_000
"""Chunks that Pillow decompresses when it opens the file, up to 1 MiB each: 10,000 took it two minutes. Real files have
some dozen."""

_CHUNK = struct.Struct(">I4s")
_NAME = re.compile(rb"\w{4}")
_PICTURE_DATA = frozenset({b"IDAT", b"fdAT"})
_COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})
_AROUND = 12
"""Bytes of a chunk around its data: length, name, checksum."""


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk all chunks to IEND and check the checksum of each.

    Source: "Portable Network Graphics (PNG) Specification (Third Edition)", chapters 5 and 11.

    Raises:
        ContentError: The file is cut or damaged, or beyond a limit.
    """
    size: tuple[int, int] | None = None
    position, others, compressed, kept, frames, pieces = 8, 0, 0, 0, 0, 0
    most_pieces = max_pieces(data)
    with memoryview(data) as view:
        while True:
            if position + _CHUNK.size > len(data):
                raise cut_off("PNG", "its last chunk is missing")
            length, name = _CHUNK.unpack_from(data, position)
            if not _NAME.fullmatch(name):
                raise damaged("PNG", f"chunk {name!r}")
            if name == b"IEND":
                break
            end = position + _AROUND + length
            if end > len(data):
                raise cut_off("PNG", f"its chunk {name.decode()} is not whole")
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                raise damaged("PNG", f"the checksum of chunk {name.decode()} is wrong")
            if name == b"IHDR":
                if size is not None or length < 8:
                    raise damaged("PNG", "its header is wrong or there twice")
                size = struct.unpack_from(">II", data, position + 8)
                check_pixels(*size, options)
            elif name == b"fcTL":
                frames += 1
                check_frames(frames, options)
            elif name in _PICTURE_DATA:
                pieces += 1
                if pieces > most_pieces:
                    raise damaged("PNG", "more and smaller chunks than any real one has")
            else:
                others += 1
                kept += length
                compressed += name in _COMPRESSED
                check_parts(others, "PNG", "chunks beside its picture data", MAX_PARTS)
                check_parts(compressed, "PNG", "compressed texts and profiles", MAX_COMPRESSED)
            position = end
    if size is None:
        raise damaged("PNG", "its header is missing")
    pixels = size[0] * size[1]
    return Structure(
        frames=max(1, frames),
        pixels=pixels,
        parse_bytes=PARSE_COPIES * kept,
        first=Decoding(BYTES_PER_PIXEL * pixels, pixels),
        every=Decoding((ANIMATED_BYTES_PER_PIXEL if frames > 1 else BYTES_PER_PIXEL) * pixels, (frames + 1) * pixels),
    )
