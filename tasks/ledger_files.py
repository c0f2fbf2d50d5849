"""The ledger's Parquet files: their names and schema, how one is written, and how rows are read out of many.

Nothing here reads a whole ledger: files are read a row group at a time, and no row group holds more than `GROUP_ROWS`
rows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout._regular import check_regular
from prefect_fanout.tasks.key_index import Entry, Source
from prefect_fanout.tasks.ownership import LEDGER_FILE, LEDGER_FOLDER
from prefect_fanout.tasks.run_directory import commit_file, temporary_name

GROUP_ROWS = 32_768
"""Most rows per row group, and most rows in memory while ledger.parquet is made: about 30 MB of usual rows.

Arrow's authors found that smaller groups cost more to write and read than they save (apache/arrow#15220)."""

COMPRESSION: Final = "zstd"
"""Parquet codec: a fifth to a third smaller than snappy on text, and the ledger is text."""

KEY = b"fanout.key"
"""Parquet metadata: the name of the key column."""

LAST_PART = b"fanout.last_part"
"""Parquet metadata of ledger.parquet: the number of the newest part that it holds."""

COMMON_COLUMNS: tuple[pa.Field[Any], ...] = (
    pa.field("index", pa.int64(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_kind", pa.string()),
    pa.field("error", pa.string()),
    pa.field("attempts", pa.int32()),
    pa.field("started", pa.timestamp("us", tz="UTC")),
    pa.field("seconds", pa.float64()),
)
"""The columns that every ledger has, besides its key."""

_COMPACTED_ID = 0
_PART = re.compile(r"part-(\d{8,})\.parquet\Z")
_UNREADABLE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError, ValueError)


def ledger_schema(key: str, *columns: pa.Field[Any]) -> pa.Schema:
    """Build a ledger's schema: the common columns, the key, and the columns of a pipeline.

    Args:
        key: name of the column that identifies an item across reruns.
        columns: what the pipeline adds.
    """
    return pa.schema([COMMON_COLUMNS[0], pa.field(key, pa.string(), nullable=False), *COMMON_COLUMNS[1:], *columns])


def check_schema(schema: pa.Schema, key: str) -> None:
    """Raise UsageError unless the schema holds the common columns and the key, with their types."""
    for wanted in (*COMMON_COLUMNS, pa.field(key, pa.string())):
        found = schema.field(wanted.name).type if wanted.name in schema.names else None
        if found != wanted.type:
            raise UsageError(
                f"A ledger needs a column {wanted.name!r} of type {wanted.type}, but the schema has "
                f"{'none' if found is None else found}. Build the schema with ledger_schema({key!r}, ...)."
            )
    if len(set(schema.names)) != len(schema.names):
        raise UsageError(f"The columns of a ledger need different names, but are {schema.names}.")


def part_path(run: Path, number: int) -> Path:
    """Give the final name of a part."""
    return run / LEDGER_FOLDER / f"part-{number:08d}.parquet"


def ledger_paths(run: Path) -> list[Path]:
    """List the Parquet files of a ledger that are there, oldest rows first, also those that hold the same rows."""
    folder = run / LEDGER_FOLDER
    parts = sorted(path for path in folder.iterdir() if _PART.match(path.name)) if folder.is_dir() else []
    return [path for path in (run / LEDGER_FILE, *parts) if path.exists()]


def source_of(path: Path, number: int) -> Source:
    """Describe a file as it is now.

    Raises:
        FileNotFoundError: it is gone.
        RunFailed: it is no regular file; reading a FIFO in its place would not end.
    """
    with readable(path):
        stat = check_regular(path)
    return Source(number, path.name, stat.st_size, stat.st_mtime_ns)


def list_sources(run: Path) -> tuple[list[Source], list[Path], int]:
    """List the Parquet files of a ledger, oldest rows first.

    Returns:
        The files that count; parts that ledger.parquet holds already, left behind by a killed compaction; and the
        highest part number that was ever used.
    """
    folder = run / LEDGER_FOLDER
    # The parts first: a compaction that ends in between is then seen as ledger.parquet holding parts of this list.
    numbers = sorted(
        int(match[1])
        for match in (_PART.match(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
        if match
    )
    compacted = run / LEDGER_FILE
    sources = []
    last_part = 0
    if compacted.exists():
        sources.append(source_of(compacted, _COMPACTED_ID))
        last_part = _last_part(compacted)
    sources += [source_of(part_path(run, number), number) for number in numbers if number > last_part]
    leftovers = [part_path(run, number) for number in numbers if number <= last_part]
    return sources, leftovers, max([last_part, *numbers])


def path_of(run: Path, source: int) -> Path:
    """Give the path of a source by its id."""
    return run / LEDGER_FILE if source == _COMPACTED_ID else part_path(run, source)


def _last_part(compacted: Path) -> int:
    with readable(compacted):
        return int((pq.read_schema(compacted).metadata or {})[LAST_PART])


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes pyarrow raise into an error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (*_UNREADABLE, KeyError) as error:
        raise RunFailed(
            f"{path} should be a Parquet file of this run's ledger, but cannot be read: {error}. Remove that file to "
            "have its items repeated, or start anew with --fresh (option `fresh`)."
        ) from error


def check_readable(path: Path, schema: pa.Schema, key: str) -> None:
    """Raise unless a file's rows fit a schema: same key, no column that is unknown, no type that is different."""
    with readable(path):
        found = pq.read_schema(path)
        theirs = (found.metadata or {}).get(KEY, b"").decode()
    problems = [f"its key is {theirs!r} instead of {key!r}"] if theirs != key else []
    for field in found:
        ours = schema.field(field.name) if field.name in schema.names else None
        if ours is None:
            problems.append(f"this version knows no column {field.name!r}")
        elif ours != field:
            problems.append(f"its column {field.name!r} is {_type_text(field)} instead of {_type_text(ours)}")
    lacking = [field.name for field in schema if field.name not in found.names and not field.nullable]
    problems += [f"it has no column {name!r}" for name in lacking]
    if problems:
        raise UsageError(
            f"{path} was written by another version: {', '.join(problems)}. Start anew with --fresh (option `fresh`), "
            "or choose another folder."
        )


def _type_text(field: pa.Field[Any]) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def read_entries(path: Path, source: int, key: str) -> Iterator[Entry]:
    """Give what the index keeps of each row of a file, `GROUP_ROWS` rows in memory at most."""
    row = 0
    file = pq.ParquetFile(path)
    try:
        for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=[key, "status", "error_kind", "index"]):
            columns = [batch.column(name).to_pylist() for name in (key, "status", "error_kind", "index")]
            for name, status, kind, position in zip(*columns, strict=True):
                yield Entry(name, status, kind, position, source, row)
                row += 1
    finally:
        file.close()


def read_rows(path: Path, rows: Sequence[int], schema: pa.Schema) -> pa.Table:
    """Read some rows of a file, in the given order; only their row groups are read, one at a time.

    Args:
        path: a Parquet file of the ledger.
        rows: positions in the file.
        schema: what to return; columns that the file lacks are null.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    with readable(path):
        file = pq.ParquetFile(path)
        try:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = np.searchsorted(starts, wanted, side="right") - 1
            hit = np.unique(groups)
            pieces = [
                _conform(file.read_row_group(int(group)), schema).take(wanted[groups == group] - starts[group])
                for group in hit
            ]
        finally:
            file.close()
    # The pieces hold the rows group by group; put them back in the order that was asked for.
    order = np.argsort(np.concatenate([np.flatnonzero(groups == group) for group in hit]))
    return pa.concat_tables(pieces).take(order)


def read_group(path: Path, row: int, schema: pa.Schema) -> tuple[int, pa.Table]:
    """Read the row group that holds a row; give the position of its first row, and its rows."""
    with readable(path):
        file = pq.ParquetFile(path)
        try:
            start = 0
            for number in range(file.num_row_groups):
                size = file.metadata.row_group(number).num_rows
                if row < start + size:
                    return start, _conform(file.read_row_group(number), schema)
                start += size
        finally:
            file.close()
    raise RunFailed(f"{path} should hold more than {row} rows, but holds {start}. Start anew with --fresh.")


def gather(run: Path, block: Sequence[tuple[int, int]], schema: pa.Schema) -> pa.Table:
    """Read rows of many files, in the given order; one row group of one file is in memory beside the result.

    Args:
        run: the run directory.
        block: source id and position in that file, for each row.
        schema: what to return.
    """
    sources = np.fromiter((source for source, _ in block), dtype=np.int64, count=len(block))
    rows = np.fromiter((row for _, row in block), dtype=np.int64, count=len(block))
    hit = np.unique(sources)
    pieces = [read_rows(path_of(run, int(source)), rows[sources == source], schema) for source in hit]
    order = np.argsort(np.concatenate([np.flatnonzero(sources == source) for source in hit]))
    return pa.concat_tables(pieces).take(order)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns that an older version did not write."""
    columns = [
        table.column(field.name) if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def write_file(final: Path, tables: Iterator[pa.Table], schema: pa.Schema, metadata: Mapping[bytes, bytes]) -> None:
    """Write and commit one Parquet file; after a failure neither it nor its temporary name is there.

    Args:
        final: its name.
        tables: its rows, in tables of bounded size; each becomes a row group of its own, or several of `GROUP_ROWS`.
        schema: its columns.
        metadata: file metadata.

    Raises:
        OSError: the disk refused.
    """
    temporary = temporary_name(final)
    writer: Any = None
    try:
        # Not as a context manager: after an exception that would write a valid footer under a part of the rows.
        writer = pq.ParquetWriter(temporary, schema.with_metadata(dict(metadata)), compression=COMPRESSION)
        for table in tables:
            writer.write_table(table, row_group_size=GROUP_ROWS)
        writer.close()
    except BaseException:
        if writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):  # closing says again what the disk just said
                writer.close()
        temporary.unlink(missing_ok=True)
        raise
    commit_file(temporary, final)


def rows_to_table(
    buffer: Mapping[str, dict[str, Any]], schema: pa.Schema
) -> tuple[pa.Table, list[dict[str, Any]], list[str]]:
    """Turn rows into a table; a row that does not fit is left out and said why, it does not cost the others."""
    rows = list(buffer.values())
    try:
        return pa.Table.from_pylist(rows, schema=schema), rows, []
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        pass  # one of them does not fit: find out which
    kept, refused = [], []
    for row in rows:
        cleaned = {name: clean_text(value) if isinstance(value, str) else value for name, value in row.items()}
        try:
            pa.Table.from_pylist([cleaned], schema=schema)
            kept.append(cleaned)
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError) as error:
            refused.append(f"{cleaned!r} ({error})")
    return pa.Table.from_pylist(kept, schema=schema), kept, refused


def clean_text(text: str) -> str:
    """Spell out what UTF-8 cannot hold: half a surrogate pair, as a file name that is no text may bring."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
