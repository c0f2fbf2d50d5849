"""One chunk of records to one typed table, and a reject for each record that does not fit."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.tables.columns import convert_column, in_one_piece, why_not
from prefect_fanout.tasks.tables.dialect import Dialect
from prefect_fanout.tasks.tables.faults import Reason
from prefect_fanout.tasks.tables.records import RAW_LIMIT_BYTES, Chunk, Text

VALUE_LIMIT = 1000
"""Characters of a cell that are shown in a reject; the record's raw bytes hold all of it."""

_REJECT_FIELDS: list[pa.Field[Any]] = [
    pa.field("file", pa.string(), nullable=False),
    pa.field("record_no", pa.int64(), nullable=False),
    pa.field("line", pa.int64(), nullable=False),
    pa.field("byte_offset", pa.int64(), nullable=False),
    pa.field("byte_length", pa.int64(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("column", pa.string()),
    pa.field("value", pa.string()),
    pa.field("message", pa.string(), nullable=False),
    pa.field("raw", pa.binary(), nullable=False),
    pa.field("raw_cut", pa.bool_(), nullable=False),
]
REJECT_SCHEMA = pa.schema(_REJECT_FIELDS)
"""One row per rejected record: where it stands (records counted from 1 after the header, physical lines from 1 with it,
bytes of the file's text from 0), why it was rejected, and its bytes without the line end."""

_MESSAGES = {
    Reason.UNTERMINATED_QUOTE: "a quote opens in this line and no quote closes it before a delimiter or a line end",
    Reason.STRAY_QUOTE: "text follows a closing quote; double a quote that belongs to the value",
    Reason.RECORD_TOO_LONG: "the line is longer than the longest record that is accepted",
    Reason.REPEATED_HEADER: "the record repeats the header, as when files were put one after the other",
}


@dataclass(frozen=True)
class Reject:
    """A record that is not in the table."""

    record: int
    reason: Reason
    message: str
    column: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class Parsed:
    """The well-formed records of a chunk, all columns text, beside the rejects of the others.

    `records` holds the position in the chunk of each row of `text`.
    """

    text: pa.Table
    records: npt.NDArray[np.int64]
    rejects: list[Reject]


def parse(chunk: Chunk, dialect: Dialect, null_values: tuple[str, ...], *, skip_first: bool = False) -> Parsed:
    """Split the records of a chunk into fields.

    Args:
        chunk: The records.
        dialect: How they are written.
        null_values: Unquoted texts that mean "no value".
        skip_first: Leave the first record out: it is the header.

    Raises:
        RunFailed: The parser found another number of records than there are.
    """
    keep = np.ones(len(chunk), np.bool_)
    keep[:1] = not skip_first
    rejects = []
    for record, reason in [*chunk.scan.faults.items(), *_repeated_headers(chunk, dialect)]:
        if keep[record]:
            rejects.append(Reject(record, reason, _MESSAGES[reason]))
            keep[record] = False
    for record, message in _invalid_utf8(chunk):
        if keep[record]:
            rejects.append(Reject(record, Reason.INVALID_UTF8, message))
            keep[record] = False
    kept = np.flatnonzero(keep)
    text, misfits = _split(chunk.payload(keep), dialect, null_values, multiline=chunk.scan.multiline)
    if text.num_rows + len(misfits) != len(kept):
        raise RunFailed(
            f"Between byte {chunk.offset} and {chunk.offset + len(chunk.data)} there are {len(kept)} records, but "
            f"{text.num_rows} rows and {len(misfits)} misfits were parsed. Please report this file."
        )
    fitting = np.ones(len(kept), np.bool_)
    width = dialect.width
    for number, fields in misfits:
        fitting[number - 1] = False
        reason = Reason.TOO_FEW_FIELDS if fields < width else Reason.TOO_MANY_FIELDS
        rejects.append(Reject(int(kept[number - 1]), reason, f"expected {width} fields, got {fields}"))
    parsed = Parsed(text, kept[fitting], rejects)
    return _without_last_column(parsed, dialect) if width > len(dialect.names) else parsed


def to_types(parsed: Parsed, schema: pa.Schema) -> tuple[pa.Table, list[Reject], list[str]]:
    """Convert the columns.

    Returns:
        The rows whose cells all fit, a reject for each other row that names its first cell that does not, and the
        names of the columns with such cells.
    """
    arrays, failures = [], {}
    for i, field in enumerate(schema):
        column = in_one_piece(parsed.text.column(i))
        typed, bad = convert_column(column, field.type)
        arrays.append(typed)
        if bad is not None:
            failures[i] = bad
    table = pa.Table.from_arrays(arrays, schema=schema)
    if not failures:
        return table, [], []
    any_bad = np.zeros(len(table), dtype=np.bool_)
    for bad_cells in failures.values():
        any_bad |= bad_cells
    rejects = [
        _cast_reject(parsed, schema, row, [i for i, bad in failures.items() if bad[row]])
        for row in np.flatnonzero(any_bad).tolist()
    ]
    return table.filter(pa.array(~any_bad)), rejects, [schema.names[i] for i in failures]


def reject_rows(file: str, chunk: Chunk, rejects: list[Reject], *, header: bool) -> pa.Table:
    """The rows of the rejects file for one chunk, in the order of its records; a header is no numbered record."""
    rows = []
    for reject in sorted(rejects, key=lambda reject: reject.record):
        raw = chunk.raw(reject.record)
        length = chunk.full_length or len(raw)
        rows.append(
            {
                "file": file,
                "record_no": chunk.first_record + reject.record - header,
                "line": chunk.line_of(reject.record),
                "byte_offset": chunk.offset + int(chunk.scan.starts[reject.record]),
                "byte_length": length,
                "reason": reject.reason.value,
                "column": reject.column,
                "value": reject.value,
                "message": reject.message,
                "raw": raw[:RAW_LIMIT_BYTES],
                "raw_cut": length > RAW_LIMIT_BYTES,
            }
        )
    return pa.Table.from_pylist(rows, schema=REJECT_SCHEMA)


def _split(
    payload: bytes | memoryview, dialect: Dialect, null_values: tuple[str, ...], *, multiline: bool
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """All fields as text, and for each record of another width its number from 1 and its width."""
    names = [str(i) for i in range(dialect.width)]
    misfits: list[tuple[int, int]] = []
    if not len(payload):
        return pa.table({name: pa.array([], pa.string()) for name in names}), misfits

    def note(row: pacsv.InvalidRow) -> Literal["skip"]:
        misfits.append((int(row.number or 0), row.actual_columns))  # a number is given whenever one thread parses
        return "skip"

    if payload[:3] == codecs.BOM_UTF8:
        # the parser takes the mark off the start of any buffer; here it is text, and a blank line before it keeps it
        payload = b"\n" + payload
    table = pacsv.read_csv(
        pa.BufferReader(payload),  # type: ignore[arg-type] # the stubs do not know Arrow's own streams
        # one block for the whole chunk: blocks lose the second half of a quoted CRLF that they cut (arrow#51368)
        pacsv.ReadOptions(use_threads=False, block_size=len(payload) + 1, column_names=names),
        pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=multiline, invalid_row_handler=note),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,  # done before, record by record
        ),
    )
    return table, misfits


def _without_last_column(parsed: Parsed, dialect: Dialect) -> Parsed:
    """Every record ends with a delimiter: a record with something after it has a field too many."""
    last = in_one_piece(parsed.text.column(dialect.width - 1))
    filled = np.array([value not in (None, "") for value in last.unique().to_pylist()], np.bool_)
    text = parsed.text.select(range(dialect.width - 1))
    if not filled.any():
        return Parsed(text, parsed.records, parsed.rejects)
    bad = np.array([value not in (None, "") for value in last.to_pylist()], np.bool_)
    message = f"expected {dialect.width - 1} fields and a delimiter after them, got {dialect.width} fields"
    rejects = [Reject(int(record), Reason.TOO_MANY_FIELDS, message) for record in parsed.records[bad]]
    return Parsed(text.filter(pa.array(~bad)), parsed.records[~bad], parsed.rejects + rejects)


def _cast_reject(parsed: Parsed, schema: pa.Schema, row: int, columns: list[int]) -> Reject:
    first = schema.field(columns[0])
    value = parsed.text.column(columns[0])[row].as_py()
    message = f"column {first.name!r} is {first.type}: {why_not(value, first.type)}"
    if len(columns) > 1:
        others = ", ".join(repr(schema.field(i).name) for i in columns[1:10])
        message += f"; also {others}" + ("" if len(columns) <= 10 else f" and {len(columns) - 10} more")
    return Reject(int(parsed.records[row]), Reason.CAST, message, first.name, value[:VALUE_LIMIT])


def _repeated_headers(chunk: Chunk, dialect: Dialect) -> list[tuple[int, Reason]]:
    """Records equal to the header; in a table of one column they may be values, and are left."""
    header = dialect.header
    if header is None or len(dialect.names) < 2 or not len(chunk):
        return []
    starts = chunk.scan.starts
    alike = np.flatnonzero(chunk.scan.ends - starts == len(header))
    buffer = np.frombuffer(chunk.data, np.uint8)
    for position in range(min(4, len(header))):  # leaves few candidates, also where all records are of one length
        alike = alike[buffer[starts[alike] + position] == header[position]]
    return [(record, Reason.REPEATED_HEADER) for record in alike.tolist() if chunk.raw(record) == header]


def _invalid_utf8(chunk: Chunk) -> list[tuple[int, str]]:
    """The records with bytes that are not UTF-8, each with a message."""
    if _is_utf8(chunk.data, chunk.scan.consumed):
        return []
    high = np.flatnonzero(np.frombuffer(chunk.data, np.uint8) >= 0x80)
    found = []
    for record in np.unique(np.searchsorted(chunk.scan.starts, high, side="right") - 1).tolist():
        if record < 0:
            continue
        try:
            chunk.raw(record).decode("utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            found.append((record, f"byte 0x{byte:02x} at position {error.start} of the record is not UTF-8"))
    return found


def _is_utf8(data: Text, size: int) -> bool:
    if data.isascii():
        return True
    offsets = pa.py_buffer(np.array([0, size], np.int32).tobytes())
    text = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(data))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
