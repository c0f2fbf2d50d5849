"""Which URLs of the list came before, in bounded memory."""

from __future__ import annotations

import hashlib
import sqlite3
from types import TracebackType

CACHE_KIB = 16 * 1024
"""What sqlite may keep in memory, in KiB; the rest lies in a temporary file that sqlite removes itself."""
DIGEST_BYTES = 16
"""URLs are kept as digests of this size: 128 bits make a false match less likely than a disk that lies."""


class SeenUrls:
    """The position at which each URL came first. Use it as a context manager; it belongs to one thread."""

    def __init__(self) -> None:
        # The empty name is sqlite's own way to ask for a private database on disk, removed when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE seen (digest BLOB PRIMARY KEY, position INTEGER) WITHOUT ROWID",
            "BEGIN",  # one transaction for ever: a private database needs no commit
        ):
            self._database.execute(statement)

    def __enter__(self) -> SeenUrls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def first(self, key: str, position: int) -> int:
        """Where the URL came first: the given position when it is new.

        Args:
            key: URL in normal form.
            position: Position in the list at which it stands now.
        """
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, position))
        if added.rowcount:
            return position
        found = self._database.execute("SELECT position FROM seen WHERE digest = ?", (digest,)).fetchone()
        return int(found[0])
