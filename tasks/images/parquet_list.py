"""URL lists in Parquet: one text column, in batches that are bounded by rows and by bytes.

A file of 10 KB can hold gigabytes: a page of one letter packs well, and a value is stored once and named by a million
rows. So the pages of the column are looked at before the list is read, pages that are too large are refused, and
batches are as small as the longest values ask for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefect_fanout.tasks.images.parquet_pages import Content, Page, read_pages
from prefect_fanout.tasks.images.text_lines import MAX_LINE_CHARACTERS, TOO_LONG, Line, ListError, check_regular

BATCH_ROWS = 4_096
"""Most rows that are in memory at a time."""
BATCH_BYTES = 16 * 1024 * 1024
"""Most bytes of text that are in memory at a time, besides the page in hand."""
MAX_PAGE_BYTES = 32 * 1024 * 1024
"""Largest page, in bytes; a batch may hold the text of two. Most writers end a page at 1 MiB, DuckDB at 122,880 values,
some 10 MB of URLs."""
MAX_DICTIONARY_BYTES = 16 * 1024 * 1024
"""Most distinct text of a row group that is kept as a dictionary, in bytes; it is in memory up to four times. Most
writers give up a dictionary at 1 MiB."""
MAX_FOOTER_BYTES = 4 * 1024 * 1024
"""Largest footer, in bytes; in memory it may take thirty times as many. That of 100 million URLs has some 100 KiB."""
MAX_PAGES = 1_000_000
"""Most pages of the column: a terabyte of text in pages of 1 MiB. Reading so many headers takes half a minute."""
BUFFER_BYTES = 1024 * 1024
"""Bytes read from the file at a time; otherwise pyarrow reads all that a row group has of the column at once."""
COLUMNS_SHOWN = 20
"""Column names that are named when the right one is not among them."""
_TAIL = b"PAR1"


@dataclass(frozen=True, slots=True)
class _Group:
    """How one row group is read.

    Attributes:
        rows: Rows of a batch.
        shared: Whether to keep each distinct value once, however many rows name it.
    """

    rows: int
    shared: bool


@dataclass(frozen=True, slots=True)
class ParquetList:
    """A Parquet list whose pages were looked at.

    Attributes:
        path: Path of the file.
        column: Name of the column with the URLs.
        rows: Rows of the list.
        groups: How its row groups are read, in order.
    """

    path: Path
    column: str
    rows: int
    groups: tuple[_Group, ...]

    def __iter__(self) -> Iterator[Line]:
        """Yield the entries.

        Raises:
            ListError: The file is damaged inside, or has changed since it was opened.
        """
        done = 0
        try:
            check_regular(self.path)
            with _open(self.path, self.column) as (plain, shared, _):
                for number, group in enumerate(self.groups):
                    for values in _values(shared if group.shared else plain, self.column, number, group.rows):
                        yield from map(_line, values)
                        done += len(values)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ListError(f"it breaks off after row {done:,} ({error})") from error
        if done < self.rows:
            raise ListError(f"it had {self.rows:,} rows and now ends after {done:,}")


def open_parquet(path: Path, column: str) -> ParquetList:
    """Open a Parquet list and look at the size of every page of its column.

    Args:
        path: Path of the file.
        column: Name of the column with the URLs, which must hold text.

    Raises:
        ListError: The file is not Parquet, has no such column, or has parts that are too large.
        OSError: The file cannot be read.
    """
    check_regular(path)
    with path.open("rb") as raw:
        try:
            _check_footer(raw)
            with _open(path, column) as (plain, shared, position):
                return ParquetList(path, column, plain.metadata.num_rows, _plan(raw, plain, shared, column, position))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ListError(f"it is damaged or not Parquet ({error})") from error


@contextlib.contextmanager
def _open(path: Path, column: str) -> Iterator[tuple[pq.ParquetFile, pq.ParquetFile, int]]:
    """Open the file twice, to read the column as texts and as a dictionary; yield also the column's position."""
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as plain:
        position = _column_position(plain, column)
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, read_dictionary=[column]) as shared:
            yield plain, shared, position


def _values(file: pq.ParquetFile, column: str, group: int, rows: int) -> Iterator[Any]:
    for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False):
        yield batch.column(0)


