"""How one file is written: its delimiter, its header, what stands before it."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefect_fanout.tasks.tables.faults import FileFault
from prefect_fanout.tasks.tables.records import scan

CANDIDATES = (",", ";", "\t", "|")
"""Delimiters that are tried; the earlier one wins a tie."""

OTHER_DELIMITERS = ("^", "~", "::", ":")
"""Delimiters that are not tried, as ordinary values hold them too; a table with one of them reads as one column."""

PREAMBLE_RECORDS = 10
"""Records at the beginning that may be titles and comments; of a short file at most half of its records."""

AGREEMENT = 0.9
"""Share of records with one width that makes a table of them: real tables have a few broken records, prose has no
width in common."""

ONE_VALUE = re.compile(
    r"""
    [A-Za-z][A-Za-z0-9+.-]*://.* | [A-Za-z]:[\\/].* | ~[\w.-]*/.*  # an address; a path of Windows or of a home folder
    | (\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}[ T])?\d{1,2}:\d\d(:\d\d([.,]\d+)?)?[ ]?([AaPp][Mm]|Z|[+-]\d\d:?\d\d)?  # a time
    | [0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}  # a network card
    """,
    re.VERBOSE,
)
"""A value that holds a colon or a tilde and is only one; internet addresses are recognised beside it."""

LINE_END = re.compile(rb"\r\n|\r|\n")

SAMPLE_RECORDS = 200
"""Records that a dialect is judged by: enough to see past a few odd ones, parsed in a few milliseconds."""

TRIAL_BYTES = 256 * 1024
"""What each delimiter is tried on: the wrong ones make text irregular, and irregular text is slow to scan. More is
taken only if there is no whole record in it."""

MAX_COLUMNS = 20_000
"""A wider header is taken for a damaged file; each column costs memory in every block."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What was found out about a file from its beginning.

    Args:
        delimiter: One character.
        names: Column names as they are written to Parquet: unique even when case is ignored, none blank.
        renamed: Pairs of name in the file and name in Parquet where the two differ.
        width: Fields of a good record; one more than there are names when each record ends with a delimiter.
        header: The header's bytes without its line end; None when the file has none.
        skipped_bytes: Bytes before the header: lines to skip, or a line such as ``sep=;``.
        skipped_lines: Physical lines before the header.
        notes: What a person may want to know, as short slugs.
    """

    delimiter: str
    names: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    width: int
    header: bytes | None
    skipped_bytes: int
    skipped_lines: int
    notes: tuple[str, ...]


def split_fields(record: str, delimiter: str) -> list[str]:
    """The fields of one record, by the rules of `records`."""
    mark = re.escape(delimiter)
    pattern = re.compile(rf'(?:"((?:[^"]|"")*)"([^{mark}]*)|([^{mark}]*))({mark}|\Z)', re.DOTALL)
    fields, position = [], 0
    while match := pattern.match(record, position):
        quoted, rest, plain, end = match.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"') + rest)
        if not end:
            break
        position = match.end()
    return fields


def detect(
    sample: bytes, *, final: bool, delimiter: str | None = None, header: bool = True, skip_lines: int = 0
) -> Dialect | None:
    """Find out how a file is written.

    Args:
        sample: The beginning of its text, at a record's start.
        final: Whether the file ends with `sample`.
        delimiter: The delimiter if it is known.
        header: Whether the first record names the columns.
        skip_lines: Physical lines to skip first.

    Returns:
        The dialect, or None for a file without any record.

    Raises:
        FileFault: The header is not UTF-8, is too wide, or does not belong to the records after it; or the text reads
            as one column but most records look like those of a table.
    """
    skipped, lines, notes = _skip(sample, skip_lines)
    marked = re.match(rb"sep=([\x01-\x7f])(?:\r\n|\r|\n)", sample[skipped : skipped + 8], re.IGNORECASE)
    if marked and marked[1] not in b'"\r\n':
        delimiter = delimiter or marked[1].decode()
        skipped, lines = skipped + marked.end(), lines + 1
        notes.append("sep_line")
    text = sample[skipped:]
    chosen = [delimiter] if delimiter else list(CANDIDATES)
    trials = [trial for trial in (_trial(text, mark, final=final) for mark in chosen) if trial]
    if not trials:
        return None
    best = max(trials, key=lambda trial: trial.score(header))
    if delimiter is None and len(best.records[0]) == 1:
        _refuse_hidden_table(text, lines, final=final)
    first = _decode_header(best.first)
    written = split_fields(first, best.delimiter)
    if len(written) > MAX_COLUMNS:
        raise FileFault(
            "too_many_columns", f"The first record has {len(written)} fields; at most {MAX_COLUMNS} are read."
        )
    rows = best.records[1:] if header else best.records
    width = len(written)
    longer = [row for row in rows if len(row) == width + 1]
    if longer and len(longer) >= AGREEMENT * len(rows) and all(row[-1] == "" for row in longer):
        width += 1
    elif width > 1 and written[-1] == "" and all(len(row) == width and row[-1] == "" for row in rows):
        written.pop()
    elif header and len(rows) > 1 and not any(len(row) == width for row in rows):
        [(usual, count)] = Counter(len(row) for row in rows).most_common(1)
        raise FileFault(
            "header_mismatch",
            f"The header names {_number(width, 'column')}, but none of the first {len(rows)} records has "
            f"{_number(width, 'field')}; {count} of them have {usual}. Correct the header, or skip the lines before it "
            "(--skip-lines), or name the delimiter (--delimiter).",
        )
    if width > len(written):
        notes.append("trailing_delimiter")
    names, renamed = unique_names(written if header else [""] * len(written))
    return Dialect(
        delimiter=best.delimiter,
        names=names,
        renamed=renamed if header else (),
        width=width,
        header=best.first if header else None,
        skipped_bytes=skipped,
        skipped_lines=lines,
        notes=tuple(notes + (["renamed_columns"] if header and renamed else [])),
    )


def unique_names(written: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Names that differ even when case is ignored: the second ``a`` becomes ``a_2``, a blank one ``column_3``.

    A name that is unique in the file always keeps itself, so adding a duplicate elsewhere never renames it.
    """
    plain = [name.strip("\ufeff") if name.strip() else f"column_{i}" for i, name in enumerate(written, 1)]
    total = Counter(name.casefold() for name in plain)
    taken = set(total)
    seen: Counter[str] = Counter()
    names = []
    for name in plain:
        folded = name.casefold()
        seen[folded] += 1
        if seen[folded] > 1:
            number = seen[folded]
            while f"{folded}_{number}" in taken:
                number += 1
            name = f"{name}_{number}"
            taken.add(name.casefold())
        names.append(name)
    return tuple(names), tuple((old, new) for old, new in zip(written, names, strict=True) if old != new)


