"""URL lists in Parquet: every way to store the column, damaged files, and small files that hold gigabytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.images import parquet_list
from prefect_fanout.tasks.images.parquet_pages import Content, read_pages
from prefect_fanout.tasks.images.text_lines import MAX_LINE_CHARACTERS
from prefect_fanout.tasks.images.url_list import open_list
from servers.memory import growth_mb

URLS = [f"http://example.org/{row}" for row in range(5_000)]
MEGABYTE = "x" * 1_000_000
LONG = [f"http://example.org/{row}/{'y' * 300}" for row in range(5_000)]  # over 1 MB: writers give up the dictionary


def write(path: Path, values: list[str | None], kind: pa.DataType | None = None, **options: Any) -> None:
    """Write a column of texts. Arrow has no other encodings for a dictionary, so with one it is written as text."""
    array = pa.array(values, pa.string())
    if kind is not None and not (pa.types.is_dictionary(kind) and "column_encoding" in options):
        array = array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array.cast(kind)
    pq.write_table(pa.table({"url": array}), path, **options)


@pytest.mark.parametrize("dtype", ["object", "str", pd.CategoricalDtype(URLS)], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_a_column_of_pandas(tmp_path: Path, dtype: Any, rows: int) -> None:
    """A text column is read in batches; a null is a bad entry."""
    path = tmp_path / "list.parquet"
    values = URLS[:rows]
    pd.DataFrame({"link": pd.Series([*values, None], dtype=dtype)}).to_parquet(path)
    found = open_list(path, column="link")
    assert found.expected == rows + 1
    lines = list(found)
    assert [line.text for line in lines[:-1]] == values
    assert lines[-1].problem is not None


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())],
    ids=str,
)
@pytest.mark.parametrize("values", [URLS, LONG, ["http://example.org/a"] * 5_000, []], ids=["", "long", "one", "none"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"url": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"url": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"store_schema": False},
        {"data_page_version": "2.0", "compression": "zstd"},
        {"data_page_size": 1_000, "row_group_size": 700, "compression": "none"},
        {"dictionary_pagesize_limit": 50_000, "write_page_checksum": True},
        {"write_page_index": True, "write_statistics": True, "data_page_version": "2.0"},
    ],
    ids=str,
)
def test_every_way_to_store_a_column(
    tmp_path: Path, kind: pa.DataType, values: list[str | None], options: dict[str, Any]
) -> None:
    """Any text type, encoding, page version and size gives the same entries, nulls among them."""
    path = tmp_path / "list.parquet"
    write(path, [*values, None, "http://example.org/\u00e9\U0001f600"], kind, **options)
    lines = list(open_list(path))
    assert [line.text for line in lines] == [*values, "", "http://example.org/\u00e9\U0001f600"]
    assert [line.problem is None for line in lines] == [*[True] * len(values), False, True]


def test_a_column_without_any_value(tmp_path: Path) -> None:
    """A column that holds only nulls, of no type, is read as bad entries."""
    pq.write_table(pa.table({"url": pa.nulls(3)}), tmp_path / "list.parquet")
    assert [line.problem is None for line in open_list(tmp_path / "list.parquet")] == [False] * 3


@pytest.mark.parametrize("kind", [None, pa.dictionary(pa.int32(), pa.string())], ids=["text", "dictionary"])
@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f600"])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_value_that_is_too_long_is_one_bad_entry(
    tmp_path: Path, kind: pa.DataType | None, character: str, extra: int
) -> None:
    """Values are read up to the limit of a line, in characters; of a longer one the start is kept."""
    path = tmp_path / "list.parquet"
    value = character * (MAX_LINE_CHARACTERS + extra)
    write(path, [value, "http://example.org/a"], kind)
    first, second = open_list(path)
    assert first.text == value[:MAX_LINE_CHARACTERS]
    assert (first.problem is None) == (extra <= 0)
    assert second.text == "http://example.org/a"


def test_bytes_that_are_not_utf8_spoil_one_entry(tmp_path: Path) -> None:
    """A value in another encoding is read with a mark in it, the others are not touched."""
    path = tmp_path / "list.parquet"
    wrong = pa.array([b"http://example.org/\xe9", b"http://example.org/a"]).view(pa.string())
    pq.write_table(pa.table({"url": wrong}), path)
    assert [line.text for line in open_list(path)] == ["http://example.org/\ufffd", "http://example.org/a"]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ({"x": ["a"]}, "no column 'url', but 'x'; name the right one with --url-column"),
        ({"url": [1]}, "holds int64, not text"),
        ({"url": [["a"]]}, "not text"),
        ({"url": ["a"], "url.host": ["b"]}, "2 columns whose names begin with 'url'"),
    ],
)
def test_a_column_that_cannot_be_used(tmp_path: Path, frame: dict[str, list[object]], text: str) -> None:
    """The column must be there once and hold text."""
    pd.DataFrame(frame).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(UsageError, match=text):
        open_list(tmp_path / "list.parquet")


def test_a_list_that_is_damaged_fails_loudly(tmp_path: Path) -> None:
    """Damage at the beginning is found before anything is downloaded, in the middle it ends the run."""
    path = tmp_path / "list.parquet"
    pd.DataFrame({"url": [f"http://example.org/{row * 7919}" for row in range(50_000)]}).to_parquet(path)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 10_000] = bytes(10_000)
    path.write_bytes(data)
    with pytest.raises(RunFailed, match="after row"):
        list(open_list(path))
    data[100:10_000] = bytes(9_900)
    path.write_bytes(data)
    with pytest.raises(UsageError, match="damaged"):
        open_list(path)


def test_a_footer_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """A footer over the limit is refused before it is read."""
    path = tmp_path / "list.parquet"
    schema = pa.schema([("url", pa.string())], {"note": "x" * parquet_list.MAX_FOOTER_BYTES})
    pq.write_table(pa.table({"url": ["http://example.org/a"]}, schema), path)
    with pytest.raises(UsageError, match="larger row groups"):
        open_list(path)


@pytest.mark.parametrize(("most", "refused"), [(5, True), (6, False), (7, False)])
def test_the_number_of_pages_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, refused: bool
) -> None:
    """A column of more pages than the limit, over all row groups, is refused."""
    path = tmp_path / "list.parquet"
    write(path, ["http://example.org/a"] * 3, row_group_size=1)  # each row group has a dictionary and a data page
    monkeypatch.setattr(parquet_list, "MAX_PAGES", most)
    if refused:
        with pytest.raises(UsageError, match="more than 5 pages"):
            open_list(path)
    else:
        assert len(list(open_list(path))) == 3


# --- page headers ----------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A number of Thrift's compact protocol."""
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def integer(delta: int, number: int, kind: int = 5) -> bytes:
    """An integer field, `delta` after the one before it."""
    return bytes([delta << 4 | kind]) + varint((number << 1) ^ (number >> 63))


