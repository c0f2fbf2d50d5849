"""The ledger's index: where the newest row of each key is, in an sqlite file that is only ever a cache.

The Parquet files are the truth. What keeps a lost, stale or torn index from being trusted:

1. While it is in use the file has a temporary name, which the run directory sweeps after a kill;
2. it gets its final name when it is closed, fsynced, in one rename;
3. it holds the name, size and time of every Parquet file it was made from. `KeyIndex.open` gives it back only when
   these are the files that are there now; otherwise it gives an empty one, to be filled again;
4. its schema is letter for letter the one below, for a view or a trigger of somebody else could run without end. The
   file has no second name elsewhere, under which it would change too.

So sqlite itself runs without a journal and without fsync, and a commit costs one pass over the touched pages.
Memory is bounded by `CACHE_KIB`, whatever the number of keys.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from prefect_fanout.tasks.run_directory import commit_file, fsync_folder, temporary_name

CACHE_KIB = 16 * 1024
"""What sqlite may keep in memory, in KiB: the inner pages of an index of some ten million keys."""

BATCH_ROWS = 32_768
"""Rows handed to sqlite, or taken from it, at a time. Sorted by key a batch of this size is inserted twice as fast."""

DIGEST_BYTES = 16
"""Keys are stored as digests of this size: 128 bits make a collision less likely than a disk that lies."""

_SCHEMA = """
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, mtime_ns INTEGER);
CREATE TABLE rows (digest BLOB PRIMARY KEY, status TEXT, error_kind TEXT, position INTEGER, source INTEGER,
                   row INTEGER) WITHOUT ROWID;
CREATE TABLE format (version INTEGER, key TEXT);
"""
_FORMAT = 1


class Source(NamedTuple):
    """A Parquet file of the ledger as it was when it was indexed; a newer file has a higher id."""

    id: int
    name: str
    size: int
    mtime_ns: int


class Entry(NamedTuple):
    """What the index knows of the newest row of a key."""

    key: str
    status: str
    error_kind: str | None
    position: int
    """Position of the item in the input: the ledger's column `index`."""
    source: int
    """Id of the Parquet file that holds the row."""
    row: int
    """Position of the row in that file."""


class KeyIndex:
    """Where the newest row of each key is. Not thread-safe: the ledger calls it under its lock."""

    def __init__(self, final: Path, working: Path) -> None:
        self._final = final
        self._working = working
        self._whole = True  # False from the start of a change until it has succeeded: there is no journal to undo it
        # One thread at a time uses the connection, but not always the same one: the ledger's lock sees to it.
        self._connection = sqlite3.connect(working, isolation_level=None, check_same_thread=False)

    @classmethod
    def open(cls, final: Path, *, key: str, sources: Iterable[Source]) -> tuple[KeyIndex, bool]:
        """Open the index of these files.

        Args:
            final: name of the index file between sessions.
            key: name of the ledger's key column.
            sources: the Parquet files that are there now.

        Returns:
            The index, and whether it is complete. If not, it is empty: `add` every source to it, oldest first.
        """
        working = temporary_name(final)
        if os.path.lexists(final):
            final.replace(working)
            fsync_folder(final.parent)
            index = cls._reuse(final, working, key, set(sources))
            if index is not None:
                return index, True
            working.unlink()
        index = cls(final, working)
        index._set_up()
        index._connection.executescript(_SCHEMA)
        index._connection.execute("INSERT INTO format VALUES (?, ?)", (_FORMAT, key))
        return index, False

    @classmethod
    def _reuse(cls, final: Path, working: Path, key: str, sources: set[Source]) -> KeyIndex | None:
        status = working.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return None
        index = cls(final, working)
        try:
            index._set_up()
            if index._is_of(key, sources):
                return index
        except sqlite3.DatabaseError:
            pass  # not an index, or not one of this version: the caller makes a new one
        index._connection.close()
        return None

    def _is_of(self, key: str, sources: set[Source]) -> bool:
        """Return whether the file is an index of these sources; nothing in it is asked before its schema is known."""
        read = self._connection.execute
        if _schema_of(self._connection) != _new_schema():
            return False
        if read("SELECT version, key FROM format").fetchmany(2) != [(_FORMAT, key)]:
            return False
        rows = read("SELECT id, name, size, mtime_ns FROM sources").fetchmany(len(sources) + 1)
        return {Source(*row) for row in rows} == sources

    def _set_up(self) -> None:
        self._connection.execute("PRAGMA trusted_schema = OFF")  # before the schema is read
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    def close(self, *, keep: bool) -> None:
        """Close the file; keep it for the next session, or remove it, as also after a change that failed."""
        self._connection.close()
        if keep and self._whole:
            commit_file(self._working, self._final)
        else:
            self._working.unlink(missing_ok=True)

    def add(self, source: Source, entries: Iterable[Entry]) -> None:
        """Index the rows of one file; they are newer than all rows so far.

        Args:
            source: the committed Parquet file.
            entries: its rows, oldest first.
        """
        execute = self._connection.execute
        self._whole = False
        execute("BEGIN")
        rows = ((_digest(entry.key), *entry[1:]) for entry in entries)
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            batch.sort(key=itemgetter(0))  # stable: of equal keys the newer row stays behind the older
            self._connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", batch)
        execute("INSERT INTO sources VALUES (?, ?, ?, ?)", source)
        execute("COMMIT")
        self._whole = True

    def find(self, key: str) -> Entry | None:
        """Give what is known of the newest row of a key, or None."""
        found = self._connection.execute(
            "SELECT status, error_kind, position, source, row FROM rows WHERE digest = ?", (_digest(key),)
        ).fetchone()
        return None if found is None else Entry(key, *found)

    def counts(self) -> dict[str, int]:
        """Count the keys per status."""
        return dict(self._connection.execute("SELECT status, count(*) FROM rows GROUP BY status"))

    def failures(self) -> dict[str | None, int]:
        """Count the failed keys per kind of error."""
        query = "SELECT error_kind, count(*) FROM rows WHERE status = 'failed' GROUP BY error_kind"
        return dict(self._connection.execute(query))

    def examples(self, per_kind: int) -> list[tuple[int, int]]:
        """Give source and row of the first failures of each kind, ordered by position in the input.

        Args:
            per_kind: how many of each kind at most.
        """
        query = """
            SELECT source, row FROM (
                SELECT position, source, row,
                       row_number() OVER (PARTITION BY error_kind ORDER BY position, source, row) AS number
                FROM rows WHERE status = 'failed')
            WHERE number <= ? ORDER BY position, source, row"""
        return [(source, row) for source, row in self._connection.execute(query, (per_kind,))]

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Give source and row of every newest row, ordered by position in the input. sqlite sorts on disk."""
        cursor = self._connection.execute("SELECT source, row FROM rows ORDER BY position, source, row")
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield from rows

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM rows").fetchone()
        return int(count)


def _new_schema() -> list[tuple[str | None, ...]]:
    """Return the schema of a new index, as `_schema_of` does."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(_SCHEMA)
        return _schema_of(connection)
    finally:
        connection.close()


def _schema_of(connection: sqlite3.Connection) -> list[tuple[str | None, ...]]:
    """Return all that a schema holds, and how it was written: tables, but also views, triggers and others."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()
