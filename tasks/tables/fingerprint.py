"""Whether a file is still the one that was ingested.

The ledger keeps size, modification time, a digest of the first and last 64 KiB, and a digest of all bytes. On a rerun:

* another size, or other first or last 64 KiB: changed;
* the same, with the same modification time: unchanged, without reading the rest;
* the same, with another modification time (a copy, a touch): the digest of all bytes decides.

So a change is overlooked only if it keeps size and modification time, to the nanosecond, and both ends of the file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from prefect_fanout.tasks.tables.sources import open_file

EDGE_BYTES = 64 * 1024
"""Bytes at each end of a file that are compared on every rerun."""


def fingerprint(path: Path, within: Path | None = None) -> dict[str, Any]:
    """Size, modification time and edges of a file, under the names of the ledger's columns.

    Args:
        path: The file.
        within: The folder that is not left when the file is opened; see `sources.open_file`.

    Raises:
        OSError: It is gone, or cannot be read.
    """
    with io.BufferedReader(open_file(path, within)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is no regular file", str(path))
        return {"bytes_in": status.st_size, "mtime_ns": status.st_mtime_ns, "edges": _edges(file, status.st_size)}


def is_unchanged(path: Path, row: Mapping[str, Any], within: Path | None = None) -> bool:
    """Whether a file still has the content that a row of the ledger was made from.

    Args:
        path: The file.
        row: A row with bytes_in, mtime_ns, edges and sha256; null where they were never read.
        within: As for `fingerprint`.
    """
    try:
        now = fingerprint(path, within)
        if (now["bytes_in"], now["edges"]) != (row["bytes_in"], row["edges"]):
            return False
        if now["mtime_ns"] == row["mtime_ns"]:
            return True
        with io.BufferedReader(open_file(path, within)) as file:
            return row["sha256"] is not None and hashlib.file_digest(file, "sha256").hexdigest() == row["sha256"]
    except OSError:
        return False  # the ingest itself reports what is wrong with it


def _edges(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256(file.read(EDGE_BYTES))
    file.seek(max(size - EDGE_BYTES, 0))
    digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
