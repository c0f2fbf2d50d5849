"""The ledger: a durable Parquet dataset with one row per item, kept while the items are worked on.

What it promises:

1. `flush` returns when its rows are on the disk for good. An appended row is flushed after `part_rows` rows or
   `part_seconds` seconds at the latest, and at the end of the `with` block, also when an exception ends it.
2. `kill -9` at any moment leaves no half file under a final name and loses no flushed row: parts and `ledger.parquet`
   are written under temporary names, fsynced, renamed.
3. Only the newest row of a key counts: in `counts`, in `failures`, in `ledger.parquet` and in `read_ledger`.
4. Compaction is one rename. `ledger.parquet` says in its metadata which part is the newest that it holds: parts that a
   killed compaction left behind are never counted a second time.
5. Memory is bounded by `part_rows`, `GROUP_ROWS` and the index's cache, whatever the number of rows and files.

Files, oldest rows first: `ledger.parquet`, then `ledger/part-00000001.parquet` and so on; within a file, later rows are
newer. A part number is never used twice in the life of a run directory.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.key_index import Entry, KeyIndex
from prefect_fanout.tasks.ledger_files import (
    GROUP_ROWS,
    KEY,
    LAST_PART,
    check_readable,
    check_schema,
    clean_text,
    gather,
    ledger_schema,
    list_sources,
    part_path,
    path_of,
    read_entries,
    read_group,
    readable,
    rows_to_table,
    source_of,
    write_file,
)
from prefect_fanout.tasks.ledger_reader import read_ledger
from prefect_fanout.tasks.ownership import INDEX_FILE, LEDGER_FILE, LEDGER_FOLDER
from prefect_fanout.tasks.run_directory import RunDirectory, fsync_folder, storage_failure

__all__ = ["ERROR_CHARS", "Ledger", "ledger_schema", "read_ledger"]

ERROR_CHARS = 2_000
"""Longest `error` that is kept, in characters; the rest of a longer one is cut."""


class Ledger:
    """One durable row per item; use it as a context manager inside an open run directory.

    All methods belong to the thread that made the ledger (a flow's): the order of `append` decides which row of a key
    is the newest. One thread of its own commits rows that have waited `part_seconds`; one lock guards all state, which
    is the buffer, the index and the next part number.

    Cancellation and shutdown: `close` (the end of the `with` block) ends that thread and commits what is buffered.
    An error of that thread is raised by the next call of `append`, `flush` or `close`.
    """

    def __init__(
        self, run: RunDirectory, schema: pa.Schema, *, key: str, part_rows: int = 5_000, part_seconds: float = 5.0
    ) -> None:
        """Open the ledger of a run, with all rows of its earlier sessions.

        Args:
            run: the open run directory.
            schema: the columns; see `ledger_schema`.
            key: name of the column that identifies an item across reruns.
            part_rows: rows after which a part is committed; the most that is ever buffered.
            part_seconds: age of the oldest buffered row after which a part is committed; 0 commits every row.

        Raises:
            UsageError: the schema lacks a column, a limit is out of range, or the folder's ledger has other columns.
            RunFailed: a file of the ledger is damaged, or the disk refused.
        """
        check_schema(schema, key)
        if part_rows < 1 or not part_seconds >= 0:
            raise UsageError(
                f"part_rows should be at least 1 and part_seconds at least 0, but they are "
                f"{part_rows} and {part_seconds}."
            )
        self._run = run
        self._schema = schema.remove_metadata()
        self._columns = frozenset(schema.names)
        self._required = [field.name for field in schema if not field.nullable]
        self._key = key
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._buffer: dict[str, dict[str, Any]] = {}
        self._due = math.inf
        self._changed = threading.Condition(threading.RLock())
        self._committer: threading.Thread | None = None
        self._committer_failed: Exception | None = None
        self._closed = False
        self._rows_moved = False  # a compaction moved the rows that the index points to
        self._cached: tuple[int, int, pa.Table] | None = (
            None  # source, first row, the row group that `row_of` read last
        )
        try:
            (run.path / LEDGER_FOLDER).mkdir(exist_ok=True)
            fsync_folder(run.path)
            self._index = self._open_index()
        except (OSError, sqlite3.Error) as error:
            raise storage_failure("The ledger", run.path, error) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RunFailed as second:
            if error is None:
                raise
            error.add_note(f"While this error ended the run, the ledger could not be closed: {second}")

    def __repr__(self) -> str:
        with self._changed:
            state = "closed" if self._closed else f"{len(self._buffer)} rows buffered"
            return f"<Ledger of {str(self._run.path)!r}, key {self._key!r}, {state}, next part {self._next_part}>"

    def close(self) -> None:
        """Commit what is buffered and let go of the index. Closing twice is allowed.

        Raises:
            RunFailed: the disk refused; rows that could not be committed are lost, their items will be repeated.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._committer is not None:
            self._committer.join()
        with self._changed:
            index_is_good = False
            try:
                self._flush()
                self._raise_committer_failure()
                index_is_good = not self._rows_moved
            finally:
                self._close_index(keep=index_is_good)

    def status_of(self, key: str) -> str | None:
        """Give the status of the newest row of a key, from earlier sessions or this one, or None."""
        key = clean_text(key)
        with self._opened():
            buffered = self._buffer.get(key)
            if buffered is not None:
                return str(buffered["status"])
            entry = self._index.find(key)
            return None if entry is None else entry.status

    def row_of(self, key: str) -> dict[str, Any] | None:
        """Give the newest row of a key with all its columns, or None. Fast for keys asked in the order of the input."""
        key = clean_text(key)
        with self._opened():
            buffered = self._buffer.get(key)
            if buffered is not None:
                return {name: buffered.get(name) for name in self._schema.names}
            self._follow_moved_rows()
            entry = self._index.find(key)
            return None if entry is None else self._row_at(entry.source, entry.row)

    def append(self, row: Mapping[str, object]) -> None:
        """Take a row; call it from one thread only. The row is on the disk after `part_rows` rows or `part_seconds`.

        Args:
            row: values by column name; a column that is left out is null. `error` is cut to `ERROR_CHARS` characters.

        Raises:
            UsageError: the row has a column that the schema lacks, or no index, key or status.
            RunFailed: the disk refused, now or when the ledger's own thread last committed.
        """
        taken = dict(row)
        self._check(taken)
        key = taken[self._key] = clean_text(str(taken[self._key]))
        error = taken.get("error")
        if isinstance(error, str) and len(error) > ERROR_CHARS:
            taken["error"] = error[: ERROR_CHARS - 1] + "\u2026"
        with self._opened():
            self._buffer.pop(key, None)  # so that the newer row also comes later in the part
            self._buffer[key] = taken
            if len(self._buffer) >= self._part_rows or self._part_seconds == 0:
                self._flush()
            elif len(self._buffer) == 1:
                self._due = time.monotonic() + self._part_seconds
                self._wake_committer()

    def flush(self) -> None:
        """Commit the buffered rows as one part; they are on the disk for good when this returns.

        Raises:
            RunFailed: the disk refused; the rows stay buffered.
        """
        with self._opened():
            self._flush()

    def counts(self) -> dict[str, int]:
        """Count the keys per status of their newest row; the sum is the number of keys."""
        with self._opened():
            counts = Counter(self._index.counts())
            for key, row in self._buffer.items():
                older = self._index.find(key)
                if older is not None:
                    counts[older.status] -= 1
                counts[str(row["status"])] += 1
            return dict(sorted((+counts).items()))

    def failures(self) -> dict[str, int]:
        """Count the failed keys per kind of error, most frequent first; the sum is `counts()["failed"]`."""
        with self._opened():
            kinds = Counter(self._index.failures())
            for key, row in self._buffer.items():
                older = self._index.find(key)
                if older is not None and older.status == "failed":
                    kinds[older.error_kind] -= 1
                if row["status"] == "failed":
                    kinds[row.get("error_kind")] += 1
        named: Counter[str] = Counter()
        for kind, count in kinds.items():
            named[kind or "unknown"] += count
        return dict(sorted((+named).items(), key=lambda item: (-item[1], item[0])))

    def failure_examples(self, *, per_kind: int = 3, limit: int = 20) -> list[dict[str, Any]]:
        """Give rows of failed items: the first of each kind of error in the order of the input.

        Commits what is buffered.

        Args:
            per_kind: most rows of one kind.
            limit: most rows in all.

        Raises:
            RunFailed: the disk refused.
        """
        with self._opened():
            self._flush()
            self._follow_moved_rows()
            block = self._index.examples(per_kind)[:limit]
            return gather(self._run.path, block, self._schema).to_pylist() if block else []

    def compact(self) -> Path:
        """Write `ledger.parquet`, one row per key, ordered by `index`, then remove the parts.

        The order comes from the index, which sorts on disk; the rows follow in blocks of `GROUP_ROWS`, each read from
        the row groups that hold it. Rows come nearly in the order of the input, so a row group is read about once per
        session; memory is one block and one row group in any case. Rows of equal `index` (the input changed between
        sessions) keep the order in which they were written.

        Returns:
            The path of `ledger.parquet`.

        Raises:
            RunFailed: the disk refused, or a part is damaged; all parts are still there then.
        """
        final = self._run.path / LEDGER_FILE
        with self._opened():
            self._flush()
            sources, _, last_part = list_sources(self._run.path)
            parts = [path_of(self._run.path, source.id) for source in sources if source.name != LEDGER_FILE]
            if final.exists() and not parts:
                return final
            self._follow_moved_rows()
            try:
                write_file(final, self._tables_in_order(), self._schema, self._metadata(last_part))
                self._rows_moved, self._cached = True, None
                for part in parts:
                    part.unlink()
            except (OSError, sqlite3.Error) as error:
                raise storage_failure("The ledger", final, error) from error
        return final

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the lock on a ledger that is open and whose own thread is well."""
        with self._changed:
            if self._closed:
                raise RunFailed(f"The ledger of {self._run.path} is closed. Use it inside its `with` block.")
            self._raise_committer_failure()
            yield

    def _check(self, row: dict[str, Any]) -> None:
        if not row.keys() <= self._columns:
            raise UsageError(
                f"A row of this ledger may have the columns {sorted(self._columns)}, but has also "
                f"{sorted(row.keys() - self._columns)}."
            )
        for name, kind in (("index", int), (self._key, str), ("status", str)):
            if not isinstance(row.get(name), kind):
                raise UsageError(f"A row of this ledger needs {name!r} as {kind.__name__}, but has {row.get(name)!r}.")
        for name in self._required:
            if row.get(name) is None:
                raise UsageError(f"A row of this ledger needs a value of {name!r}, but has none.")

    def _metadata(self, last_part: int | None = None) -> dict[bytes, bytes]:
        metadata = {KEY: self._key.encode()}
        return metadata if last_part is None else {**metadata, LAST_PART: str(last_part).encode()}

    def _flush(self) -> None:
        """Commit the buffer as one part, then index it. The caller holds the lock."""
        if not self._buffer:
            return
        table, kept, refused = rows_to_table(self._buffer, self._schema)
        final = part_path(self._run.path, self._next_part)
        try:
            if kept:
                write_file(final, iter([table]), self._schema, self._metadata())
                self._buffer, self._due = {}, math.inf
                self._next_part += 1
                self._index.add(source_of(final, self._next_part - 1), self._entries(kept, self._next_part - 1))
        except (OSError, sqlite3.Error) as error:
            raise storage_failure("The ledger part", final, error) from error
        self._buffer, self._due = {}, math.inf
        self._changed.notify_all()
        if refused:
            raise RunFailed(
                f"{len(refused)} rows do not fit the ledger's columns and were left out; the first is "
                f"{refused[0]}. This is an error in the pipeline that made the row; the other rows are committed."
            )

    def _entries(self, rows: list[dict[str, Any]], part: int) -> Iterator[Entry]:
        for number, row in enumerate(rows):
            yield Entry(row[self._key], row["status"], row.get("error_kind"), row["index"], part, number)

    def _tables_in_order(self) -> Iterator[pa.Table]:
        order = self._index.in_order()
        while block := list(itertools.islice(order, GROUP_ROWS)):
            yield gather(self._run.path, block, self._schema)

    def _row_at(self, source: int, row: int) -> dict[str, Any]:
        if self._cached is not None:
            held, start, table = self._cached
            if held == source and 0 <= row - start < table.num_rows:
                return dict(table.slice(row - start, 1).to_pylist()[0])
        start, table = read_group(path_of(self._run.path, source), row, self._schema)
        self._cached = (source, start, table)
        return dict(table.slice(row - start, 1).to_pylist()[0])

    def _open_index(self) -> KeyIndex:
        """Open the index of the files that are there; index them again if it does not match them."""
        sources, leftovers, last_part = list_sources(self._run.path)
        for leftover in leftovers:
            leftover.unlink()
        self._next_part = last_part + 1
        paths = {source: path_of(self._run.path, source.id) for source in sources}
        for path in paths.values():
            check_readable(path, self._schema, self._key)
        index, complete = KeyIndex.open(self._run.path / INDEX_FILE, key=self._key, sources=sources)
        try:
            for source, path in () if complete else paths.items():
                with readable(path):
                    index.add(source, read_entries(path, source.id, self._key))
        except BaseException:
            index.close(keep=False)
            raise
        return index

    def _follow_moved_rows(self) -> None:
        """Index the files again after a compaction, once somebody asks where a row is."""
        if self._rows_moved:
            self._index.close(keep=False)
            self._index = self._open_index()
            self._rows_moved = False

    def _close_index(self, *, keep: bool) -> None:
        try:
            self._index.close(keep=keep)
        except (OSError, sqlite3.Error) as error:
            raise storage_failure("The ledger's index", self._run.path / INDEX_FILE, error) from error

    def _wake_committer(self) -> None:
        if self._committer is None and self._part_seconds < threading.TIMEOUT_MAX:
            self._committer = threading.Thread(target=self._commit_when_due, name="ledger-committer", daemon=True)
            self._committer.start()
        self._changed.notify_all()

    def _commit_when_due(self) -> None:
        with self._changed:
            while not self._closed:
                remaining = self._due - time.monotonic()
                if remaining > 0:
                    self._changed.wait(None if math.isinf(remaining) else remaining)
                    continue
                try:
                    self._flush()
                except Exception as error:  # noqa: BLE001 - not lost: the flow's thread raises it
                    self._committer_failed = error
                    self._changed.notify_all()
                    return

    def _raise_committer_failure(self) -> None:
        if self._committer_failed is not None:
            failed, self._committer_failed = self._committer_failed, None
            self._committer = None  # a later row starts it again
            raise failed
