"""The pages of one Parquet column, by their headers alone: bytes, values and encodings.

The sizes in a file's footer are only claims. A decoder allocates as much as the page headers say, so these are read
before anything is decoded; the pages themselves are skipped.

Source: PageHeader in parquet.thrift of the Parquet format, in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # PageType
_DICTIONARY_ENCODINGS = frozenset({2, 8})  # PLAIN_DICTIONARY, RLE_DICTIONARY
_DELTA_BYTE_ARRAY = 7
# Types of the compact protocol that page headers are made of. Decoders skip a field of another type than the format's
# and cut integers to their width; both are done here too, or a header could say one thing here and another thing there.
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 12
_MAX_DEPTH = 4  # a header holds the header of its kind, which holds statistics
_MAX_VARINT_BYTES = 10  # 64 bits in groups of seven


class Content(StrEnum):
    """Content of a page: values, positions in the dictionary, the dictionary, or nothing that is decoded."""

    VALUES = "values"
    POSITIONS = "positions"
    DICTIONARY = "dictionary"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        content: Its content.
        stored_bytes: Bytes in the file, compressed.
        bytes: Bytes once it is decompressed.
        bytes_per_value: For VALUES, most bytes of a value once it is decoded, on average over the page; else 0.
    """

    content: Content
    stored_bytes: int
    bytes: int
    bytes_per_value: float = 0.0


def read_pages(file: IO[bytes], begin: int, end: int) -> Iterator[Page]:
    """Yield the pages between two positions of a file.

    Args:
        file: The Parquet file; its position moves.
        begin: Position of the first page header, in bytes.
        end: Position after the last page, in bytes.

    Raises:
        ValueError: There is something else than pages.
    """
    at = begin
    while at < end:
        file.seek(at)
        header = _read_struct(file)
        page = _page(header)
        yield page
        at = file.tell() + page.stored_bytes


def _page(header: dict[int, Any]) -> Page:
    try:
        kind, size, stored = header[1], header[2], header[3]
        if size < 0 or stored < 0:
            raise ValueError("a page has a negative size")
        if kind == _DICTIONARY:
            return Page(Content.DICTIONARY, stored, size)
        if kind not in (_DATA, _DATA_V2):
            return Page(Content.OTHER, stored, size)
        values, encoding = (header[5][1], header[5][2]) if kind == _DATA else (header[8][1], header[8][4])
    except (KeyError, TypeError) as error:
        raise ValueError("a page header lacks a field") from error
    if encoding in _DICTIONARY_ENCODINGS:
        return Page(Content.POSITIONS, stored, size)
    # Where a value is stored as its difference from the one before it, each may be as long as the whole page.
    count = 1 if encoding == _DELTA_BYTE_ARRAY else max(values, 1)
    return Page(Content.VALUES, stored, size, size / count)


def _read_struct(file: IO[bytes], depth: int = 0) -> dict[int, Any]:
    """Return the 32-bit integers and the structs of a Thrift struct by the number of their field; skip all others."""
    if depth > _MAX_DEPTH:
        raise ValueError("a page header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = _read_byte(file)
        delta, kind = head >> 4, head & 0x0F
        if kind == _STOP:
            return fields
        number = (number + delta if delta else _zigzag(_read_varint(file))) & 0xFFFF
        if kind == _I32:
            fields[number] = _zigzag(_read_varint(file) & 0xFFFFFFFF)
        elif kind == _STRUCT:
            fields[number] = _read_struct(file, depth + 1)
        elif kind in (_I16, _I64):
            _read_varint(file)
        elif kind == _BINARY:
            file.seek(_read_varint(file), 1)
        elif kind in (_BYTE, _DOUBLE):
            file.seek(1 if kind == _BYTE else 8, 1)
        elif kind not in (_TRUE, _FALSE):  # a bool is in its type; lists, sets and maps are in no page header
            raise ValueError("a page header holds a field of an unknown type")


def _zigzag(number: int) -> int:
    return (number >> 1) ^ -(number & 1)


def _read_varint(file: IO[bytes]) -> int:
    value = 0
    for position in range(_MAX_VARINT_BYTES):
        byte = _read_byte(file)
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value
    raise ValueError("a page header holds a number that is too long")


def _read_byte(file: IO[bytes]) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("a page header is cut off")
    return byte[0]
