"""The lines of a text file, one at a time and bounded, and an entry of a URL list as they give it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MAX_LINE_CHARACTERS = 128 * 1024
"""Longest line that is read; a longer one is cut there. It is also the csv module's limit for one field."""
COUNT_BYTES = 1024 * 1024
"""Bytes read at a time while lines are counted."""


class ListError(Exception):
    """A list that cannot be read as it is; the message is one sentence, without the list's name."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a list.

    Attributes:
        text: The URL as it stands there, or the readable part of a bad entry. It may hold credentials.
        problem: Why the entry holds no URL, or None.
    """

    text: str
    problem: str | None = None


TOO_LONG = f"The line is longer than {MAX_LINE_CHARACTERS:,} characters."


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file that was read once, so that it is known to be readable.

    Attributes:
        path: Path of the file.
        encoding: "utf-16" where the file begins with its mark, else "utf-8-sig".
        lines: Lines when it was opened, the last one also without a line break.
        quoted: Whether it may hold quotation marks.
    """

    path: Path
    encoding: str
    lines: int
    quoted: bool

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """Yield each line and whether it is whole; of one that is too long only the start is kept.

        Raises:
            ListError: The file has become shorter since it was opened, or is no longer a regular file.
            OSError: The file cannot be read.
        """
        read = 0
        with _open(self.path, self.encoding) as file:
            while line := file.readline(MAX_LINE_CHARACTERS):
                read += 1
                whole = line.endswith("\n") or len(line) < MAX_LINE_CHARACTERS
                yield line, whole
                while not whole:
                    rest = file.readline(MAX_LINE_CHARACTERS)
                    whole = not rest or rest.endswith("\n")
        if read < self.lines:
            raise ListError(f"it had {self.lines:,} lines and now ends after {read:,}")


def open_text(path: Path) -> TextFile:
    """Open a text file and count its lines, in one pass over its bytes.

    Raises:
        ListError: The path is not a regular file.
        OSError: The file cannot be read.
    """
    check_regular(path)
    lines, last, quoted = 0, b"\n", False
    with path.open("rb") as file:
        start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            with _open(path, "utf-16") as text:
                return TextFile(path, "utf-16", sum(block.count("\n") for block in _blocks(text)), quoted=True)
        file.seek(0)
        while block := file.read(COUNT_BYTES):
            lines += block.count(b"\n")
            quoted = quoted or b'"' in block
            last = block[-1:]
    return TextFile(path, "utf-8-sig", lines + (last != b"\n"), quoted)


def check_regular(path: Path) -> None:
    """Refuse a path that is not a regular file: opening a pipe would wait for its other end, maybe for ever.

    Raises:
        ListError: The path is not a regular file.
        OSError: The path does not exist or may not be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ListError("it is not a regular file")


def _open(path: Path, encoding: str) -> IO[str]:
    check_regular(path)
    # replace: a byte that is not in the encoding makes one URL invalid, not the list unreadable
    return path.open(encoding=encoding, errors="replace", newline=None)


def _blocks(file: IO[str]) -> Iterator[str]:
    while block := file.read(COUNT_BYTES):
        yield block
