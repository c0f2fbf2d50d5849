"""Which URLs of the list came before, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from types import TracebackType

CACHE_KIB = 16 * 1024
"""What sqlite may keep in memory, in KiB; the rest lies in a temporary file that sqlite removes itself."""
DIGEST_BYTES = 16
"""URLs are kept as digests of this size: 128 bits make a false match less likely than a disk that lies."""

# json_each gives the digests in the order of the batch, so the first of equal ones is the one that is kept.
_ADD = "INSERT OR IGNORE INTO seen SELECT value, ? + key FROM json_each(?)"
_EARLIER = """
SELECT batch.key, seen.position FROM json_each(?) AS batch JOIN seen ON seen.digest = batch.value
WHERE seen.position <> ? + batch.key
"""


class SeenUrls:
    """The position at which each URL came first. Use it as a context manager; it belongs to one thread.

    It takes batches, because every step of a statement lets go of the interpreter's lock, and a thread that reads a
    list while many others work waits milliseconds to get it back: two statements per batch instead of two per URL.
    """

    def __init__(self) -> None:
        # The empty name is sqlite's own way to ask for a private database on disk, removed when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE seen (digest TEXT PRIMARY KEY, position INTEGER) WITHOUT ROWID",
            "BEGIN",  # one transaction for ever: a private database needs no commit
        ):
            self._database.execute(statement)

    def __enter__(self) -> SeenUrls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def first(self, keys: Sequence[str], position: int) -> dict[int, int]:
        """Which of these URLs came before, and where first.

        Args:
            keys: URLs in normal form, as they follow each other in the list.
            position: Position in the list of the first of them.

        Returns:
            By the offset in `keys` of each one that came before, earlier in `keys` or in an earlier batch: the position
            in the list at which it came first.
        """
        batch = json.dumps([_digest(key) for key in keys])
        self._database.execute(_ADD, (position, batch))
        return dict(self._database.execute(_EARLIER, (batch, position)).fetchall())


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
