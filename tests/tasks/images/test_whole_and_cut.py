"""Files of every kind: whole ones are kept and cut ones are found, at both levels of verification."""

from __future__ import annotations

import functools
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prefect_fanout.tasks.images.checks import inspect
from prefect_fanout.tasks.images.formats.structure import ContentError
from prefect_fanout.tasks.images.options import DEFAULT_FORMATS, ImageOptions
from servers.pictures import (
    animation,
    gif_of_frames,
    gif_with,
    jpeg_with,
    multi_picture,
    picture,
    png_chunk,
    png_with,
    refusal_of,
    webp_with,
)

BOTH = [
    pytest.param(ImageOptions(verify=verify, formats=frozenset({*DEFAULT_FORMATS, "TIFF"})), id=verify)
    for verify in ("header", "full")
]
LIMITS = ("too_many_pixels", "too_many_frames")
BIG, SMALL = (160, 120), (40, 30)


def saved(format: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """A picture of noise in one of Pillow's modes."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture("PNG", size))).convert(mode).save(out, format, **options)
    return out.getvalue()


def exif(orientation: int = 6) -> Image.Exif:
    """Exif data as cameras write it, with a thumbnail of its own behind the directories."""
    data = Image.Exif()
    data[0x0112] = orientation
    data[0x010F] = "Camera"
    data[0x011A] = 72.0
    return data


def jpeg_with_thumbnail() -> bytes:
    """A JPEG whose Exif segment holds a whole JPEG."""
    return jpeg_with((0xE1, b"Exif\0\0" + exif().tobytes() + picture(size=SMALL)))


def gain_map(**changes: Any) -> bytes:
    """A photo with a grey picture of half its size behind it."""
    return multi_picture(picture(size=BIG), saved("JPEG", "L", (80, 60), quality=95), **changes)


def dropped_gain_map() -> bytes:
    """The same photo after an editor that keeps the segments and drops whatever is appended."""
    whole = gain_map()
    return whole[: whole.rindex(b"\xff\xd8\xff")]


def moved_gain_map() -> bytes:
    """The same photo after an editor that writes a longer comment and leaves the index as it was."""
    whole = gain_map()
    begin = whole.index(b"\xff\xdb")
    return whole[:begin] + b"\xff\xfe\0\x12" + b"edited by hand.." + whole[begin:]


def film(seed: int = 3, size: int = 400_000) -> bytes:
    """Random bytes, which hold what looks like the scans and the end of a JPEG."""
    data = bytearray(random.Random(seed).randbytes(size))
    for at in range(0, size, 1_000):
        data[at : at + 2] = b"\xff\xda"
    return bytes(data)


def gif_with_large_frame() -> bytes:
    """A GIF whose second frame is larger than its screen, which Pillow and browsers show."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 3, 3, 0) + b"\x02\x02\x4c\x01\x00"
    return gif_of_frames(1)[:-1] + frame[:5] + struct.pack("<HHB", 1, 1, 0) + frame[10:] + b";"


def gif_xmp() -> bytes:
    """The extension for XMP: text that is no row of blocks, and a tail that leads every reading of it to its end."""
    tail = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    return b"!\xff\x0bXMP DataXMP" + b"<x:xmpmeta>" * 50 + tail


def bmp(width: int, height: int, body: bytes, compression: int = 0, core: bool = False) -> bytes:
    """A BMP of 8 bits a pixel that Pillow does not write."""
    header = (
        struct.pack("<IHHHH", 12, width, height, 1, 8)
        if core
        else struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(body), 0, 0, 256, 0)
    )
    palette = bytes(range(256)) * (3 if core else 4)
    begin = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", begin + len(body), 0, 0, begin) + header + palette + body


