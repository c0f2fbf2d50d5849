"""The segments of a JPEG before its first scan, and the further pictures that its multi-picture index lists."""

from __future__ import annotations

import itertools
import re
import struct
from typing import NamedTuple

from prefect_fanout.tasks.images.formats.structure import (
    MAX_EXIF_BYTES,
    MAX_PARTS,
    MAX_PASSES,
    MAX_SKIPPED_BYTES,
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

BYTES_PER_PIXEL = 8
"""Measured: 0.1 for one scan, but 3 to 8 where libjpeg keeps all coefficients (progressive: 3 with 4:2:0, 6 with
4:4:4, 8 with CMYK), and any file may have several scans."""
PARSE_COPIES = 4
"""Copies of the segments that Pillow keeps: the segment, its place in a list, and the profile or Exif data joined."""

_EOI, _SOS, _DQT, _APP1, _APP2 = 0xD9, 0xDA, 0xDB, 0xE1, 0xE2
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xDE}) - {0xC4, 0xC8, 0xCC}
_WITH_LENGTH = frozenset(range(0xC0, 0xFF)) - {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}
"""As Pillow has it: not JPG and JPG0 to JPG13, though they carry a length in the standard."""
_STEPPED_OVER = _WITH_LENGTH - _FRAME_HEADERS - {_SOS, _DQT, _APP1, _APP2}
_SEGMENT_BYTES = 65_535
MAX_PARSED_SEGMENTS = MAX_EXIF_BYTES // _SEGMENT_BYTES
"""Segments of Exif data, and of quantization tables, that Pillow goes through number by number. It joins those of Exif
data one by one: 10,000 short ones took it 25 seconds."""
_MPF_ENTRIES = 0xB002
_MAX_LISTED = 4_095
"""Pictures that an index of one segment can list."""

