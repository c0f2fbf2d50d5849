from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_fanout.tasks.tables.faults import Reason
from prefect_fanout.tasks.tables.records import RAW_LIMIT_BYTES, Chunk, RecordReader, scan

COMMA = ord(",")

anything = st.text(alphabet='ab,"\n\r', max_size=60)
pieces = st.sampled_from(["a", "é", '"', ",", "\n", "\r\n", "\r", " ", "\0", "1"])
fields = st.lists(pieces, max_size=6).map("".join)
tables = st.lists(st.lists(fields, min_size=1, max_size=4), max_size=12)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


def _well_formed(rows: list[list[str]], line_end: str, quote_all: bool) -> bytes:
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=line_end, quoting=quoting).writerows(rows)
    return out.getvalue().encode()


class Text:
    """Text that is read in pieces, whole ones as long as there are any."""

    def __init__(self, text: bytes) -> None:
        self.rest = text

    def readinto(self, buffer: memoryview, /) -> int:
        piece, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _chunks(text: bytes, block_bytes: int, *, head: int = 0, max_record_bytes: int = 1000) -> list[Chunk]:
    reader = RecordReader(
        Text(text[head:]),
        delimiter=COMMA,
        block_bytes=block_bytes,
        max_record_bytes=max_record_bytes,
        head=text[:head],
        head_is_all=head >= len(text),
    )
    found = [replace(chunk, data=bytes(chunk.data)) for chunk in reader]  # its memory is used again
    assert reader.offset == len(text)
    assert reader.records == sum(len(chunk) for chunk in found)
    assert reader.blank == sum(chunk.scan.blank for chunk in found)
    return found


def _described(found: list[Chunk]) -> list[tuple[int, int, int, bytes, Reason | None]]:
    return [
        (
            chunk.first_record + i,
            chunk.line_of(i),
            chunk.offset + int(chunk.scan.starts[i]),
            chunk.raw(i),
            chunk.scan.faults.get(i),
        )
        for chunk in found
        for i in range(len(chunk))
    ]


@settings(deadline=None)  # a busy machine is no failure
@given(tables, line_ends, st.booleans(), st.booleans())
def test_records_of_well_formed_text_are_those_of_the_csv_module(
    rows: list[list[str]], line_end: str, quote_all: bool, last_line_end: bool
) -> None:
    """Whatever is written by Python's csv module is cut into the same records, none of them at fault."""
    text = _well_formed(rows, line_end, quote_all)
    if not last_line_end and text.endswith(line_end.encode()):
        text = text[: -len(line_end)]
    found = scan(text, COMMA, final=True)
    raw = [text[int(a) : int(b)].decode() for a, b in zip(found.starts, found.ends, strict=True)]
    expected = [row for row in csv.reader(io.StringIO(text.decode(), newline="")) if row]
    assert [next(csv.reader(io.StringIO(record, newline=""))) for record in raw] == expected
    assert not found.faults


@settings(deadline=None)  # a busy machine is no failure
@given(anything, st.integers(1, 70), st.integers(0, 70))
@example('a,"\r\n"\r\n', 4, 0)
@example('1,"abc\n2,"def"\n3,x\n', 3, 5)
@example("a\r", 2, 0)
@example('""', 1, 0)
@example('"a"\r\n"b', 4, 0)
def test_any_cut_gives_the_same_records(text: str, block_bytes: int, head: int) -> None:
    """The size of the blocks changes nothing: not records, bytes, lines, offsets or faults, also in broken text."""
    raw = text.encode()
    assert _described(_chunks(raw, block_bytes, head=head)) == _described(_chunks(raw, 1000))


