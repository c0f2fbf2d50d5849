"""The boxes of an AVIF, and the AV1 streams of the pictures and tracks in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from prefect_fanout.tasks.images.formats.av1 import Stream
from prefect_fanout.tasks.images.formats.structure import (
    MAX_EXIF_BYTES,
    Data,
    Decoding,
    Structure,
    check_frames,
    check_parts,
    check_pixels,
    damaged,
)
from prefect_fanout.tasks.images.options import ImageOptions

BYTES_PER_PIXEL = 13
"""Measured: 9.4 with 4:2:0, 11.1 with 4:4:4, 13.5 with 4:4:4 and alpha: dav1d's frame, and the picture three times."""
DEEP_BYTES_PER_PIXEL = 18
"""Measured with 10 and 12 bits a channel: 11.2 to 17.6."""
FRAMES_HELD = 4
"""Times as much for several frames, of which dav1d keeps eight. Measured: 21 (4:2:0) to 41 (4:4:4 and alpha)."""
PARSE_COPIES = 3
"""Copies of the file: read, its pictures joined where they lie in pieces, and its metadata."""
MAX_TABLE_BYTES = 64 * 1024
"""Length of a table of items. libavif looks each item up in a list: 60,000 took it ten seconds. The largest pictures
have some hundred."""

_TABLES = frozenset({b"iloc", b"iinf", b"iref", b"ipma", b"grpl"})
_PARENTS = {
    **dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iprp", b"ipco"), 0),
    b"meta": 4,
    b"stsd": 8,
    b"av01": 78,
}
"""Boxes that hold boxes, and the bytes before the first."""
_TRACK_TABLES = frozenset({b"stsz", b"stsc", b"stco", b"co64"})


@dataclass(slots=True)
class _Item:
    """The place of one item: pieces by position and length, in the file or in the box for small items."""

    number: int
    inline: bool
    pieces: list[tuple[int, int]]


@dataclass(slots=True)
class _Boxes:
    """The boxes that matter, by the positions of their bodies.

    Attributes:
        parts: Boxes in all.
        canvas: Pixels of the largest picture or track.
        deep: Whether a picture has more than 8 bits a channel.
        kinds: Numbers of the items by kind.
        items: Places of all items.
        inline: Position of the small items.
        tracks: Tables of each track by kind; `av01` is there for a track of pictures.
    """

    parts: int = 0
    canvas: int = 0
    deep: bool = False
    kinds: dict[bytes, set[int]] = field(default_factory=dict)
    items: list[_Item] = field(default_factory=list)
    inline: int = 0
    tracks: list[dict[bytes, int]] = field(default_factory=list)


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk all boxes, and the AV1 units of all pictures and samples.

    Source: ISO/IEC 14496-12, "ISO base media file format", and 23008-12, "Image file format", as libavif reads them.

    Raises:
        ContentError: The file is beyond a limit, or contradicts itself.
    """
    found = _Boxes()
    try:
        _read_boxes(data, 0, len(data), found, options)
        pictures, units = _pictures(data, found, options)
        tracks, first_samples = _tracks(data, found, options, units)
    except (struct.error, IndexError, KeyError):
        raise damaged("AVIF", "a table is missing or not whole") from None
    streams = [*pictures, *tracks]
    pixels = max(found.canvas, sum(stream.pixels for stream in streams) // 2)  # half of them hold the transparency
    memory = pixels * (DEEP_BYTES_PER_PIXEL if found.deep else BYTES_PER_PIXEL)
    first = [(stream.frames, stream.passes) for stream in pictures] + first_samples
    every = [(stream.frames, stream.passes) for stream in streams]
    return Structure(
        frames=max([1, *(frames for frames, _ in every)]),
        pixels=pixels,
        parse_bytes=PARSE_COPIES * len(data),
        first=_decoding(memory, first),
        every=_decoding(memory, every),
    )


def _decoding(memory_bytes: int, streams: list[tuple[int, int]]) -> Decoding:
    """Return the effort for streams with so many frames and passes."""
    held = FRAMES_HELD if any(frames > 1 for frames, _ in streams) else 1
    return Decoding(held * memory_bytes, sum(passes for _, passes in streams))


def _read_boxes(data: Data, begin: int, end: int, found: _Boxes, options: ImageOptions) -> None:
    """Note the boxes from one position to another, and those inside them."""
    for kind, body, stop in _children(data, begin, end, found):
        if kind in _TABLES and stop - body > MAX_TABLE_BYTES:
            raise damaged("AVIF", "a table of items is longer than any real one")
        if kind == b"iinf":
            for _, item, _ in _children(data, body + (6 if data[body] == 0 else 8), stop, found):
                wide = data[item] >= 3
                number = int.from_bytes(data[item + 4 : item + (8 if wide else 6)])
                at = item + (10 if wide else 8)
                found.kinds.setdefault(bytes(data[at : at + 4]), set()).add(number)
        elif kind == b"iloc":
            found.items += _locations(data, body)
        elif kind == b"idat":
            found.inline = body
        elif kind == b"av1C":
            found.deep |= data[body + 2] & 0x40 != 0
        elif kind in (b"ispe", b"tkhd"):
            at = body + 4 if kind == b"ispe" else body + (88 if data[body] == 1 else 76)
            width, height = struct.unpack_from(">II", data, at)
            if kind == b"tkhd":
                width, height = width >> 16, height >> 16
            check_pixels(width, height, options)
            found.canvas = max(found.canvas, width * height)
        elif kind == b"trak":
            found.tracks.append({})
        elif found.tracks and (kind in _TRACK_TABLES or kind == b"av01"):
            found.tracks[-1][kind] = body
        if kind in _PARENTS:
            _read_boxes(data, body + _PARENTS[kind], stop, found, options)


def _children(data: Data, begin: int, end: int, found: _Boxes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position of the body and end of each box in a row."""
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        body = begin + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = begin + size if size else end
        if stop < body:
            raise damaged("AVIF", f"box {kind!r} is shorter than its header")
        found.parts += 1
        check_parts(found.parts, "AVIF", "boxes")
        yield kind, body, min(stop, end)
        begin = stop


