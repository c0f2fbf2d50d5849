"""The run directory: the folder a pipeline run owns, who may open it, and how a file gets its final name in it.

What a run directory promises:

1. One process at a time works in it: an exclusive lock is held from `open` to `close`, also against a second
   opener in the same process. The kernel drops the lock when the process dies, however it dies.
2. A file appears under its final name whole or not at all: it is written under a temporary name in the same folder,
   fsynced, renamed, and the folder is fsynced. A killed run leaves temporary names at most, which the next `open`
   removes.
3. `run.json` exists only when the last run wrote everything else: `open` removes it, the pipeline writes it last.
4. Files that no run wrote are never changed or removed. A folder with other files in it is refused, and so is one in
   which an owned name is of the wrong kind or belongs to another user (see `ownership`). `fresh=True` removes the
   results of earlier runs and nothing else (see `clearing`); after a kill the next `open` completes that.
5. A folder of another format than `FORMAT` is refused; `fresh=True` accepts an older one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout._finished import RUN_JSON_BYTES
from prefect_fanout._regular import read_regular
from prefect_fanout.tasks.ownership import (
    LOCK_FILE,
    MARK_FILE,
    OWNED_FOLDERS,
    RUN_JSON,
    TEMPORARY,
    check_names,
    check_tree,
    owners_of,
    take_lock,
)

FORMAT = 2
"""Number of the layout of a run folder: its names, its ledger, its rule for file names. Raise it with any change that
makes a run of an older version go wrong when it is continued."""

NAME_BYTES = 255
"""Longest file name, in bytes, on the usual Linux and macOS file systems (NAME_MAX)."""

MARK_BYTES = 4_096
"""Largest mark that is read, in bytes; a run writes about 70."""

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
"""The beginning of s3://bucket, also after pathlib made s3:/bucket of it."""


def temporary_name(final: Path) -> Path:
    """Give a fresh temporary name in the folder of `final`.

    Args:
        final: the name that the file will have once it is whole. A name close to `NAME_BYTES` is cut to make room.
    """
    suffix = f".tmp-{secrets.token_hex(6)}"
    stem = final.name
    while len(os.fsencode(stem)) > NAME_BYTES - len(suffix):
        stem = stem[:-1]
    return final.with_name(stem + suffix)


