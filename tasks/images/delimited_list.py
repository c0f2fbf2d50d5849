"""URL lists in CSV and TSV: one column of records that may span lines, and quotation marks that must be closed.

A quotation mark that is never closed would swallow the URLs of all lines up to the next one. So a list with quotation
marks is read once when it is opened, by the very code that reads it later, and refused before anything is downloaded.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from prefect_fanout.tasks.images.text_lines import Line, ListError, TextFile

MAX_QUOTED_CHARACTERS = 64 * 1024
"""Characters, after the line in which a record begins, within which its quoted fields must be closed. Captions of real
lists stay below 10,000; a quotation mark without an end reaches any limit."""
COLUMNS_SHOWN = 20
"""Column names that are named when the right one is not among them."""


def open_delimited(file: TextFile, *, tabs: bool, column: str) -> int:
    """Check a list with columns and return its number of records, the header left out.

    The number is exact where the list may hold quotation marks; elsewhere empty lines count too.

    Args:
        file: The list.
        tabs: True for TSV, in which a quotation mark is a character like any other; False for CSV.
        column: Name of the column with the URLs.

    Raises:
        ListError: The list has no such column, or a quotation mark that is not closed.
        OSError: The file cannot be read.
    """
    header = next(_records(file, tabs=tabs), None)
    if header is None:
        raise ListError(f"it is empty; expected a first line with column names, {column!r} among them")
    _position(header, column)
    if tabs or not file.quoted:
        return max(file.lines - 1, 0)
    return sum(1 for record in _records(file, tabs=tabs) if record) - 1


def delimited_lines(file: TextFile, *, tabs: bool, column: str) -> Iterator[Line]:
    """Yield the entries of a list with columns.

    Args:
        file: The list.
        tabs: True for TSV, False for CSV.
        column: Name of the column with the URLs.

    Raises:
        ListError: The list has changed since it was opened.
        OSError: The file cannot be read.
    """
    records = _records(file, tabs=tabs)
    position = _position(next(records, []), column)
    for record in records:
        if record:  # an empty line is no record
            has_it = len(record) > position
            yield Line(record[position]) if has_it else Line("", f"The row has no column {column!r}.")


def _position(header: list[str], column: str) -> int:
    names = [name.strip() for name in header]
    if column not in names:
        shown = ", ".join(repr(name[:40]) for name in names[:COLUMNS_SHOWN]) or "no columns"
        raise ListError(f"it has no column {column!r}, but {shown}; name the right one with --url-column (url_column)")
    return names.index(column)


def _records(file: TextFile, *, tabs: bool) -> Iterator[list[str]]:
    lines = _RecordLines(file)
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
    try:
        for record in reader:
            lines.record_ended()
            yield record
    except csv.Error:  # a field over the module's limit: a record that goes on after a line of the longest length
        raise lines.open_quote() from None


class _RecordLines:
    """The lines of a file for a csv reader, which asks for another one inside a record only within a quoted field."""

    def __init__(self, file: Iterable[tuple[str, bool]]) -> None:
        self._lines = iter(file)
        self._number = 0
        self._begin = 1  # number of the line in which the record in hand begins
        self._more = 0  # characters of that record after its first line
        self._whole = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        inside = self._number >= self._begin
        if inside and (not self._whole or self._more > MAX_QUOTED_CHARACTERS):
            raise self.open_quote()
        try:
            line, self._whole = next(self._lines)
        except StopIteration:
            if inside:
                raise self.open_quote() from None
            raise
        self._number += 1
        self._more += len(line) if inside else 0
        # A line that is too long goes in cut, with its end, so that its row stays one row.
        return line if self._whole else line + "\n"

    def record_ended(self) -> None:
        """Note that the reader has a whole record: the next line begins another one."""
        self._begin = self._number + 1
        self._more = 0

    def open_quote(self) -> ListError:
        """Return the error for a record that does not end."""
        return ListError(
            f"the record that begins in line {self._begin:,} has a quotation mark that is not closed within "
            f"{MAX_QUOTED_CHARACTERS:,} characters; close it, write it twice where it belongs to the text, or save the "
            "list as .tsv, in which quotation marks have no meaning"
        )