def _locations(data: Data, body: int) -> list[_Item]:
    """Read the places of all items."""
    version = data[body]
    offset_bytes, length_bytes = data[body + 4] >> 4, data[body + 4] & 15
    base_bytes, index_bytes = data[body + 5] >> 4, data[body + 5] & 15 if version else 0
    at = body + 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise IndexError
        return int.from_bytes(data[at - size : at])

    items: list[_Item] = []
    pieces = 0
    for _ in range(number(4 if version == 2 else 2)):
        item = _Item(number(4 if version == 2 else 2), bool(version and number(2) & 15), [])
        number(2)  # the file that it lies in: this one
        base = number(base_bytes)
        for _ in range(number(2)):
            number(index_bytes)
            item.pieces.append((base + number(offset_bytes), number(length_bytes)))
            pieces += 1
            check_parts(pieces, "AVIF", "pieces of pictures")
        items.append(item)
    return items


def _pictures(data: Data, found: _Boxes, options: ImageOptions) -> tuple[list[Stream], int]:
    """Read the streams of all pictures; return them and the number of their units."""
    streams: list[Stream] = []
    units = length = 0
    for item in found.items:
        size = sum(size for _, size in item.pieces)
        if item.number in found.kinds.get(b"Exif", ()) and size > MAX_EXIF_BYTES:
            raise damaged("AVIF", "more Exif data than any real one has")
        if item.number not in found.kinds.get(b"av01", ()):
            continue
        length += size
        if length > 2 * len(data):
            # Of a file that is cut, or one whose pictures share their bytes many times over.
            raise damaged("AVIF", "its pictures have more bytes than the file")
        base = found.inline if item.inline else 0
        pieces = [(min(base + at, len(data)), min(base + at + size, len(data))) for at, size in item.pieces]
        streams.append(Stream(options))
        if len(pieces) == 1:
            units = streams[-1].read(data, *pieces[0], units)
        else:
            joined = b"".join(data[begin:end] for begin, end in pieces)
            units = streams[-1].read(joined, 0, len(joined), units)
    return streams, units


def _tracks(data: Data, found: _Boxes, options: ImageOptions, units: int) -> tuple[list[Stream], list[tuple[int, int]]]:
    """Read the streams of all tracks; return them, and frames and passes of the first sample of each."""
    streams: list[Stream] = []
    first: list[tuple[int, int]] = []
    for tables in found.tracks:
        if b"av01" not in tables:
            continue
        stream = Stream(options)
        for number, (at, size) in enumerate(_samples(data, tables)):
            check_frames(number + 1, options)
            units = stream.read(data, min(at, len(data)), min(at + size, len(data)), units + 1)
            if number == 0:
                first.append((stream.frames, stream.passes))
        streams.append(stream)
    return streams, first


def _samples(data: Data, tables: dict[bytes, int]) -> Iterator[tuple[int, int]]:
    """Yield position and length of the samples of a track."""
    size, count = struct.unpack_from(">II", data, tables[b"stsz"] + 4)
    chunk, form = (tables[b"stco"], ">I") if b"stco" in tables else (tables[b"co64"], ">Q")
    runs, run, number = tables[b"stsc"], 0, 0
    (chunks,) = struct.unpack_from(">I", data, chunk + 4)
    (run_count,) = struct.unpack_from(">I", data, runs + 4)
    for index in range(chunks):
        while run < run_count and struct.unpack_from(">I", data, runs + 8 + 12 * run)[0] <= index + 1:
            run += 1
        in_chunk = struct.unpack_from(">I", data, runs + 12 * run)[0] if run else 0
        if in_chunk == 0:
            raise damaged("AVIF", "a chunk of samples is empty")
        (at,) = struct.unpack_from(form, data, chunk + 8 + index * struct.calcsize(form))
        for _ in range(in_chunk):
            if size == 0 and number >= count:
                return
            length = size or struct.unpack_from(">I", data, tables[b"stsz"] + 12 + 4 * number)[0]
            yield at, length
            at += length
            number += 1
