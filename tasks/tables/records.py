"""Where records begin and end: the cutting and counting of CSV text, exact for any cut.

The rules are those of Python's csv module and of Arrow: a quote opens a quoted field only at the start of a field, two
quotes inside one are a quote, LF, CR and CRLF outside quotes end a record. Two things are stricter, because lenience
there loses rows silently: text after a closing quote faults the record, and a quote that is not closed, or that is
closed in a later line in front of text, faults only the line it began in; reading goes on at the next line.

Almost all text is *regular*: every quote that opens follows a delimiter or a line end, every one that closes precedes
one. Then a line end is outside quotes if the number of quotes before it is even, which numpy finds at more than 1 GB/s
without holding the interpreter lock. Only irregular text is walked quote by quote.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prefect_fanout.tasks.tables.faults import Reason

Positions = npt.NDArray[np.int64]
Text = bytes | bytearray

LF, CR, QUOTE = 10, 13, 34

RAW_LIMIT_BYTES = 64 * 1024
"""How much of a rejected record's bytes is kept."""

PIECE_BYTES = 512 * 1024
"""How much of a text is searched at once."""


class Readable(Protocol):
    """Anything that gives the next bytes of text."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer with the next bytes and return how many; fewer than fit only when the text is over."""
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """The records in a piece of text that begins at the start of a record.

    `starts` and `ends` delimit the content of each record that is not blank, without its line end; `lines` are the
    positions of the last byte of every physical line end up to `consumed`; `faults` names the records, by their
    position in `starts`, that are not well formed; `blank` counts empty lines; `multiline` is true where a record may
    go over more than one line.
    """

    starts: Positions
    ends: Positions
    lines: Positions
    faults: dict[int, Reason]
    blank: int
    consumed: int
    multiline: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive whole records of a file.

    Args:
        data: The text; records lie at `scan.starts` to `scan.ends` in it.
        scan: What was found in it.
        offset: Byte offset of `data` in the text of the file.
        first_line: Physical line, counted from 1, in which `data` begins.
        first_record: Number of the first record, counted from 1 over the whole file, blank lines left out.
        full_length: Bytes, without its line end, of a record of which `data` holds only the beginning; else None.
    """

    data: Text
    scan: Scan
    offset: int
    first_line: int
    first_record: int
    full_length: int | None = None

    def __len__(self) -> int:
        return len(self.scan.starts)

    def line_of(self, record: int) -> int:
        """The physical line, counted from 1, in which a record begins."""
        return self.first_line + int(np.searchsorted(self.scan.lines, self.scan.starts[record]))

    def raw(self, record: int) -> bytes:
        """The bytes of a record without its line end."""
        return bytes(self.data[int(self.scan.starts[record]) : int(self.scan.ends[record])])

    def payload(self, keep: npt.NDArray[np.bool_]) -> bytes | memoryview:
        """The text of the records marked in `keep`, in their order."""
        starts, end = self.scan.starts, self.scan.consumed
        text = memoryview(self.data)
        pieces, position = [], 0
        for dropped in np.flatnonzero(~keep).tolist():
            pieces.append(text[position : int(starts[dropped])])
            position = int(starts[dropped + 1]) if dropped + 1 < len(starts) else end
        pieces = [piece for piece in (*pieces, text[position:end]) if piece]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)  # also without its header, no copy is made of it


def scan(data: Text, delimiter: int, *, final: bool, give_up: bool = False) -> Scan:
    """Find the records of a text that begins at the start of a record.

    Args:
        data: The text.
        delimiter: The byte between fields.
        final: Whether the file ends with `data`; otherwise the last, perhaps incomplete, record is left out.
        give_up: Treat a quote that is not closed in `data` as one that never will be.
    """
    buffer = np.frombuffer(data, np.uint8)
    lines = _line_ends(data, buffer, final=final)
    faults: list[tuple[int, Reason]] = []
    terminators = lines
    if b'"' in data:
        quotes = _positions(buffer, QUOTE)
        at_end = final or give_up
        if (at_end and len(quotes) % 2) or not _is_regular(buffer, quotes, delimiter):
            quotes, faults = _walk(data, quotes, lines, delimiter, final=final, at_end=at_end)
        if _go_over_lines(quotes, lines):
            terminators = lines[(np.searchsorted(quotes, lines) & 1) == 0]
    multiline = len(terminators) < len(lines)
    consumed = int(terminators[-1]) + 1 if len(terminators) else 0
    ends = terminators
    if final and consumed < len(data):
        ends = np.append(terminators, len(data))
        consumed = len(data)
    starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1))
    contents = ends
    if b"\r" in data:
        contents = ends.copy()
        inner = np.flatnonzero((ends > starts) & (ends < len(data)))
        crlf = inner[(buffer[ends[inner]] == LF) & (buffer[ends[inner] - 1] == CR)]
        contents[crlf] -= 1
    full = contents > starts
    blank = len(full) - int(np.count_nonzero(full))
    if blank:
        starts, contents = starts[full], contents[full]
    named: dict[int, Reason] = {}
    for position, reason in faults:
        if position < consumed:
            named.setdefault(int(np.searchsorted(starts, position, side="right")) - 1, reason)
    return Scan(starts, contents, lines[: np.searchsorted(lines, consumed)], named, blank, consumed, multiline)


def _positions(buffer: npt.NDArray[np.uint8], byte: int) -> Positions:
    """Where a byte occurs; looked for piece by piece, as the memory for a whole mask is new, and cleared, each time."""
    found = [np.flatnonzero(buffer[at : at + PIECE_BYTES] == byte) + at for at in range(0, len(buffer), PIECE_BYTES)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _line_ends(data: Text, buffer: npt.NDArray[np.uint8], *, final: bool) -> Positions:
    """Positions of the last byte of every LF, CRLF and lone CR."""
    feeds = _positions(buffer, LF)
    if b"\r" not in data:
        return feeds
    returns = _positions(buffer, CR)
    if returns[-1] == len(data) - 1:
        before_feed = np.append(buffer[returns[:-1] + 1] == LF, not final)  # the next block may begin with the LF
    else:
        before_feed = buffer[returns + 1] == LF
    lone = returns[~before_feed]
    return np.sort(np.concatenate((feeds, lone))) if len(lone) else feeds


def _is_regular(buffer: npt.NDArray[np.uint8], quotes: Positions, delimiter: int) -> bool:
    """Whether each second quote, from the first on, truly opens a field and each other one truly closes it."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = buffer[opening[opening > 0] - 1]
    good = (before == delimiter) | (before == LF) | (before == CR)
    escaped = np.zeros(len(opening), np.bool_)  # the second half of a doubled quote
    escaped[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    if not (good | escaped[opening > 0]).all():
        return False
    after = buffer[closing[closing < len(buffer) - 1] + 1]
    return bool(((after == delimiter) | (after == LF) | (after == CR) | (after == QUOTE)).all())


def _go_over_lines(quotes: Positions, lines: Positions) -> bool:
    """Whether a line end lies between a quote that opens and the one that closes, or behind one that nothing closes."""
    before = np.searchsorted(lines, quotes)
    if len(quotes) % 2:
        before = np.append(before, len(lines))
    return bool((before[0::2] != before[1::2]).any())


def _walk(
    data: Text, quotes: Positions, lines: Positions, delimiter: int, *, final: bool, at_end: bool
) -> tuple[Positions, list[tuple[int, Reason]]]:
    """The quotes that truly open and close fields, and the faults by position, found one quote after the other."""
    at, ends = quotes.tolist(), lines.tolist()
    between = (delimiter, LF, CR)
    toggles: list[int] = []
    faults: list[tuple[int, Reason]] = []
    i = 0
    while i < len(at):
        opening = at[i]
        if opening and data[opening - 1] not in between:
            i += 1  # a quote inside an unquoted field is a character like any other
            continue
        j = i + 1
        while j + 1 < len(at) and at[j + 1] == at[j] + 1:
            j += 2
        closed = j < len(at)
        after = data[at[j] + 1] if closed and at[j] + 1 < len(data) else None
        if not closed or after is None:
            if closed and final:
                toggles += (opening, at[j])
                break
            if not at_end or closed:
                toggles.append(opening)  # undecided: everything from here on waits for more text
                break
        if closed and after in between:
            toggles += (opening, at[j])
            i = j + 1
            continue
        line = bisect_left(ends, opening)
        if closed and bisect_left(ends, at[j]) == line:
            faults.append((opening, Reason.STRAY_QUOTE))
            i = j + 1
            continue
        faults.append((opening, Reason.UNTERMINATED_QUOTE))
        if line == len(ends):
            break
        i = bisect_right(at, ends[line])
    return np.array(toggles, np.int64), faults


class RecordReader:
    """Cuts a text into chunks of whole records; the memory it needs is bounded by its two sizes.

    A chunk's text is good until the next chunk is asked for, which is read into the same memory.

    Args:
        source: Where the text comes from.
        delimiter: The byte between fields.
        block_bytes: Bytes of text in one chunk.
        max_record_bytes: The longest record that is put together; a longer one is faulted and passed by.
        head: Text that was read already, with which the file begins; it makes the first chunk.
        head_is_all: Whether the file ends with `head`.
        offset: Byte offset of `head` in the text of the file.
        first_line: Physical line in which `head` begins.
    """

    def __init__(
        self,
        source: Readable,
        *,
        delimiter: int,
        block_bytes: int,
        max_record_bytes: int,
        head: bytes = b"",
        head_is_all: bool = False,
        offset: int = 0,
        first_line: int = 1,
    ) -> None:
        self._source = source
        self._delimiter = delimiter
        self._block_bytes = block_bytes
        self._max_record_bytes = max_record_bytes
        self._head = head
        self._final = head_is_all
        self._buffer = bytearray()
        self.offset = offset
        self.line = first_line
        self.records = 0
        self.blank = 0

    def __iter__(self) -> Iterator[Chunk]:
        data: Text = self._head or self._behind(b"")
        self._head = b""
        while True:
            found = scan(data, self._delimiter, final=self._final)
            if not self._final and not found.consumed and len(data) > self._max_record_bytes:
                found = scan(data, self._delimiter, final=False, give_up=True)
                if not found.consumed:
                    chunk, data = self._oversized(data)
                    yield chunk
                    continue
            tail = data[found.consumed :]
            if found.consumed:
                yield self._chunk(data, found)
            if self._final:
                return
            data = self._behind(tail)

    def _behind(self, tail: Text) -> bytearray:
        """The tail and the next bytes behind it, read to where they belong, as copying a block takes time too.

        Together they are a block, so that all of them can lie in the same memory: having a new block of it cleared,
        and given back, takes longer than reading into it. A tail of more than half a block is a long record: as much
        again is read, so that scanning it stays linear in its length.
        """
        kept = len(tail)
        size = max(self._block_bytes, 2 * kept)
        if len(self._buffer) != size:
            self._buffer = bytearray(size)
        data = self._buffer
        data[:kept] = tail
        with memoryview(data) as view:
            count = self._source.readinto(view[kept:])
        self._final = kept + count < size
        return data[: kept + count] if self._final else data

    def _chunk(self, data: Text, found: Scan, full_length: int | None = None, line_end: int = 0) -> Chunk:
        chunk = Chunk(data, found, self.offset, self.line, self.records + 1, full_length)
        self.offset += found.consumed if full_length is None else full_length + line_end
        self.line += len(found.lines)
        self.records += len(found.starts)
        self.blank += found.blank
        return chunk

    def _oversized(self, data: Text) -> tuple[Chunk, Text]:
        """Pass by a line that is longer than any record may be: its beginning, and the text to go on with."""
        head, length, line_end = data[:RAW_LIMIT_BYTES], 0, 0
        while True:
            lines = _line_ends(data, np.frombuffer(data, np.uint8), final=False)
            if len(lines):
                end = int(lines[0]) + 1
                line_end = 2 if data[max(end - 2, 0) : end] == b"\r\n" else 1
                length += end - line_end
                rest = data[end:] if self._final else self._behind(data[end:])
                break
            keep = 1 if data.endswith(b"\r") else 0  # it may be half of a CRLF
            length += len(data) - keep
            if self._final:
                length += keep
                rest = data[:0]
                break
            data = self._behind(data[len(data) - keep :])
        found = Scan(
            starts=np.zeros(1, np.int64),
            ends=np.full(1, len(head), np.int64),
            lines=np.full(1, len(head), np.int64),
            faults={0: Reason.RECORD_TOO_LONG},
            blank=0,
            consumed=len(head),
        )
        return self._chunk(head, found, full_length=length, line_end=line_end), rest
