"""The ledger row of one CSV file."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from prefect_fanout.tasks.ledger import ledger_schema
from prefect_fanout.tasks.tables.options import CsvOptions
from prefect_fanout.tasks.tables.sources import SourceFile

KEY = "source_key"
"""The file's absolute path, symbolic links resolved; ``path#2`` when the input names it a second time."""

SCHEMA = ledger_schema(
    KEY,
    pa.field("source", pa.string()),  # as the user gave it, or as the pattern found it
    pa.field("duplicate_of", pa.string()),  # the source that named the same file before
    pa.field("path", pa.string()),  # relative to the run directory, as the next one
    pa.field("rejects_path", pa.string()),  # null when every record is a row
    pa.field("rows_in", pa.int64()),  # records in the file; the sum of the next two, unless it has too many rejects
    pa.field("rows_out", pa.int64()),  # rows in its Parquet file
    pa.field("rejected", pa.int64()),
    pa.field("blank_lines", pa.int64()),
    pa.field("bytes_in", pa.int64()),  # from here to `options`: what a rerun compares
    pa.field("mtime_ns", pa.int64()),
    pa.field("edges", pa.string()),
    pa.field("sha256", pa.string()),  # null when a failure kept the file from being read to its end
    pa.field("options", pa.string()),  # digest of the options that change what is written
    pa.field("encoding", pa.string()),
    pa.field("compression", pa.string()),
    pa.field("delimiter", pa.string()),
    pa.field("columns", pa.string()),  # JSON object: type by name, in order
    pa.field("notes", pa.string()),  # JSON object: what was noticed, such as renamed columns
)

Row = dict[str, Any]


def new_row(source: SourceFile, options: CsvOptions) -> Row:
    """A row of which the status is still to be decided."""
    return {
        "index": source.index,
        KEY: printable(source.key),
        "attempts": 1,
        "started": datetime.now(UTC),
        "source": printable(source.source),
        "options": options.result_key(),
    }


def failed(row: Row, kind: str, error: str) -> Row:
    """The row of a file that could not be ingested."""
    return {**row, "status": "failed", "error_kind": kind, "error": error}


def printable(path: str) -> str:
    """A path as text that Parquet can hold: bytes that are not UTF-8 are shown as hexadecimal escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
