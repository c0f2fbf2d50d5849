"""Reading a list of URLs: lazily, in bounded memory, and never giving up because of one bad line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_fanout._errors import RunFailed, UsageError

MAX_LINE_CHARACTERS = 128 * 1024
"""Longest line that is read; the rest of a longer one is skipped. It is also the csv module's limit for one field."""
BATCH_ROWS = 4_096
"""Rows of a Parquet list that are in memory at a time."""
COUNT_BYTES = 1024 * 1024
"""Bytes read at a time while lines are counted."""

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a list.

    Attributes:
        text: The URL as it stands there, or what could be read of a bad entry.
        problem: Why the entry holds no URL, or None.
    """

    text: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class UrlList:
    """A list that was opened once, so that it is known to be readable.

    Attributes:
        name: What a person calls it.
        expected: How many entries it seems to have, for progress; None when only reading all of it would tell.
    """

    name: str
    expected: int | None
    _read: Callable[[], Iterator[Line]]

    def __iter__(self) -> Iterator[Line]:
        """All entries, in order."""
        return self._read()


def open_list(urls: Sequence[str] | str | Path, *, column: str = "url") -> UrlList:
    """Opens a list of URLs.

    Args:
        urls: The URLs themselves, or the path of a txt, csv, tsv, jsonl or parquet file. A txt file has one URL per
            line; empty lines are skipped.
        column: Column (csv, tsv, parquet) or member (jsonl) that holds the URL.

    Raises:
        UsageError: when the list cannot be read as it is.
    """
    if not isinstance(urls, (str, Path)):
        values = list(urls)
        return UrlList(f"{len(values):,} URLs", len(values), lambda: (_of_value(value) for value in values))
    path = Path(urls).expanduser()
    suffix = path.suffix.lower()
    if "://" in str(urls):
        raise UsageError(f"Expected a list of URLs or the path of a file, got the single URL {urls}. Put it in a list.")
    if suffix not in FORMATS:
        raise UsageError(f"Expected a list that ends in {', '.join(FORMATS)}, got {path}. Rename or convert it.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
            expected = None if suffix == ".parquet" else _count_lines(path)
    except OSError as error:
        raise UsageError(
            f"The list {path} cannot be read: {error.strerror}. Name a file that this user may read."
        ) from error
    if suffix == ".parquet":
        return _parquet_list(path, column)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if suffix == ".txt":
        return UrlList(path.name, expected, lambda: _text_lines(path, encoding))
    if suffix == ".jsonl":
        return UrlList(path.name, expected, lambda: _json_lines(path, encoding, column))
    delimiter = "\t" if suffix == ".tsv" else ","
    _check_header(path, encoding, delimiter, column)
    return UrlList(path.name, max((expected or 1) - 1, 0), lambda: _csv_lines(path, encoding, delimiter, column))


def _of_value(value: object) -> Line:
    if isinstance(value, str):
        return Line(value)
    return Line("" if value is None else str(value)[:100], f"Expected a URL as text, got {type(value).__name__}.")


def _text_lines(path: Path, encoding: str) -> Iterator[Line]:
    with _text(path, encoding) as file:
        for line, whole in _bounded(file):
            text = line.strip()
            if text or not whole:
                yield Line(text, None if whole else _too_long())


def _json_lines(path: Path, encoding: str, column: str) -> Iterator[Line]:
    with _text(path, encoding) as file:
        for line, whole in _bounded(file):
            if line.strip() or not whole:
                yield _json_line(line, column) if whole else Line(line[:100], _too_long())


def _json_line(line: str, column: str) -> Line:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Line(line.strip()[:100], f"The line is not JSON ({error}).")
    if isinstance(value, dict):
        if column not in value:
            return Line(line.strip()[:100], f"The line has no member {column!r}.")
        value = value[column]
    return _of_value(value)


def _csv_lines(path: Path, encoding: str, delimiter: str, column: str) -> Iterator[Line]:
    with _text(path, encoding) as file:
        reader = csv.reader(_whole_lines(file), delimiter=delimiter)
        position = _column_position(next(reader), column)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # The reader starts afresh with the next line.
                yield Line("", f"The row cannot be read ({error}); perhaps a quotation mark is not closed.")
                continue
            if record:  # an empty line is no row
                has_it = len(record) > position
                yield Line(record[position]) if has_it else Line("", f"The row has no column {column!r}.")


def _check_header(path: Path, encoding: str, delimiter: str, column: str) -> None:
    with _text(path, encoding) as file:
        try:
            header = next(csv.reader(_whole_lines(file), delimiter=delimiter), None)
        except csv.Error as error:
            raise UsageError(f"The first line of {path} cannot be read as column names ({error}).") from error
    if header is None:
        raise UsageError(f"The list {path} is empty; expected a first line with column names, {column!r} among them.")
    if column not in [name.strip() for name in header]:
        names = ", ".join(repr(name[:40]) for name in header[:20])
        raise UsageError(f"The list {path} has no column {column!r}, but {names}. Name the column (url_column).")


def _column_position(header: Sequence[str], column: str) -> int:
    return [name.strip() for name in header].index(column)


def _parquet_list(path: Path, column: str) -> UrlList:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"The list {path} cannot be read as Parquet ({error}).") from error
    if column not in schema.names:
        names = ", ".join(map(repr, schema.names[:20]))
        raise UsageError(f"The list {path} has no column {column!r}, but {names}. Name the column (url_column).")
    kind = schema.field(column).type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(text) for is_kind in tests):
        raise UsageError(f"The column {column!r} of {path} holds {kind}; expected text. Name another one (url_column).")
    return UrlList(path.name, rows, lambda: _parquet_lines(path, column))


def _parquet_lines(path: Path, column: str) -> Iterator[Line]:
    done = 0
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=[column])
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:
                raise RunFailed(f"The list {path} cannot be read after row {done:,} ({error}). Repair it.") from error
            if batch is None:
                return
            done += batch.num_rows
            yield from map(_of_value, batch.column(0).to_pylist())


def _text(path: Path, encoding: str) -> IO[str]:
    # replace: a byte that is not in the encoding makes one URL invalid, not the list unreadable
    return path.open(encoding=encoding, errors="replace", newline=None)


def _bounded(file: IO[str]) -> Iterator[tuple[str, bool]]:
    """The lines of a file, and of each whether it is whole; of one that is too long only the start is kept."""
    while line := file.readline(MAX_LINE_CHARACTERS):
        whole = line.endswith("\n") or len(line) < MAX_LINE_CHARACTERS
        yield line, whole
        while not whole:
            rest = file.readline(MAX_LINE_CHARACTERS)
            whole = not rest or rest.endswith("\n")


def _whole_lines(file: IO[str]) -> Iterable[str]:
    """The lines for a csv reader. One that is too long goes in cut, with its end, so that its row stays one row."""
    return (line if whole else line + "\n" for line, whole in _bounded(file))


def _too_long() -> str:
    return f"The line is longer than {MAX_LINE_CHARACTERS:,} characters."


def _count_lines(path: Path) -> int:
    """Lines of a file, the last one also without a line break."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(COUNT_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")
