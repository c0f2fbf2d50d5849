"""The names that a run owns in its folder, the checks before one of them is used, and the lock.

A run writes, renames and removes files with owned names. In a folder that somebody else prepared, a link would turn
that against other files of the run's user, and reading a FIFO would never end. When a folder is opened:

1. The folder belongs to the user of the run, or to root. Root may also use the folder of another user, if nobody
   but root and that user can have put it there (`_is_guarded`).
2. Each owned name is missing, or is a real folder or a regular file as a run makes it. It belongs to the user of the
   run, or to the other user that root works for. Below the owned folders there are only regular files in real folders.
3. The lock file is opened without following a link. Nothing is written to it before it is known to be a regular file
   of ours that has no second name elsewhere.

Not covered: a user who owns the folder, or may write to a folder above it, can swap names between a check and the use
of the name. Keep run folders where only trusted users can do that.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect_fanout._errors import UsageError
from prefect_fanout._regular import kind_of

RUN_JSON = "run.json"
LEDGER_FILE = "ledger.parquet"
LEDGER_FOLDER = "ledger"
INDEX_FILE = ".index.sqlite"
LOCK_FILE = ".lock"
MARK_FILE = ".run"
"""Which pipeline owns the folder, and in which format; written before anything else, so that a killed run is known."""

OWNED_FILES = (RUN_JSON, LEDGER_FILE, INDEX_FILE, "report.html", "timeline.parquet")
"""The files of a run at the top of its folder, besides the lock and the mark."""

DATA_FOLDERS = ("images", "data", "rejects")
"""Folders of the files that the rows of a ledger name; a user may keep files of their own there."""

OWNED_FOLDERS = (LEDGER_FOLDER, *DATA_FOLDERS)
OWNED = (*OWNED_FILES, *OWNED_FOLDERS)

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}\Z")
"""The end of the name of a file that is being written."""

_FOLLOWED_LINKS = 40
"""Most links on the way to a folder, as on Linux."""


def owners_of(folder: Path, status: os.stat_result) -> frozenset[int]:
    """Return the user ids whose files in a run folder are trusted: ours, and for root that of the folder's owner.

    Args:
        folder: the absolute path of the folder, as it was named.
        status: the folder's own status.

    Raises:
        UsageError: the folder belongs to somebody else.
    """
    user, owner = os.geteuid(), status.st_uid
    if user == 0 and owner != 0 and _is_guarded(folder, owner):
        return frozenset({user, owner})
    if owner not in (0, user):
        raise UsageError(_foreign(folder, owner))
    return frozenset({user})


def check_names(
    descriptor: int, folder: Path, owners: frozenset[int], names: Sequence[str] = (LOCK_FILE, MARK_FILE, *OWNED)
) -> None:
    """Raise unless each owned name at the top of a run folder is missing, or is of the kind that a run makes.

    Args:
        descriptor: the open folder.
        folder: its path, for the message.
        owners: see `owners_of`.
        names: the names to look at.

    Raises:
        UsageError: a name is a link, a FIFO or of another wrong kind, or belongs to somebody else.
    """
    for name in names:
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            continue
        _check(folder / name, status, owners, is_folder=name in OWNED_FOLDERS)


def check_tree(folder: Path, owners: frozenset[int]) -> list[Path]:
    """Raise unless there are only regular files in real folders below the owned folders; no link is followed.

    Args:
        folder: the run folder; its owned folders are known to be real ones.
        owners: see `owners_of`. Sub-folders and the parts of the ledger must belong to them; of the data files only
            the kind is looked at, for a run never writes into one that is there.

    Returns:
        The files below the owned folders that have temporary names.

    Raises:
        UsageError: see `check_names`.
    """
    found = []
    for name in OWNED_FOLDERS:
        for entry in _entries(folder / name):
            is_folder = entry.is_dir(follow_symlinks=False) and name != LEDGER_FOLDER  # a ledger has no sub-folders
            if is_folder or name == LEDGER_FOLDER or not entry.is_file(follow_symlinks=False):
                _check(Path(entry.path), entry.stat(follow_symlinks=False), owners, is_folder=is_folder)
            if not is_folder and TEMPORARY.search(entry.name):
                found.append(Path(entry.path))
    return found


def take_lock(descriptor: int, folder: Path, owners: frozenset[int]) -> int:
    """Take a folder's exclusive lock.

    Args:
        descriptor: the open folder.
        folder: its path, for the message.
        owners: see `owners_of`.

    Returns:
        The descriptor that holds the lock.

    Raises:
        UsageError: another run holds the lock, or the lock file is not one of ours.
        OSError: it cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its other end.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    lock = os.open(LOCK_FILE, flags, 0o644, dir_fd=descriptor)
    try:
        status = os.fstat(lock)
        _check(folder / LOCK_FILE, status, owners, is_folder=False)
        if status.st_nlink != 1:
            raise UsageError(
                f"{folder / LOCK_FILE} should be a file with one name, but has {status.st_nlink}: writing to it would "
                "change the file under its other names. Remove it if no run uses this folder, or choose another one."
            )
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise UsageError(
            f"{folder} is in use by another run (process {holder}). Wait until it ends, or choose another folder."
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _check(path: Path, status: os.stat_result, owners: frozenset[int], *, is_folder: bool) -> None:
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
        expected = "a folder" if is_folder else "a regular file"
        raise UsageError(
            f"{path} should be {expected} that a run made, but is {kind_of(status.st_mode)}. "
            "Move it elsewhere, or choose another folder."
        )
    if status.st_uid not in owners:
        raise UsageError(_foreign(path, status.st_uid))


def _foreign(path: Path, owner: int) -> str:
    return (
        f"{path} belongs to user {owner}, but this run works as user {os.geteuid()}, and a file or folder of another "
        "user could lead it astray: work as that user, or choose a folder of your own."
    )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder, at any depth; follow no link."""
    folders = [folder]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))


def _is_guarded(folder: Path, owner: int) -> bool:
    """Return whether nobody but root and one other user can replace a folder, or one on the way to it.

    A folder that others may write to is allowed only if it is sticky, as /tmp, and its entry on the way is root's:
    nobody else can rename that entry. An entry of another user is refused there, for every user can make one and wait
    for root to use it.

    Args:
        folder: absolute path. Links on the way are followed one by one, as the system does.
        owner: id of the other user.
    """
    here, names, links = Path(folder.anchor), list(reversed(folder.parts[1:])), 0
    while True:
        status = here.lstat()
        if stat.S_ISLNK(status.st_mode):
            links += 1
            target = here.readlink()
            if links > _FOLLOWED_LINKS:
                return False
            here = Path(target.anchor) if target.is_absolute() else here.parent
            names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        if status.st_uid not in (0, owner):
            return False
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (
            status.st_mode & stat.S_ISVTX and names and (here / names[-1]).lstat().st_uid == 0
        ):
            return False
        if not names:
            return True
        name = names.pop()
        here = here.parent if name == ".." else here / name
