"""The bytes of one download: counted, hashed, in memory while they are few, else in a temporary file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import IO

from prefect_fanout.tasks.run_directory import storage_failure, temporary_name

MEMORY_BYTES = 1024 * 1024
"""A body up to this size stays in memory and is written once; most images on the web are smaller."""

_UNNAMED = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112 - a Path says no more
"""The flag that makes a file without a name; 0 where the system has none, or no way to name it later."""


class Body:
    """What a client writes the response's bytes into; `save` gives them their final name, `close` forgets them.

    A disk that refuses raises RunFailed: no item is to blame for it. Belongs to one thread.
    """

    def __init__(self, folder: str | Path, memory_bytes: int = MEMORY_BYTES) -> None:
        """Args: folder: where the final file will be, so that a rename can put it there."""
        self._folder = str(folder)
        self._memory_bytes = memory_bytes
        self._memory: list[bytes] = []
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Adds bytes at the end.

        Raises:
            RunFailed: when the disk refuses.
        """
        self._hash.update(data)
        self.size += len(data)
        if self._file is None:
            self._memory.append(data)
            if self.size <= self._memory_bytes:
                return
            data = b"".join(self._memory)
            self._memory.clear()
            self._temporary = temporary_name(Path(self._folder, "body"))
        try:
            if self._file is None:
                assert self._temporary is not None  # set above, with the first byte that does not fit into memory
                self._file = self._temporary.open("w+b")
            self._file.write(data)
        except OSError as error:
            raise storage_failure("An image", Path(self._folder), error) from error

    def clear(self) -> None:
        """Forgets all bytes, so that another try can begin."""
        self.close()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return self._hash.hexdigest()

    def open(self) -> IO[bytes]:
        """A file to read the bytes from, at the start. It belongs to the body: do not close it."""
        if self._file is None:
            return io.BytesIO(b"".join(self._memory))
        try:
            self._file.flush()
            self._file.seek(0)
        except OSError as error:
            raise storage_failure("An image", Path(self._folder), error) from error
        return self._file

    def save(self, final: str | Path) -> None:
        """Gives the bytes their final name, in one step: whoever sees the name sees the whole file.

        The file is not fsynced: a killed process loses nothing, and one wait for the disk per image would cost more
        than all the rest. After a power cut the ledger's size and hash tell a file that did not reach the disk.

        Args:
            final: name in the body's folder; a file that is there already is replaced.

        Raises:
            RunFailed: when the disk refuses; nothing is left under the final name then.
        """
        try:
            if self._file is not None:
                self._file.close()
            else:
                data = b"".join(self._memory)
                if _save_unnamed(self._folder, final, data):
                    return
                self._temporary = temporary_name(Path(final))
                self._temporary.write_bytes(data)
            assert self._temporary is not None  # both branches have one
            self._temporary.replace(final)
            self._temporary = None
        except OSError as error:
            raise storage_failure("An image", Path(final), error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Frees the memory and removes the temporary file. Closing twice is allowed."""
        self._memory.clear()
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            # Buffered bytes that did not fit on the disk; the file is not wanted any more.
            raise storage_failure("An image", Path(self._folder), error) from error
        finally:
            self._file = None
            if self._temporary is not None:
                # A folder that is gone or read-only has its own error already; the next run sweeps what is left.
                with contextlib.suppress(OSError):
                    self._temporary.unlink(missing_ok=True)
                self._temporary = None


def _save_unnamed(folder: str, final: str | Path, data: bytes) -> bool:
    """Write a file that has no name until it is whole; False where that cannot be done.

    A temporary name is two changes of the folder, and all workers wait for each other at each: with 16 of them and 50
    KiB an image it took twice as long.

    Raises:
        OSError: The disk refused.
    """
    try:
        file = os.open(folder, os.O_WRONLY | os.O_CLOEXEC | _UNNAMED, 0o666) if _UNNAMED else -1
    except OSError:  # not every file system can: what is wrong with this one, the other way will say
        return False
    if file < 0:
        return False
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        try:
            # With any src_dir_fd, though the path is absolute: only then is the link in /proc followed.
            os.link(f"/proc/self/fd/{file}", final, src_dir_fd=file)
        except OSError:  # there is a file of an earlier run, or the file system takes no links
            return False
    finally:
        os.close(file)
    return True
