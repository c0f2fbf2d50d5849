"""Small pictures in every format, whole and damaged."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from prefect_fanout.tasks.images.checks import inspect
from prefect_fanout.tasks.images.formats.structure import ContentError
from prefect_fanout.tasks.images.options import ImageOptions


def refusal_of(data: bytes, options: ImageOptions) -> str | None:
    """The kind under which some bytes are refused, or None when they are kept."""
    try:
        inspect(io.BytesIO(data), options)
    except ContentError as error:
        return error.kind
    return None


def picture(format: str = "JPEG", size: tuple[int, int] = (64, 48), seed: int = 0, **options: object) -> bytes:
    """A picture of noise (so that it does not compress to nothing)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size in its header and holds almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND")


def animation(format: str, count: int = 12, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """An animation, or a file of several pages or pictures, of different noise."""
    frames = [Image.open(io.BytesIO(picture("PNG", size, seed=seed))) for seed in range(count)]
    out = io.BytesIO()
    frames[0].save(out, format, save_all=True, append_images=frames[1:], **options)
    return out.getvalue()


def jpeg_with(*segments: tuple[int, bytes], picture_bytes: bytes | None = None) -> bytes:
    """A JPEG with further segments at its beginning, each a code and its data."""
    data = picture_bytes or picture()
    added = b"".join(b"\xff" + struct.pack(">BH", code, len(body) + 2) + body for code, body in segments)
    return data[:2] + added + data[2:]


def multi_picture(*pictures: bytes, order: str = "<", gap: bytes = b"") -> bytes:
    """JPEGs one behind the other, listed in the index of the first, as cameras write them and gain maps are stored."""
    base = 2 + 4 + 4  # the mark of the byte order stands behind the code, the length and "MPF"
    entries_at = 8 + 2 + 3 * 12 + 4
    at = 2 + 2 + 2 + 4 + entries_at + 16 * len(pictures) + len(pictures[0]) - 2
    entries = struct.pack(f"{order}IIIHH", 0x030000, at, 0, 0, 0)
    for data in pictures[1:]:
        at += len(gap)
        entries += struct.pack(f"{order}IIIHH", 0, len(data), at - base, 0, 0)
        at += len(data)
    index = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 3)
    index += struct.pack(f"{order}HHI4s", 0xB000, 7, 4, b"0100")
    index += struct.pack(f"{order}HHII", 0xB001, 4, 1, len(pictures))
    index += struct.pack(f"{order}HHIII", 0xB002, 7, len(entries), entries_at, 0)
    return gap.join([jpeg_with((0xE2, b"MPF\0" + index + entries), picture_bytes=pictures[0]), *pictures[1:]])


def png_with(*chunks: tuple[bytes, bytes], picture_bytes: bytes | None = None) -> bytes:
    """A PNG with further chunks behind its header, each a name and its data."""
    data = picture_bytes or picture("PNG")
    return data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:]


def png_chunk(name: bytes, data: bytes = b"") -> bytes:
    """One chunk, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def gif_with(*blocks: bytes, picture_bytes: bytes | None = None) -> bytes:
    """A GIF with further blocks before its first frame."""
    data = picture_bytes or picture("GIF")
    begin = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    return data[:begin] + b"".join(blocks) + data[begin:]


def webp_with(*chunks: tuple[bytes, bytes], canvas: tuple[int, int] = (64, 48)) -> bytes:
    """A WebP of the extended kind that announces any size, with further chunks at its end."""
    width, height = ((side - 1).to_bytes(3, "little") for side in canvas)
    extended = b"VP8X" + struct.pack("<I4x", 10) + width + height
    added = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    body = b"WEBP" + extended + picture("WEBP")[12:] + added
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_of_frames(count: int) -> bytes:
    """A GIF of so many frames of one pixel, 18 bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return head + frame * count + b"\x3b"