@dataclass(frozen=True)
class _Trial:
    delimiter: str
    first: bytes
    records: list[list[str]]

    def score(self, header: bool) -> tuple[float, int]:
        width = len(self.records[0])
        if width == 1:
            return (-1.0, 0)
        rows = self.records[1:]
        fitting = sum(len(row) == width or (len(row) == width + 1 and row[-1] == "") for row in rows)
        return (fitting / len(rows) if rows else 1.0, width)


def _trial(text: bytes, delimiter: str, *, final: bool) -> _Trial | None:
    """Return the first records as they read with this delimiter; None if there is none."""
    found = _first_records(text, delimiter, final=final)[:SAMPLE_RECORDS]
    records = [split_fields(raw.decode("utf-8", "replace"), delimiter) for _, raw in found]
    return _Trial(delimiter, found[0][1], records) if found else None


def _first_records(text: bytes, delimiter: str, *, final: bool) -> list[tuple[int, bytes]]:
    """Return where the first records begin, and their bytes, without the faulty ones after the first."""
    found = scan(text[:TRIAL_BYTES], ord(delimiter), final=final and len(text) <= TRIAL_BYTES)
    if not len(found.starts) and text:
        found = scan(text, ord(delimiter), final=True)
    good = np.ones(len(found.starts), np.bool_)
    good[list(found.faults)] = False
    good[:1] = True
    chosen = np.flatnonzero(good)[: PREAMBLE_RECORDS + SAMPLE_RECORDS].tolist()
    return [(int(found.starts[i]), text[int(found.starts[i]) : int(found.ends[i])]) for i in chosen]


