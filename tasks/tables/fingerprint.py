"""Whether a file is still the one that was ingested.

The ledger keeps size, modification time, a digest of the first and last 64 KiB, and a digest of all bytes. On a rerun:

* another size, or other first or last 64 KiB: changed;
* the same, with the same modification time: unchanged, without reading the rest;
* the same, with another modification time (a copy, a touch): the digest of all bytes decides.

So a change is overlooked only if it keeps size and modification time, to the nanosecond, and both ends of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

EDGE_BYTES = 64 * 1024
"""Bytes at each end of a file that are compared on every rerun."""


def edges_digest(path: Path) -> str:
    """A digest of the first and last 64 KiB of a file."""
    with path.open("rb") as file:
        return _edges(file, path.stat().st_size)


def is_unchanged(path: Path, row: Mapping[str, object]) -> bool:
    """Whether a file still has the content that a row of the ledger was made from.

    Args:
        path: The file.
        row: A row with bytes_in, mtime_ns, edges and sha256; null where they were never read.
    """
    if row.get("sha256") is None or row.get("edges") is None:
        return False
    try:
        status = path.stat()
        if status.st_size != row["bytes_in"]:
            return False
        with path.open("rb") as file:
            if _edges(file, status.st_size) != row["edges"]:
                return False
            if status.st_mtime_ns == row["mtime_ns"]:
                return True
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest() == row["sha256"]
    except OSError:
        return False  # the ingest itself reports what is wrong with it


def _edges(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256(file.read(EDGE_BYTES))
    file.seek(max(size - EDGE_BYTES, 0))
    digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
