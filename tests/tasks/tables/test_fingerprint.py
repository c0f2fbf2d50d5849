from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from prefect_fanout.tasks.tables.fingerprint import EDGE_BYTES, fingerprint, is_unchanged

CONTENT = os.urandom(3 * EDGE_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file larger than both of its edges."""
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT)
    return path


def _row(path: Path) -> dict[str, Any]:
    return fingerprint(path) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_the_same_file_is_unchanged(path: Path) -> None:
    """And so is one that was only touched or copied back."""
    row = _row(path)
    assert is_unchanged(path, row)
    os.utime(path, ns=(0, 0))
    assert is_unchanged(path, row)


@pytest.mark.parametrize("position", [0, EDGE_BYTES + 1, len(CONTENT) - 1])
def test_another_byte_is_a_change(path: Path, position: int) -> None:
    """At the edges whatever the time of modification, between them if that differs."""
    row = _row(path)
    changed = bytearray(CONTENT)
    changed[position] ^= 1
    path.write_bytes(bytes(changed))
    os.utime(path, ns=(0, 0))
    assert not is_unchanged(path, row)


def test_another_size_or_no_file_is_a_change(path: Path) -> None:
    """Whatever else is the same."""
    row = _row(path)
    path.write_bytes(CONTENT[:-1])
    assert not is_unchanged(path, row)
    path.unlink()
    assert not is_unchanged(path, row)


def test_a_row_without_a_digest_holds_until_the_file_is_touched(path: Path) -> None:
    """A file that failed before its end was read has only its edges."""
    row = fingerprint(path) | {"sha256": None}
    assert is_unchanged(path, row)
    os.utime(path, ns=(0, 0))
    assert not is_unchanged(path, row)


def test_a_row_without_a_fingerprint_matches_nothing(path: Path) -> None:
    """A file that had vanished is always tried again."""
    assert not is_unchanged(path, dict.fromkeys(("bytes_in", "mtime_ns", "edges", "sha256")))


@pytest.mark.parametrize("size", [0, 1, 2, EDGE_BYTES, EDGE_BYTES + 1])
def test_small_files_have_fingerprints(tmp_path: Path, size: int) -> None:
    """Also where the two edges are one."""
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT[:size])
    assert is_unchanged(path, _row(path))


def test_nothing_outside_the_folder_is_looked_at(tmp_path: Path) -> None:
    """A link or a pipe that took the place of a file is not the file, and not even a digest is made of it."""
    folder = tmp_path.resolve() / "in"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"SECRET")
    row = fingerprint(secret) | {"sha256": None}
    (folder / "a.csv").symlink_to(secret)
    assert is_unchanged(folder / "a.csv", row)
    assert not is_unchanged(folder / "a.csv", row, folder)
    with pytest.raises(OSError, match="symbolic link"):
        fingerprint(folder / "a.csv", folder)
    os.mkfifo(folder / "b.csv")
    with pytest.raises(OSError, match="no regular file"):
        fingerprint(folder / "b.csv", folder)
