"""A Parquet file that appears under its name only when it is whole and holds the rows it should."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_fanout.tasks.run_directory import commit_file, temporary_name
from prefect_fanout.tasks.tables.options import Codec

ROW_GROUP_ROWS = 128 * 1024
"""Rows that are encoded at once. Below that writing slows down (37 Ki cost half as much again, arrow#15220); twice as
many took a tenth longer here, as fresh memory has to be cleared first."""

ROW_GROUP_BYTES = 64 * 1024 * 1024
"""Bytes of Arrow data after which a row group is encoded even if it has fewer rows: the bound for wide tables."""

ROW_GROUPS_IN_FLIGHT = 2
"""With `overlap`: one row group being encoded while the next one is gathered."""


class ParquetFile:
    """Writes tables to a temporary file in large row groups; `commit` gives it its name.

    Leaving the `with` block without `commit` removes the temporary file: a writer that is closed after an error would
    have written a valid footer below half of the rows.

    Cancellation and shutdown: a thread has the disk take each row group while the next rows are prepared, as `commit`
    would otherwise wait for all of them; with `overlap`, another one encodes. Leaving the block waits for both to end.
    Their errors are raised by the next `write` or by `close`.

    Args:
        final: The name the file shall have.
        schema: Its columns.
        codec: "zstd", "snappy" or "none".
        dictionary: Columns to build dictionaries for.
        overlap: Encode in a thread of its own while the caller prepares more rows.

    Raises:
        OSError: From any method: the disk refused.
    """

    def __init__(
        self, final: Path, schema: pa.Schema, *, codec: Codec, dictionary: Collection[str] = (), overlap: bool = False
    ) -> None:
        self.final = final
        self.temporary = temporary_name(final)
        self.schema = schema
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0
        self._encoder = ThreadPoolExecutor(1, "encode") if overlap else None
        self._encoding: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._flushing: Future[None] | None = None
        self._closed = False
        # an own sink: the writer would delete a file it opened itself, and hide the error it met
        self._sink = pa.OSFile(str(self.temporary), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression=codec,
            compression_level=_level(codec),
            use_dictionary=list(dictionary),  # type: ignore[arg-type] # the stubs know only the bool form
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._encoder is not None:
            self._encoder.shutdown(wait=True)
        self._flusher.shutdown(wait=True)
        if not self._closed:
            # the footer goes to a file that is removed in the next line, and a full disk was reported already
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._sink.close()
        self.temporary.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Add rows; they are encoded once there are enough for a row group."""
        if not table.num_rows:
            return
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._encode()

    def close(self) -> int:
        """Write what is left and the footer.

        Returns:
            The number of rows in the file, read back from its footer.
        """
        self._encode()
        self._wait()
        if self._flushing is not None:
            self._flushing.result()
        self._writer.close()
        self._sink.close()
        self._closed = True
        return int(pq.read_metadata(self.temporary).num_rows)

    def commit(self) -> None:
        """Give the closed file its name, for good."""
        commit_file(self.temporary, self.final)

    def _encode(self) -> None:
        if not self._tables:
            return
        table = pa.concat_tables(self._tables)
        self._tables, self._rows, self._bytes = [], 0, 0
        if self._encoder is None:
            self._write_group(table)
            return
        self._wait()
        self._encoding = self._encoder.submit(self._write_group, table)

    def _write_group(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        if self._flushing is not None and self._flushing.done():
            flushed, self._flushing = self._flushing, None
            flushed.result()
        if self._flushing is None:
            self._flushing = self._flusher.submit(os.fsync, self._sink.fileno())

    def _wait(self) -> None:
        if self._encoding is not None:
            encoding, self._encoding = self._encoding, None
            encoding.result()


def _level(codec: Codec) -> int | None:
    return 1 if codec == "zstd" else None  # level 3 takes a quarter longer to write and saves 3 %
