"""Counting the frames of a GIF without decoding one: a tiny file can hold millions."""

from __future__ import annotations

from typing import IO

_EXTENSION, _IMAGE = 0x21, 0x2C


def frames_at_least(file: IO[bytes], wanted: int) -> bool:
    """Whether a GIF holds so many frames; stops there.

    A file that breaks off in the middle counts up to that point: decoding will find the damage.

    Source: "Graphics Interchange Format, Version 89a", sections 17 to 27.
    """
    file.seek(10)
    flags = file.read(3)[:1]
    if not flags:
        return wanted <= 0
    file.seek(_table_bytes(flags[0]), 1)
    found = 0
    while found < wanted:
        kind = file.read(1)
        if kind == bytes([_IMAGE]):
            descriptor = file.read(9)
            if len(descriptor) < 9:
                break
            found += 1
            file.seek(_table_bytes(descriptor[8]) + 1, 1)
        elif kind == bytes([_EXTENSION]):
            file.seek(1, 1)
        else:  # the trailer, the end of the file, or rubbish
            break
        while (size := file.read(1)) not in (b"", b"\0"):
            file.seek(size[0], 1)
    return found >= wanted


def _table_bytes(flags: int) -> int:
    """Bytes of the colour table that a flags byte announces."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
