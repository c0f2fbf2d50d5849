"""Reading a list of URLs: lazily, in bounded memory, and never giving up because of one bad line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.images.delimited_list import delimited_lines, open_delimited
from prefect_fanout.tasks.images.parquet_list import open_parquet
from prefect_fanout.tasks.images.text_lines import TOO_LONG, Line, ListError, TextFile, open_text
from prefect_fanout.tasks.images.url import without_credentials

BAD_CHARACTERS = 100
"""Characters that are kept of an entry that is not a text, to find it again."""
FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class UrlList:
    """A list that was opened once, so that it is known to be readable.

    Attributes:
        name: Name of the list for a person.
        expected: Number of its entries, for progress. Empty lines count too, except in a csv with quotation marks.
    """

    name: str
    expected: int
    _read: Callable[[], Iterable[Line]]

    def __iter__(self) -> Iterator[Line]:
        """Yield all entries, in order.

        Raises:
            RunFailed: The list can no longer be read as it was when it was opened.
        """
        try:
            yield from self._read()
        except (ListError, OSError) as error:
            raise RunFailed(
                f"The list {self.name} cannot be read to its end: {_reason(error)}. It is damaged or was changed after "
                "the run began; repair it and start the run again with the same folder."
            ) from error


def open_list(urls: Sequence[str] | str | Path, *, column: str = "url") -> UrlList:
    """Open a list of URLs.

    Args:
        urls: The URLs themselves, or the path of a txt, csv, tsv, jsonl or parquet file. A txt file has one URL per
            line; empty lines are skipped. In a tsv file a quotation mark is a character like any other.
        column: Column (csv, tsv, parquet) or member (jsonl) that holds the URL.

    Raises:
        UsageError: The list cannot be read as it is, or is larger in some part than is read.
    """
    if not isinstance(urls, (str, Path)):
        values = list(urls)
        return UrlList(f"{len(values):,} URLs", len(values), lambda: map(_of_value, values))
    if "://" in str(urls):
        raise UsageError("Expected a list of URLs or the path of a file, got a single URL. Put it in a list.")
    path = Path(urls).expanduser()
    suffix = path.suffix.lower()
    shown = without_credentials(str(path))  # a URL with a typing error, such as http:/user:password@host, is a path too
    if suffix not in FORMATS:
        raise UsageError(f"Expected a list that ends in {', '.join(FORMATS)}, got {shown}. Rename or convert it.")
    try:
        return _open_file(path, suffix, column)
    except (ListError, OSError) as error:
        # None: the system's own error repeats the path, and a traceback in a log shows causes too.
        raise UsageError(f"The list {shown} cannot be read: {_reason(error)}.") from None


def _open_file(path: Path, suffix: str, column: str) -> UrlList:
    if suffix == ".parquet":
        parquet = open_parquet(path, column)
        return UrlList(path.name, parquet.rows, lambda: parquet)
    file = open_text(path)
    if suffix == ".txt":
        return UrlList(path.name, file.lines, lambda: _text_lines(file))
    if suffix == ".jsonl":
        return UrlList(path.name, file.lines, lambda: _json_lines(file, column))
    tabs = suffix == ".tsv"
    expected = open_delimited(file, tabs=tabs, column=column)
    return UrlList(path.name, expected, lambda: delimited_lines(file, tabs=tabs, column=column))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror}; name a file that this user may read"
    return str(error)


def _of_value(value: object) -> Line:
    if isinstance(value, str):
        return Line(value)
    return _bad("" if value is None else str(value), f"Expected a URL as text, got {type(value).__name__}.")


def _bad(text: str, problem: str) -> Line:
    # Masked before it is cut, as the at-sign after a password may be cut off.
    return Line(without_credentials(text)[:BAD_CHARACTERS], problem)


def _text_lines(file: TextFile) -> Iterator[Line]:
    for line, whole in file:
        text = line.strip()
        if text or not whole:
            yield Line(text, None if whole else TOO_LONG)


def _json_lines(file: TextFile, column: str) -> Iterator[Line]:
    for line, whole in file:
        text = line.strip()
        if text or not whole:
            yield _json_line(text, column) if whole else _bad(text, TOO_LONG)


def _json_line(text: str, column: str) -> Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _bad(text, f"The line is not JSON ({error}).")
    if isinstance(value, dict):
        if column not in value:
            return _bad(text, f"The line has no member {column!r}.")
        value = value[column]
    return _of_value(value)