@dataclass(frozen=True)
class _HiddenTable:
    """A table in a text that reads as one column: most of its records have `width` fields, the first in line `line`."""

    delimiter: str
    width: int
    agreeing: int
    records: int
    line: int


def _hidden_table(text: bytes, delimiter: str, *, final: bool) -> _HiddenTable | None:
    """Return the table that most records behind the first few belong to, with this delimiter; None if there is none."""
    found = _first_records(text, delimiter[0], final=final)
    widths = [_width(raw.decode("utf-8", "replace"), delimiter) for _, raw in found]
    judged = widths[min(PREAMBLE_RECORDS, len(widths) // 2) :][:SAMPLE_RECORDS]
    if len(judged) < 2:
        return None
    [(width, agreeing)] = Counter(judged).most_common(1)
    if width < 2 or agreeing < AGREEMENT * len(judged):
        return None
    before = text[: found[widths.index(width)][0]]
    return _HiddenTable(delimiter, width, agreeing, len(judged), len(LINE_END.findall(before)))


def _width(record: str, delimiter: str) -> int:
    if delimiter not in CANDIDATES and _is_one_value(record):
        return 1
    if delimiter == "::":
        fields = record.split(delimiter)
        # beside a single colon, or in quotes, two of them are something else, such as an empty field between two ":"
        return 1 if any(":" in field or '"' in field for field in fields) else len(fields)
    return len(split_fields(record, delimiter))


def _is_one_value(text: str) -> bool:
    """Return whether a text is a single value although it holds a colon or a tilde."""
    if ONE_VALUE.fullmatch(text):
        return True
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return True


def _refuse_hidden_table(text: bytes, lines: int, *, final: bool) -> None:
    """Raise FileFault if a text that reads as one column looks like a table behind `lines` skipped and other lines."""
    tables = [_hidden_table(text, delimiter, final=final) for delimiter in (*CANDIDATES, *OTHER_DELIMITERS)]
    table = max(filter(None, tables), key=lambda table: table.agreeing / table.records, default=None)
    if table is None:
        return
    steps = [f"skip the lines before it (--skip-lines {lines + table.line})"] if table.line else []
    if len(table.delimiter) > 1:
        steps.append("write a delimiter of one character into the file")
    elif table.delimiter not in CANDIDATES:
        steps.append(f"name its delimiter (--delimiter '{table.delimiter}')")
    unused = next((mark for mark in ("|", "\t", *CANDIDATES, "^", "~") if mark.encode() not in text), "\x1f")
    raise FileFault(
        "one_column",
        f"The file reads as one column, but {table.agreeing} of {table.records} records after the first few have "
        f"{table.width} fields with the delimiter {table.delimiter!r}. If it is a table, {' and '.join(steps)}. If it "
        f"is one column, name a delimiter that is not in it (--delimiter {unused!r}).",
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _skip(sample: bytes, count: int) -> tuple[int, int, list[str]]:
    position, lines = 0, 0
    while lines < count and (match := LINE_END.search(sample, position)):
        position, lines = match.end(), lines + 1
    return position, lines, (["skipped_lines"] if lines else [])


def _decode_header(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFault(
            "encoding",
            f"The header is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); name the encoding of "
            "such files (--encoding), for example cp1252 or mac-roman.",
        ) from error
