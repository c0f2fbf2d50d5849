"""Reading a file that somebody else may have put there: only a regular one, for a FIFO is waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """Return the kind of file that a mode stands for, for a sentence: "a FIFO"."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")


def check_regular(path: Path) -> os.stat_result:
    """Return the status of a regular file, or of the one that a link leads to, without opening it.

    Raises:
        OSError: there is no such file, or it is none.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it should be a regular file, but is {kind_of(status.st_mode)}", str(path))
    return status


def read_regular(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """Return the content of a small regular file; never wait for it.

    Args:
        path: the file.
        most_bytes: size beyond which it is refused, in bytes.
        follow: whether it may be a link to such a file.

    Raises:
        OSError: there is no such file, it is none, it is too large, or it cannot be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it should be a regular file, but is {kind_of(mode)}", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it should have at most {most_bytes:,} bytes, but has more", str(path))
    return content