_SCAN = re.compile(b"\xff\xda")
_NOT_FILL = re.compile(rb"[^\xff]")
_ENTROPY_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker inside picture data: neither a stuffed byte nor a restart."""


class _Header(NamedTuple):
    """The segments of one picture up to its first scan.

    Attributes:
        start: Position of the picture.
        width: Pixels.
        height: Pixels.
        scan: Position of the first scan's data.
        parts: Segments so far, those of earlier pictures included.
        listing: Position of the multi-picture index, or 0.
    """

    start: int
    width: int
    height: int
    scan: int
    parts: int
    listing: int


def walk(data: Data, options: ImageOptions) -> Structure:
    """Walk the segments of all pictures and find the end of each.

    An appended picture counts when the multi-picture index lists it and a picture begins there. Editors that drop the
    appended pictures, or move them, leave the index as it was.

    Source: ITU-T T.81, annex B; CIPA DC-007, "Multi-Picture Format", chapter 5.

    Raises:
        ContentError: The file is cut, or beyond a limit.
    """
    first = _header(data, 0, 0)
    check_pixels(first.width, first.height, options)
    if not first.listing:
        return _structure(data, [first], options)
    headers = [first]
    for start in _listed(data, first):
        check_frames(len(headers) + 1, options)
        headers.append(_header(data, start, headers[-1].parts))
        check_pixels(headers[-1].width, headers[-1].height, options)
    return _structure(data, headers, options)


def _structure(data: Data, headers: list[_Header], options: ImageOptions) -> Structure:
    """Find the end of each picture; put together what was found."""
    largest = passes = metadata = 0
    end = len(data)
    for start, width, height, scan, _, _ in reversed(headers):
        # From the end, as cameras append whole films.
        if data.rfind(b"\xff\xd9", scan, end) < 0:
            raise cut_off("JPEG", "its end marker is missing")
        pixels = width * height
        largest = pixels if pixels > largest else largest
        metadata = scan - start if scan - start > metadata else metadata
        passes += pixels if options.verify == "header" else pixels * _scans(data, scan, end, pixels, options)
        end = start
    decoding = Decoding(BYTES_PER_PIXEL * largest, passes)
    starts = (0,) if len(headers) == 1 else tuple(header.start for header in headers)
    return Structure(len(headers), largest, PARSE_COPIES * metadata, decoding, decoding, starts)


def _header(data: Data, start: int, parts: int) -> _Header:
    """Walk from the start of a picture to its first scan, exactly as Pillow's parser goes, junk included.

    This runs for every JPEG, so the segments that are only stepped over come first.
    """
    position, code = start + 2, 0
    width = skipped = listing = exif = tables = 0
    height = -1
    try:
        while code != _SOS:
            code = data[position + 1] if data[position] == 0xFF else 0xFF
            if code in _STEPPED_OVER:
                length = data[position + 2] << 8 | data[position + 3]
                position += 2 + length if length > 2 else 4
            elif code == 0xFF or code == 0:
                marker = _next_marker(data, position) if code else position + 2
                skipped += marker - position
                if skipped > MAX_SKIPPED_BYTES:
                    raise damaged("JPEG", "more junk before its picture than any real one has")
                position = marker
                continue
            elif code in _WITH_LENGTH:
                length = data[position + 2] << 8 | data[position + 3]
                if code in _FRAME_HEADERS:
                    if height >= 0 or length != 8 + 3 * data[position + 9]:
                        raise damaged("JPEG", "its frame header is wrong or there twice")
                    height, width = struct.unpack(">HH", data[position + 5 : position + 9])
                elif code == _APP1:
                    exif += data[position + 4 : position + 10] == b"Exif\0\0"
                    check_parts(exif, "JPEG", "segments of Exif data", MAX_PARSED_SEGMENTS)
                elif code == _APP2 and data[position + 4 : position + 8] == b"MPF\0":
                    listing = position + 8
                elif code == _DQT:
                    tables += 1
                    check_parts(tables, "JPEG", "segments of tables", MAX_PARSED_SEGMENTS)
                position += 2 + length if length > 2 else 4
            elif code >= 0xC0:
                position += 2
            else:
                raise damaged("JPEG", "no marker found")
            parts += 1
            if parts > MAX_PARTS:
                check_parts(parts, "JPEG", "segments before its picture")
    except IndexError:
        raise cut_off("JPEG", "it ends before its picture") from None
    return _Header(start, width, height, position, parts, listing)


def _next_marker(data: Data, position: int) -> int:
    """Return the position of the next marker, over junk and fill bytes.

    Raises:
        IndexError: There is none.
    """
    begin = data.find(b"\xff", position)
    match = _NOT_FILL.search(data, begin + 1) if begin >= 0 else None
    if match is None:
        raise IndexError
    return match.start() - 1


def _listed(data: Data, header: _Header) -> list[int]:
    """Return the positions of the appended pictures, in order, without those where no picture begins."""
    base = header.listing
    order = {b"II": "<", b"MM": ">"}.get(data[base : base + 2]) if base else None
    if order is None:
        return []
    try:
        (directory,) = struct.unpack_from(f"{order}I", data, base + 4)
        (count,) = struct.unpack_from(f"{order}H", data, base + directory)
        for number in range(min(count, _SEGMENT_BYTES // 12)):
            tag, _, length, offset = struct.unpack_from(f"{order}HHII", data, base + directory + 2 + 12 * number)
            if tag == _MPF_ENTRIES and length // 16 <= _MAX_LISTED:
                entries = range(base + offset + 16, base + offset + length // 16 * 16, 16)  # the first is this picture
                starts = {base + struct.unpack_from(f"{order}I", data, entry + 8)[0] for entry in entries}
                return sorted(at for at in starts if at > header.scan and data[at : at + 3] == b"\xff\xd8\xff")
    except struct.error:
        pass  # an index that leads out of the file lists nothing
    return []


def _scans(data: Data, position: int, end: int, pixels: int, options: ImageOptions) -> int:
    """Count the scans of a picture; each passes over all of its pixels.

    The two bytes that begin a scan can stand in a film behind the picture, too, so a high number is counted again
    marker by marker, which takes longer.
    """
    enough = min(MAX_PARTS, MAX_PASSES * options.max_pixels // max(1, pixels)) + 1
    scans = 1 + sum(1 for _ in itertools.islice(_SCAN.finditer(data, position, end), enough))
    if scans <= enough:
        return scans
    scans = 1
    while (match := _ENTROPY_END.search(data, position, end)) and (code := data[match.end() - 1]) != _EOI:
        position = match.end()
        scans += code == _SOS
        check_parts(scans, "JPEG", "scans")
        if code in _WITH_LENGTH:
            position += int.from_bytes(data[position : position + 2])
    return scans