def _line(value: Any) -> Line:
    """Return the entry of one value. Of one that is too long only the start becomes a Python text."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value  # the dictionary's own bytes: rows that name the same value share them
    if not value.is_valid:
        return Line("", "Expected a URL as text, got NoneType.")
    data = value.as_buffer()
    text = data[: 4 * MAX_LINE_CHARACTERS].to_pybytes().decode("utf-8", "replace")  # a character has 4 bytes at most
    whole = data.size <= 4 * MAX_LINE_CHARACTERS and len(text) <= MAX_LINE_CHARACTERS
    return Line(text[:MAX_LINE_CHARACTERS], None if whole else TOO_LONG)


def _check_footer(raw: IO[bytes]) -> None:
    """Refuse a footer that is too large; pyarrow itself reports all other faults of the end of the file."""
    if raw.seek(0, 2) < 2 * len(_TAIL):
        return
    raw.seek(-2 * len(_TAIL), 2)
    size = int.from_bytes(raw.read(len(_TAIL)), "little")
    if raw.read() == _TAIL and size > MAX_FOOTER_BYTES:
        raise ListError(
            f"its footer has {size:,} bytes, and {MAX_FOOTER_BYTES:,} are allowed; write it with larger row groups"
        )


def _column_position(file: pq.ParquetFile, column: str) -> int:
    """Return the position of the column among the stored ones."""
    schema = file.schema_arrow
    if column not in schema.names:
        names = ", ".join(repr(name[:40]) for name in schema.names[:COLUMNS_SHOWN]) or "no columns"
        raise ListError(f"it has no column {column!r}, but {names}; name the right one with --url-column (url_column)")
    # pyarrow selects columns by the beginning of their path: "url" would also select a column that is called "url.host"
    paths = [file.schema.column(position).path for position in range(len(file.schema))]
    found = [position for position, path in enumerate(paths) if f"{path}.".startswith(f"{column}.")]
    kind = schema.field(schema.names.index(column)).type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(text) for is_kind in tests):
        raise ListError(f"its column {column!r} holds {kind}, not text; name another with --url-column (url_column)")
    if len(found) > 1:
        raise ListError(f"it has {len(found)} columns whose names begin with {column!r}; rename the others")
    return found[0]


def _plan(
    raw: IO[bytes], plain: pq.ParquetFile, shared: pq.ParquetFile, column: str, position: int
) -> tuple[_Group, ...]:
    """Choose how each row group is read, by the headers of its pages."""
    groups = []
    pages_left = MAX_PAGES
    gathers = pa.types.is_dictionary(plain.schema_arrow.field(column).type)
    for number in range(plain.metadata.num_row_groups):
        pages = _pages(raw, plain.metadata.row_group(number).column(position), column, pages_left)
        pages_left -= len(pages)
        distinct = sum(page.bytes for page in pages if page.content is Content.DICTIONARY)
        text = [page for page in pages if page.content is Content.VALUES]
        # Of a column that is a dictionary in Arrow too, pyarrow gathers the values of the whole row group.
        kept = distinct + sum(page.bytes for page in text) if gathers else distinct
        if kept > MAX_DICTIONARY_BYTES:
            raise ListError(
                f"its column {column!r} has a dictionary of {kept:,} bytes, and {MAX_DICTIONARY_BYTES:,} are allowed; "
                "write it as a text column"
            )
        longest = max((page.bytes_per_value for page in text), default=0.0)
        if text and distinct:
            longest = max(longest, _longest_in_dictionary(shared, column, number, pages))
        rows = BATCH_ROWS if gathers or not text else max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(longest, 1.0))))
        groups.append(_Group(rows, shared=not text))
    return tuple(groups)


def _pages(raw: IO[bytes], chunk: pq.ColumnChunkMetaData, column: str, most: int) -> list[Page]:
    """Return the pages of one row group.

    Raises:
        ListError: One of them is too large, or there are more than `most`.
    """
    begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    pages = []
    for page in read_pages(raw, begin, begin + chunk.total_compressed_size):
        if max(page.bytes, page.stored_bytes) > MAX_PAGE_BYTES:
            raise ListError(
                f"its column {column!r} has a page of {page.bytes:,} bytes, and {MAX_PAGE_BYTES:,} are allowed; "
                "write it with smaller pages"
            )
        pages.append(page)
        if len(pages) > most:
            raise ListError(f"its column {column!r} has more than {MAX_PAGES:,} pages; write it with larger ones")
    return pages


def _longest_in_dictionary(file: pq.ParquetFile, column: str, group: int, pages: Sequence[Page]) -> int:
    """Return a bound for the longest value in the dictionary of a row group, in bytes."""
    data = [page.content for page in pages if page.content in (Content.VALUES, Content.POSITIONS)]
    first = next(_values(file, column, group, rows=1), None)
    if first is None or data[0] is Content.VALUES:  # pyarrow loads a dictionary at the first page that needs it
        return sum(page.bytes for page in pages if page.content is Content.DICTIONARY)
    return int(pc.max(pc.binary_length(first.dictionary)).as_py() or 0)