def tiff_of_jpeg() -> bytes:
    """A TIFF with its directory in front and a JPEG behind, as map servers write them."""
    data = saved("TIFF", compression="jpeg")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = data[at + 2 : at + 2 + 12 * count]
    tables = next(
        struct.unpack_from("<HHII", entries, i)[2:]
        for i in range(0, len(entries), 12)
        if entries[i : i + 2] == b"\x5b\x01"
    )
    moved = 2 + len(entries) + 4 + tables[0] + 6
    head = bytearray()
    for index in range(0, len(entries), 12):
        tag, kind, values, value = struct.unpack_from("<HHII", entries, index)
        size = values * {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
        if tag == 273:
            value += moved
        elif tag == 258:
            value = 8 + 2 + len(entries) + 4 + tables[0]
        elif tag == 347:
            value = 8 + 2 + len(entries) + 4
        elif size > 4:
            value += moved
        head += struct.pack("<HHII", tag, kind, values, value)
    directory = struct.pack("<H", count) + bytes(head) + struct.pack("<I", 0)
    return (
        data[:4]
        + struct.pack("<I", 8)
        + directory
        + data[tables[1] : tables[1] + tables[0]]
        + b"\x08\0" * 3
        + data[8:at]
    )


WHOLE: dict[str, Callable[[], bytes]] = {
    "jpeg": picture,
    "jpeg progressive": lambda: picture(progressive=True),
    "jpeg grey": lambda: saved("JPEG", "L"),
    "jpeg cmyk": lambda: saved("JPEG", "CMYK"),
    "jpeg with restarts": lambda: picture(restart_marker_blocks=1),
    "jpeg with profile": lambda: picture(icc_profile=b"p" * 200_000),
    "jpeg with comment": lambda: picture(comment=b"hello"),
    "jpeg with a thumbnail": jpeg_with_thumbnail,
    "jpeg with fill bytes": lambda: picture().replace(b"\xff\xdb", b"\xff\xff\xff\xff\xdb"),
    "jpeg with junk between segments": lambda: picture().replace(b"\xff\xdb", b"junk\0\xff\0\xff\xdb"),
    "jpeg with junk behind": lambda: picture() + b"junk" * 999,
    "jpeg with a film behind": lambda: picture() + film(),
    "jpeg with a picture behind": lambda: picture() + picture(seed=1),
    "mpo": lambda: animation("MPO", 3),
    "mpo of cameras": lambda: multi_picture(picture(), picture(size=BIG), order=">", gap=b"\0" * 300),
    "mpo with junk behind": lambda: multi_picture(picture(), picture(seed=1)) + b"junk" * 999,
    "gain map": gain_map,
    "gain map, dropped": dropped_gain_map,
    "gain map, moved": moved_gain_map,
    "png": lambda: picture("PNG"),
    "png with 16 bits": lambda: saved("PNG", "I;16"),
    "png with palette": lambda: saved("PNG", "P"),
    "png with texts": lambda: png_with((b"tEXt", b"a\0b"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")),
    "png with profile": lambda: picture("PNG", icc_profile=b"p" * 3_000),
    "png with junk behind": lambda: picture("PNG") + b"junk" * 999,
    "png of empty data chunks": lambda: picture("PNG").replace(
        png_chunk(b"IEND"), png_chunk(b"IDAT") + png_chunk(b"IEND")
    ),
    "apng": lambda: animation("PNG"),
    "apng with default image": lambda: animation("PNG", default_image=True),
    "gif": lambda: picture("GIF"),
    "gif of 1987": lambda: gif_of_frames(1).replace(b"GIF89a", b"GIF87a"),
    "gif without trailer": lambda: picture("GIF")[:-1],
    "gif animated": lambda: animation("GIF", duration=40, loop=0),
    "gif with disposal": lambda: animation("GIF", disposal=2),
    "gif of tiny frames": lambda: gif_of_frames(50),
    "gif with comment": lambda: animation("GIF", 2, comment=b"hello"),
    "gif with empty comment": lambda: gif_with(b"!\xfe\0"),
    "gif with xmp": lambda: gif_with(gif_xmp()),
    "gif with zeros between blocks": lambda: gif_with(b"\0\0\0"),
    "gif with a comment behind": lambda: picture("GIF") + b"!\xfe\x05hello\0",
    "gif with junk behind": lambda: animation("GIF", 3) + b"junk" * 999,
    "gif with a frame outside": gif_with_large_frame,
    "webp": lambda: picture("WEBP"),
    "webp lossless": lambda: picture("WEBP", lossless=True),
    "webp with alpha": lambda: saved("WEBP", "RGBA"),
    "webp with metadata": lambda: picture("WEBP", exif=exif(), icc_profile=b"p" * 999, xmp=b"<x/>"),
    "webp with unknown chunks": lambda: webp_with((b"abcd", b"odd"), (b"efgh", b"")),
    "webp animated": lambda: animation("WEBP", duration=40),
    "webp with junk behind": lambda: picture("WEBP") + b"junk" * 999,
    "avif": lambda: picture("AVIF"),
    "avif with alpha": lambda: saved("AVIF", "RGBA"),
    "avif of odd size": lambda: picture("AVIF", (31, 17)),
    "avif with metadata": lambda: picture("AVIF", exif=exif(), icc_profile=b"p" * 9_000, xmp=b"<x/>"),
    "avif grey": lambda: saved("AVIF", "L"),
    "avif animated": lambda: animation("AVIF", duration=40),
    "bmp": lambda: picture("BMP"),
    "bmp with palette": lambda: saved("BMP", "P"),
    "bmp of two colours": lambda: saved("BMP", "1"),
    "bmp upside down": lambda: bmp(4, -2, b"\1\2\3\4" * 2),
    "bmp with core header": lambda: bmp(4, 2, b"\1\2\3\4" * 2, core=True),
    "bmp of run lengths": lambda: bmp(4, 2, b"\4\1\0\0\4\2\0\1", compression=1),
    "bmp with junk behind": lambda: picture("BMP") + b"junk" * 999,
    "tiff": lambda: picture("TIFF"),
    "tiff lzw": lambda: picture("TIFF", compression="tiff_lzw"),
    "tiff jpeg": lambda: picture("TIFF", compression="jpeg"),
    "tiff jpeg, directory first": tiff_of_jpeg,
    "tiff fax": lambda: saved("TIFF", "1", compression="group4"),
    "tiff big": lambda: picture("TIFF", big_tiff=True),
    "tiff turned": lambda: picture("TIFF", exif=exif()),
    "tiff of pages": lambda: animation("TIFF"),
    "tiff of compressed pages": lambda: animation("TIFF", compression="tiff_deflate"),
}


@functools.cache
def whole(kind: str) -> bytes:
    """The bytes of a whole file."""
    return WHOLE[kind]()


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_file_is_kept(options: ImageOptions, kind: str, tmp_path: Path) -> None:
    """A whole file of any kind is kept at both levels, from memory as from a disk."""
    facts = inspect(io.BytesIO(whole(kind)), options)
    path = tmp_path / "whole"
    path.write_bytes(whole(kind))
    with path.open("rb") as file:
        assert inspect(file, options) == facts
        assert not file.closed
    with Image.open(path) as image:
        assert (facts.width, facts.height) == image.size


@pytest.mark.parametrize("options", BOTH)
@pytest.mark.parametrize(
    "kind",
    [
        *("gif animated", "gif with disposal", "gif of tiny frames", "gif with comment", "gif"),
        *("mpo", "mpo of cameras", "gain map", "jpeg", "jpeg progressive", "jpeg with a thumbnail"),
        *("apng", "apng with default image", "png", "webp", "webp lossless", "webp with metadata", "webp animated"),
        *("avif", "avif with alpha", "avif with metadata", "avif animated", "bmp", "bmp with palette"),
        *("tiff", "tiff lzw", "tiff jpeg", "tiff jpeg, directory first", "tiff big"),
        *("tiff of pages", "tiff of compressed pages"),
    ],
)
def test_a_cut_is_found_in_every_frame(options: ImageOptions, kind: str) -> None:
    """Wherever a file of one or more frames is cut, the cut is found."""
    data = whole(kind)
    refusals = {
        part: refusal_of(data[: int(len(data) * part / 100)], options) for part in (*range(5, 100, 5), 99, 99.9)
    }
    assert set(refusals.values()) <= {"decode_error", "not_an_image"}, refusals


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_ends_a_walk_otherwise(data: st.DataObject) -> None:
    """Files of all kinds that are cut, damaged or put together end with facts or with a ContentError."""
    kind = data.draw(st.sampled_from(sorted(WHOLE)))
    bytes_ = bytearray(whole(kind))
    for _ in range(data.draw(st.integers(0, 3))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    begin = data.draw(st.integers(0, len(bytes_)))
    end = data.draw(st.integers(begin, len(bytes_)))
    for damaged in bytes_[:end], bytes_[:begin] + bytes_[end:]:
        assert refusal_of(bytes(damaged), BOTH[0].values[0]) in (None, "decode_error", "not_an_image", *LIMITS)


def damaged_at_the_end(format: str) -> bytes:
    """An animation, several pages or several pictures, the last of which begins with rubbish."""
    if format == "JPEG":
        last = bytearray(picture(size=BIG))
        tables = last.index(b"\xff\xc4") + 5
        last[tables : tables + 16] = b"\xff" * 16
        return multi_picture(picture(), bytes(last))
    saving: dict[str, dict[str, Any]] = {"TIFF": {"compression": "tiff_deflate"}, "WEBP": {"lossless": True}}
    data = bytearray(animation(format, 3, **saving.get(format, {})))
    sizes = data.find(b"stsz")
    at = {
        "GIF": data.rfind(struct.pack("<HHB", 64, 48, 0x87)) + 5 + 768 + 2,  # behind the colours, in the first block
        "WEBP": data.rfind(b"VP8L") + 13,
        "AVIF": len(data) - int.from_bytes(data[sizes + 24 : sizes + 28]) if sizes > 0 else 0,
        "TIFF": len(data) - 1_000,
    }[format]
    data[at : at + 200] = b"\xff" * 200
    return bytes(data)


@pytest.mark.parametrize(
    ("format", "kept"), [("GIF", True), ("WEBP", True), ("AVIF", True), ("JPEG", True), ("TIFF", False)]
)
def test_damage_in_the_last_frame_is_found_by_decoding_all(format: str, kept: bool) -> None:
    """verify="full" decodes every frame; "header" does so for TIFF only."""
    header, full = (case.values[0] for case in BOTH)
    with pytest.raises(ContentError) as caught:
        inspect(io.BytesIO(damaged_at_the_end(format)), full)
    assert caught.value.kind == "decode_error"
    if kept:
        assert inspect(io.BytesIO(damaged_at_the_end(format)), header).format == format
    else:
        with pytest.raises(ContentError):
            inspect(io.BytesIO(damaged_at_the_end(format)), header)