def commit_file(temporary: Path, final: Path) -> None:
    """Give a closed temporary file its final name, so that it survives a crash of the machine from here on.

    Safe to call from any thread. A temporary file that cannot be committed is removed.

    Args:
        temporary: the written and closed file, from `temporary_name(final)`.
        final: its final name, in the same folder. A file already there is replaced in one step.

    Raises:
        OSError: the disk refused; `storage_failure` turns it into an error for the user.
    """
    try:
        _fsync(temporary, os.O_RDONLY)
        temporary.replace(final)
        fsync_folder(final.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        # Some network and FUSE file systems cannot fsync a folder; they say so with EINVAL, and there is no other way.
        if error.errno != errno.EINVAL:
            raise


def storage_failure(what: str, path: Path, error: BaseException) -> RunFailed:
    """Build the error for a disk that refused: what could not be written, why, and what to do.

    Args:
        what: the thing that was being written, as the subject of a sentence ("The ledger part").
        path: where.
        error: what the operating system or pyarrow said; raise the result `from` it.
    """
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        advice = "Free some space on that disk"
    elif code == errno.EFBIG:
        advice = "Raise the file size limit of this process or of that disk (ulimit -f)"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "Make the folder writable for this user"
    elif code in (errno.EMFILE, errno.ENFILE):
        advice = "Raise the limit of open files (ulimit -n)"
    else:
        advice = "Check that disk"
    return RunFailed(
        f"{what} could not be written to {path}: {error}. {advice}, then start the run again with the same folder; "
        "items that are already in the ledger are not repeated."
    )


class RunDirectory:
    """The folder that a pipeline run owns; make one with `RunDirectory.open`, use it as a context manager.

    `temporary` and `commit` may be called from any thread; the rest belongs to the thread that opened it.

    Attributes:
        path: the folder.
        pipeline: name of the pipeline that opened it.
        notes: sentences for the user about files that `fresh` left in place; they are part of run.json.
    """

    def __init__(self, path: Path, pipeline: str, lock: int) -> None:
        self.path = path
        self.pipeline = pipeline
        self.notes: tuple[str, ...] = ()
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: str | Path, *, pipeline: str, fresh: bool = False) -> RunDirectory:
        """Open a run directory, new or of an earlier run of the same pipeline, and keep every other process out.

        Removes the temporary files of a killed run, and `run.json`: a run in progress has no commit mark.

        Args:
            path: the folder; made, with its parents, when it is not there. `~` is the home folder.
            pipeline: name of the pipeline that will write to it.
            fresh: first remove the results of earlier runs of this pipeline, also those in an older format.

        Raises:
            UsageError: the folder cannot be made or written, is in use, is a file, belongs to another pipeline, has
                another format, holds files that no run wrote, or was prepared by somebody else.
        """
        folder = local_folder(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                owners = owners_of(folder, os.fstat(descriptor))
                check_names(descriptor, folder, owners, (MARK_FILE,))
                _refuse_foreign(folder, pipeline, fresh=fresh)
                check_names(descriptor, folder, owners)
                lock = take_lock(descriptor, folder, owners)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unusable(folder, error) from error
        run = cls(folder, pipeline, lock)
        try:
            mark = _refuse_foreign(folder, pipeline, fresh=fresh)  # again, now that no other run can change it
            temporaries = check_tree(folder, owners)
            run._sweep(temporaries)
            if mark is None:
                run._write_mark()
            (folder / RUN_JSON).unlink(missing_ok=True)
            if mark is not None and (fresh or mark.clearing):
                run._clear()
            fsync_folder(folder)
        except BaseException as error:
            run.close()
            if isinstance(error, OSError):
                raise _unusable(folder, error) from error
            raise
        return run

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RunDirectory {str(self.path)!r} of {self.pipeline!r}, {'closed' if self._lock is None else 'open'}>"

    def close(self) -> None:
        """Let other processes in. Closing twice is allowed."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            try:
                # Explicitly: a forked child may hold a copy of the descriptor, and with it the lock.
                fcntl.flock(lock, fcntl.LOCK_UN)
            finally:
                os.close(lock)

    def temporary(self, final: Path) -> Path:
        """Give a fresh temporary name in the folder of `final`; see `temporary_name`."""
        return temporary_name(final)

    def commit(self, temporary: Path, final: Path) -> None:
        """Give a closed temporary file its final name; see `commit_file`."""
        commit_file(temporary, final)

    def write_run_json(self, document: Mapping[str, object]) -> Path:
        """Write `run.json`, the mark that says: this run is finished and everything else is in place.

        Args:
            document: what the pipeline wants kept (versions, options, counts). Paths, dates and the like become text.
                The format number and the notes are added to it.

        Raises:
            RunFailed: the disk refused.
        """
        final = self.path / RUN_JSON
        try:
            self._write_json(final, {"format": FORMAT, **document, **({"notes": self.notes} if self.notes else {})})
        except OSError as error:
            raise storage_failure("The run's commit mark", final, error) from error
        return final

    def read_run_json(self) -> dict[str, Any] | None:
        """Give the document of `run.json`, or None while a run is in progress or was killed."""
        try:
            text = read_regular(self.path / RUN_JSON, RUN_JSON_BYTES)
        except FileNotFoundError:
            return None
        document = json.loads(text)
        if not isinstance(document, dict):
            raise UsageError(f"{self.path / RUN_JSON} should hold a JSON object, but holds {type(document).__name__}.")
        return document

    def _write_json(self, final: Path, document: Mapping[str, object]) -> None:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        temporary = self.temporary(final)
        try:
            # backslashreplace: a half of a surrogate pair becomes \udXXX, which is how JSON spells it.
            temporary.write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self.commit(temporary, final)

    def _write_mark(self, *, clearing: bool = False) -> None:
        mark = {"format": FORMAT, "pipeline": self.pipeline}
        self._write_json(self.path / MARK_FILE, {**mark, "clearing": True} if clearing else mark)

    def _sweep(self, temporaries: list[Path]) -> None:
        """Remove files that a killed run was writing, and folders that format 1 renamed before it removed them."""
        for path in [*(entry for entry in self.path.iterdir() if TEMPORARY.search(entry.name)), *temporaries]:
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.unlink()
            elif stat.S_ISDIR(mode) and TEMPORARY.sub("", path.name) in OWNED_FOLDERS:
                shutil.rmtree(path)

    def _clear(self) -> None:
        """Remove the results of earlier runs. Meanwhile the mark has the next `open` complete this after a kill."""
        from prefect_fanout.tasks.clearing import clear_results  # it imports pyarrow, and by it this module

        self._write_mark(clearing=True)
        self.notes = tuple(clear_results(self.path))
        fsync_folder(self.path)
        self._write_mark()


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The content of a mark: the pipeline, the format or None, and whether results were being removed."""

    pipeline: str
    format: int | None
    clearing: bool


def local_folder(path: str | Path) -> Path:
    """Return the absolute path of an output folder that a user named.

    Raises:
        UsageError: it is no path, or an address such as s3://bucket.
    """
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise UsageError(f"The output folder should be a path, but is {text!r}. Name a folder that the run may create.")
    if "://" in text or _ADDRESS.match(text):
        raise UsageError(f"The output folder should be on this machine, but {text!r} is an address. Name a folder.")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # what expanduser raises for ~nobody
        raise UsageError(f"The output folder {text!r} names a home folder that does not exist: {error}") from error


def _refuse_foreign(folder: Path, pipeline: str, *, fresh: bool) -> _Mark | None:
    """Raise unless the folder is empty or holds a run of this pipeline in this format; return its mark, if any."""
    mark = _read_mark(folder)
    if mark is None:
        for entry in folder.iterdir():
            if entry.name != LOCK_FILE and not TEMPORARY.search(entry.name):
                raise UsageError(
                    f"{folder} holds files that no run wrote ({entry.name!r}, for one). "
                    "Choose a new or an empty folder."
                )
        return None
    if mark.pipeline != pipeline:
        raise UsageError(
            f"{folder} holds a run of {mark.pipeline!r}, and {pipeline!r} cannot use it too. Choose another folder."
        )
    if mark.format is not None and mark.format > FORMAT:
        raise UsageError(
            f"{folder} holds a run of a newer version of prefect-fanout (format {mark.format}, and this version knows "
            f"{FORMAT} at most): update prefect-fanout, or choose another folder."
        )
    if mark.format != FORMAT and not fresh:
        found = "without a format number" if mark.format is None else f"format {mark.format}"
        raise UsageError(
            f"{folder} holds a run of an older version of prefect-fanout ({found}, and this version continues format "
            f"{FORMAT} only): start anew in it with --fresh (option `fresh`), or choose another folder."
        )
    return mark


def _read_mark(folder: Path) -> _Mark | None:
    path = folder / MARK_FILE
    try:
        mark = json.loads(read_regular(path, MARK_BYTES, follow=False))
        number = mark.get("format")
        return _Mark(
            pipeline=str(mark["pipeline"]),
            format=number if isinstance(number, int) and not isinstance(number, bool) else None,
            clearing=mark.get("clearing") is True,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} should say which pipeline owns the folder, but cannot be read ({error!r}). Choose another folder."
        ) from error


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"The output folder {folder} cannot be used: {error.strerror or error}. "
        "Name a folder on a local disk that this user may create and write to."
    )


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