@settings(deadline=None)  # a busy machine is no failure
@given(anything)
def test_every_byte_is_in_a_record_or_between_two(text: str) -> None:
    """Records follow one another with nothing but line ends between them."""
    raw = text.encode()
    found = scan(raw, COMMA, final=True)
    outside, position = b"", 0
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        outside += raw[position:start]
        position = end
    outside += raw[position:]
    assert outside.strip(b"\r\n") == b""
    assert found.consumed == len(raw)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_every_line_end_gives_the_same_records(line_end: bytes) -> None:
    """LF, CRLF, CR and the doubled CR that broken tools write all separate the same records."""
    text = line_end.join([b"a,b", b'"1', b'2",3', b"4,5", b""])
    found = scan(text, COMMA, final=True)
    raw = [text[int(a) : int(b)] for a, b in zip(found.starts, found.ends, strict=True)]
    assert raw == [b"a,b", b'"1' + line_end + b'2",3', b"4,5"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_blank_lines_are_counted_and_are_no_records(count: int) -> None:
    """Empty lines between records are counted, and lines are numbered across them."""
    [chunk] = _chunks(b"a,b\n" + b"\n" * count + b"c,d\n", 1000)
    assert (len(chunk), chunk.scan.blank, chunk.line_of(1)) == (2, count, 2 + count)


def test_lines_are_physical_lines() -> None:
    """A record after a quoted value of three lines stands three lines further down."""
    assert [(line, raw) for _, line, _, raw, _ in _described(_chunks(b'a\n"x\r\ny\nz",1\r\nb\n', 4))] == [
        (1, b"a"),
        (2, b'"x\r\ny\nz",1'),
        (5, b"b"),
    ]


def test_an_unterminated_quote_costs_one_line() -> None:
    """A quote that nothing closes faults its line; the rows after it are read."""
    found = _described(_chunks(b'1,a\n2,"b\n3,c\n4,d\n', 1000))
    assert [(raw, fault) for *_, raw, fault in found] == [
        (b"1,a", None),
        (b'2,"b', Reason.UNTERMINATED_QUOTE),
        (b"3,c", None),
        (b"4,d", None),
    ]


def test_a_quote_closed_lines_later_in_front_of_text_costs_one_line() -> None:
    """A stray quote does not swallow the rows up to the next quoted value."""
    found = _described(_chunks(b'1,"a\n2,b\n3,"c"\n4,d\n', 1000))
    assert [(raw, fault) for *_, raw, fault in found] == [
        (b'1,"a', Reason.UNTERMINATED_QUOTE),
        (b"2,b", None),
        (b'3,"c"', None),
        (b"4,d", None),
    ]


def test_text_after_a_closing_quote_is_a_fault() -> None:
    """`"ab"c` has no certain meaning and faults its record alone; a quote inside a bare field is text."""
    found = _described(_chunks(b'"ab"c,1\n5" pipe,2\n"x",3\n', 1000))
    assert [fault for *_, fault in found] == [Reason.STRAY_QUOTE, None, None]


def test_a_quote_left_open_swallows_no_more_than_the_longest_record() -> None:
    """Where the quote is not closed within the limit, reading goes on in the line after it."""
    text = b'1,"a\n' + b"2,b\n" * 500
    found = _described(_chunks(text, 16, max_record_bytes=100))
    assert len(found) == 501
    assert [fault for *_, fault in found if fault] == [Reason.UNTERMINATED_QUOTE]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("block_bytes", [7, 64, 900])
def test_a_record_beyond_the_limit_is_passed_by(line_end: bytes, block_bytes: int) -> None:
    """A line longer than any record may be is one fault with its true length; its neighbours are read."""
    long = b"x" * 5000
    text = line_end.join([b"1,a", long, b"3,c", b""])
    found = _chunks(text, block_bytes, max_record_bytes=100)
    records = _described(found)
    assert [(number, line, offset) for number, line, offset, *_ in records] == [
        (1, 1, 0),
        (2, 2, 3 + len(line_end)),
        (3, 3, 5003 + 2 * len(line_end)),
    ]
    [oversized] = [chunk for chunk in found if chunk.full_length]
    assert oversized.scan.faults == {0: Reason.RECORD_TOO_LONG}
    assert oversized.full_length == 5000


def test_a_record_beyond_the_limit_at_the_end_of_the_file_is_passed_by() -> None:
    """Also when no line end follows, and only the beginning of it is kept."""
    [_, oversized] = _chunks(b"1,a\n" + b"x" * 3 * RAW_LIMIT_BYTES, 1000)
    assert oversized.full_length == 3 * RAW_LIMIT_BYTES
    assert len(oversized.raw(0)) <= RAW_LIMIT_BYTES


@pytest.mark.parametrize("blocks", [1, 2, 50])
def test_a_chunk_is_bounded_by_the_block_whatever_the_length_of_the_text(blocks: int) -> None:
    """Only the record that a block ends in is carried over to the next."""
    text = b"1,abcdefgh\n" * 100 * blocks
    found = _chunks(text, 1000)
    assert sum(len(chunk) for chunk in found) == 100 * blocks
    assert max(len(chunk.data) for chunk in found) <= 1000 + len(b"1,abcdefgh\n")