def data_page(size: int, stored: int, values: int, encoding: int) -> bytes:
    """The header of a data page, followed by as many bytes as it says."""
    inner = integer(1, values) + integer(1, encoding) + integer(1, 3) + integer(1, 3) + b"\0"
    return integer(1, 0) + integer(1, size) + integer(1, stored) + b"\x2c" + inner + b"\0" + bytes(stored)


def test_page_headers_are_read_as_decoders_read_them(tmp_path: Path) -> None:
    """Later fields win, other types and unknown fields are skipped, and integers have 32 bits."""
    again = bytes([0x05]) + varint(2 << 1) + varint(70_000 << 1)  # field 2 once more, named by its number
    tricks = {
        "plain": (data_page(100, 10, 4, 0), Content.VALUES, 100, 25.0),
        "dictionary": (data_page(100, 10, 4, 8), Content.POSITIONS, 100, 0.0),
        "differences": (data_page(100, 10, 4, 7), Content.VALUES, 100, 100.0),
        "no values": (data_page(100, 10, 0, 0), Content.VALUES, 100, 100.0),
        "again": (data_page(100, 10, 4, 0)[:-11] + again + bytes(11), Content.VALUES, 70_000, 17_500.0),
        "other type": (
            data_page(100, 10, 4, 0)[:-11] + b"\x06" + varint(2 << 1) + varint(1 << 1) + bytes(11),
            Content.VALUES,
            100,
            25.0,
        ),
        "field 65538": (
            data_page(100, 10, 4, 0)[:-11] + b"\x05" + varint(65_538 << 1) + varint(70_000 << 1) + bytes(11),
            Content.VALUES,
            70_000,
            17_500.0,
        ),
        "40 bits": (
            data_page(100, 10, 4, 0)[:-11] + b"\x05" + varint(2 << 1) + varint((7 << 32) + (9 << 1)) + bytes(11),
            Content.VALUES,
            9,
            2.25,
        ),
        "text field": (data_page(100, 10, 4, 0)[:-11] + b"\xc8\x03abc" + bytes(11), Content.VALUES, 100, 25.0),
    }
    for name, (data, content, size, per_value) in tricks.items():
        path = tmp_path / "pages"
        path.write_bytes(data * 2)
        with path.open("rb") as file:
            pages = list(read_pages(file, 0, len(data) * 2))
        assert [(page.content, page.bytes, page.bytes_per_value) for page in pages] == [
            (content, size, per_value)
        ] * 2, name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",
        b"\x15" + b"\xff" * 20,
        b"\x00",
        b"\x19\x00\x00",
        b"\x1c" * 1_000,
        b"\x18" + varint(2**60) + b"\x00",
        integer(1, 0) + integer(1, -1) + integer(1, 10) + b"\0",
        integer(1, 0) + integer(1, 10) + integer(1, -1) + b"\0",
        integer(1, 0) + integer(1, 10) + integer(1, 10) + b"\0",
        integer(1, 0) + integer(1, 10) + integer(1, 10) + integer(2, 10) + b"\0",
    ],
    ids=range(11),
)
def test_page_headers_that_are_none(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no page header, or lack a field, are an error and nothing else."""
    path = tmp_path / "pages"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises((ValueError, OverflowError, OSError)):
        list(read_pages(file, 0, 1_000_000))


def test_the_header_of_a_page_is_what_the_decoder_allocates(tmp_path: Path) -> None:
    """Sizes in the footer do not matter: the page itself is looked at."""
    path = tmp_path / "list.parquet"
    write(path, [MEGABYTE * 40], use_dictionary=False, compression="zstd")
    claim = varint(pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size << 1)
    data = path.read_bytes()
    assert data.count(claim) == 2, "the footer names the size of the column and of the row group"
    path.write_bytes(data.replace(claim, varint(2_097_152 << 1)))
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 2_097_152
    with pytest.raises(UsageError, match=r"a page of 40,000,\d+ bytes"):
        open_list(path)


# --- memory ----------------------------------------------------------------------------------------------------------

READ = """
def prepare():
    global open_list
    import pyarrow.compute
    from prefect_fanout.tasks.images.url_list import open_list

def work(path, expected):
    try:
        count = sum(1 for _ in open_list(path))
    except Exception as error:
        count = type(error).__name__
    assert str(count) == expected, count
"""


def write_group(path: Path, chunks: list[pa.Array], **options: Any) -> None:
    """Write one row group. Its chunks may be one and the same array, so that it takes little memory here too."""
    table = pa.table({"url": pa.chunked_array(chunks)})
    pq.write_table(table, path, row_group_size=len(table), **{"compression": "zstd", **options})


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    """One text, named by many rows."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def a_dictionary(path: Path) -> None:
    """4,096 rows of one text of 1 MB, as a dictionary in Arrow too: 10 KB."""
    pq.write_table(pa.table({"url": repeated(MEGABYTE, 4_096)}), path)


def a_dictionary_of_lines(path: Path) -> None:
    """4,096 rows of one text of 100 KB, short enough to be read whole."""
    pq.write_table(pa.table({"url": repeated("x" * 100_000, 4_096)}), path)


def a_dictionary_of_pages(path: Path) -> None:
    """A text column that is a dictionary in the pages only."""
    pq.write_table(pa.table({"url": repeated(MEGABYTE, 4_096)}), path, store_schema=False)


def a_dictionary_and_more(path: Path) -> None:
    """640 rows of one text of 1 MB in a dictionary, then texts of their own, which do not fit into it."""
    chunks = [*[pa.array([MEGABYTE] * 32)] * 20, pa.array([f"{row}{'y' * 1_000}" for row in range(4_000)])]
    write_group(path, chunks, dictionary_pagesize_limit=2_000_000)


def plain_values(path: Path) -> None:
    """1,024 texts of 1 MB, each in a page of its own."""
    write_group(path, [pa.array([MEGABYTE] * 32)] * 32, use_dictionary=False, write_batch_size=1)


def plain_values_of_a_dictionary(path: Path) -> None:
    """150 texts of 1 MB that are a dictionary in Arrow, but not in the pages."""
    values = pa.array([f"{row}{MEGABYTE}" for row in range(150)]).dictionary_encode()
    write_group(path, [values], use_dictionary=False, write_batch_size=1)


def one_value(path: Path) -> None:
    """One text of 250 MB: 10 KB."""
    write_group(path, [pa.array([MEGABYTE * 250])], use_dictionary=False)


def one_value_in_a_dictionary(path: Path) -> None:
    """One text of 250 MB, in a dictionary."""
    write_group(path, [repeated(MEGABYTE * 250, 2)])


def differences(path: Path) -> None:
    """1,024 texts of 1 MB, of which each is stored as nothing but a difference from the one before it."""
    encoding = {"use_dictionary": False, "column_encoding": {"url": "DELTA_BYTE_ARRAY"}}
    write_group(path, [pa.array([MEGABYTE] * 32)] * 32, **encoding)


def pages_at_the_limit(path: Path) -> None:
    """Two texts of 31 MB among nulls, in one batch of rows."""
    values = pa.array([*[None] * 3_000, MEGABYTE * 31, MEGABYTE * 31, *[None] * 3_000])
    write_group(path, [values], use_dictionary=False, write_batch_size=1)


def a_dictionary_at_the_limit(path: Path) -> None:
    """15 texts of 1 MB, named by 20,000 rows."""
    names = pa.array([row % 15 for row in range(20_000)], pa.int32())
    values = pa.DictionaryArray.from_arrays(names, pa.array([f"{row}{MEGABYTE}" for row in range(15)]))
    write_group(path, [values], dictionary_pagesize_limit=16_000_000)


def a_dictionary_over_the_limit(path: Path) -> None:
    """20 texts of 1 MB in a dictionary."""
    write_group(path, [repeated(MEGABYTE * 20, 1_000)])


def a_row_group_without_compression(path: Path) -> None:
    """A row group of 300 MB in the file itself."""
    texts = [pa.array([os.urandom(500_000).hex() for _ in range(20)]) for _ in range(15)]
    write_group(path, texts, use_dictionary=False, compression="none", write_batch_size=1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (a_dictionary, "4096"),
        (a_dictionary_of_lines, "4096"),
        (a_dictionary_of_pages, "4096"),
        (a_dictionary_and_more, "4640"),
        (plain_values, "1024"),
        (plain_values_of_a_dictionary, "UsageError"),
        (one_value, "UsageError"),
        (one_value_in_a_dictionary, "UsageError"),
        (differences, "1024"),
        (pages_at_the_limit, "6002"),
        (a_dictionary_at_the_limit, "20000"),
        (a_dictionary_over_the_limit, "UsageError"),
        (a_row_group_without_compression, "300"),
    ],
)
def test_a_list_takes_little_memory(tmp_path: Path, make: Callable[[Path], None], expected: str) -> None:
    """However large its values and pages are, a list is read or refused in less than 200 MB."""
    path = tmp_path / "list.parquet"
    make(path)
    assert growth_mb(READ, str(path), expected) < 200
