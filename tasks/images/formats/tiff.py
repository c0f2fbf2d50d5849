"""The directories of a TIFF: those of its pages, and the Exif directories that Pillow reads with them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

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

BYTES_PER_PIXEL = 12
"""Measured: 4 in most cases, 8 where Exif data says that the picture is turned or where one strip is all of it; both
can be."""
MAX_ENTRIES = 25 * MAX_PARTS
"""Directory entries of all pages: 25 for each of 10,000, which is about the usual number. Pillow reads each twice."""
MAX_NUMBER_BYTES = 4 * 1024 * 1024
"""Length of all numbers in the directories: positions of strips and tiles, tables of colours. 80 million pixels in the
smallest usual tiles need 3 MB."""
BYTES_PER_NUMBER_BYTE = 30
"""Measured: Pillow makes an object of 250 bytes of the 8 of a fraction, and 40 of the 4 of an integer."""

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_EXIF_DIRECTORIES = (34665, 34853, 40965)
"""Tags that point to the Exif, GPS and interoperability directories."""
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q"}
_NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""By type; bytes and texts stay as they are."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Byte order and width of the numbers: `order` is that of `struct`, `big` says whether the file is a BigTIFF."""

    order: str
    big: bool


@dataclass(slots=True)
class _Directory:
    """One directory.

    Attributes:
        entries: Entries that could be read.
        number_bytes: Length of the values that become Python numbers.
        first: First value by tag, where it is an integer. Of a tag that is there twice, the largest.
        next: Position of the next page's directory, 0 after the last, None where the file ends before it.
    """

    entries: int
    number_bytes: int
    first: dict[int, int]
    next: int | None


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk the directories of all pages, as Pillow reads them.

    Source: "TIFF, Revision 6.0", section 2; Pillow's TiffImagePlugin for BigTIFF and for odd byte orders.

    Raises:
        ContentError: The file is cut, or beyond a limit.
    """
    layout = _Layout("<" if data[:2] == b"II" else ">", data[2] == 43)
    seen: set[int] = set()
    pixels: list[int] = []
    largest = entries = numbers = 0
    try:
        (at,) = struct.unpack_from(layout.order + ("Q" if layout.big else "I"), data, 8 if layout.big else 4)
        while at and at not in seen:
            seen.add(at)
            page = _directory(data, at, layout)
            if page.next is None:
                raise cut_off("TIFF", "a directory is not whole")
            size = (page.first.get(_WIDTH, 0), page.first.get(_HEIGHT, 0))
            tile = (page.first.get(_TILE_WIDTH, 0), page.first.get(_TILE_HEIGHT, 0))
            check_pixels(*size, options)
            check_pixels(*tile, options)
            pixels.append(size[0] * size[1])
            check_frames(len(pixels), options)
            largest = max(largest, pixels[-1], tile[0] * tile[1])
            for directory in [page, *_exif_directories(data, page, layout)]:
                entries += directory.entries
                numbers += directory.number_bytes
            check_parts(entries, "TIFF", "directory entries", MAX_ENTRIES)
            if numbers > MAX_NUMBER_BYTES:
                raise damaged("TIFF", "more numbers in its directories than any real one has")
            at = page.next
    except struct.error:
        raise cut_off("TIFF", "a directory is missing") from None
    if not pixels:
        raise damaged("TIFF", "it holds no page")
    return Structure(
        frames=len(pixels),
        pixels=largest,
        parse_bytes=BYTES_PER_NUMBER_BYTE * numbers,
        first=Decoding(BYTES_PER_PIXEL * largest, pixels[0]),
        every=Decoding(BYTES_PER_PIXEL * largest, sum(pixels)),
    )


def _directory(data: Data, at: int, layout: _Layout) -> _Directory:
    """Read one directory, as far as the file goes.

    Raises:
        struct.error: Not even the number of its entries is there.
        ContentError: It has too many.
    """
    head, entry, link = (
        struct.Struct(layout.order + form) for form in (("Q", "HHQ8s", "Q") if layout.big else ("H", "HHI4s", "I"))
    )
    (count,) = head.unpack_from(data, at)
    at += head.size
    check_parts(count, "TIFF", "directory entries", MAX_ENTRIES)
    found = _Directory(min(count, (len(data) - at) // entry.size), 0, {}, None)
    for _ in range(found.entries):
        tag, kind, values, inline = entry.unpack_from(data, at)
        length = values * _NUMBER_BYTES.get(kind, 0)
        where = at + entry.size - len(inline)
        if length > len(inline):
            (where,) = link.unpack(inline)
        at += entry.size
        if not 0 < length <= len(data) - where:
            continue  # Pillow leaves such a tag out
        found.number_bytes += length
        if kind in _INTEGERS:
            (value,) = struct.unpack_from(layout.order + _INTEGERS[kind], data, where)
            found.first[tag] = max(value, found.first.get(tag, 0))
    if found.entries == count and at + link.size <= len(data):
        (found.next,) = link.unpack_from(data, at)
    return found


def _exif_directories(data: Data, page: _Directory, layout: _Layout) -> list[_Directory]:
    """Read the directories that a page points to, and those that these point to; Pillow copes with broken ones."""
    found: list[_Directory] = []
    waiting = [page]
    for directory in waiting:
        for tag in _EXIF_DIRECTORIES:
            if tag in directory.first and len(found) < len(_EXIF_DIRECTORIES):
                try:
                    found.append(_directory(data, directory.first[tag], layout))
                except struct.error:
                    continue
                waiting.append(found[-1])
    return found
