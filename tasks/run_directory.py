"""The run directory: the folder a pipeline run owns, who may open it, and how a file gets its final name in it.

What a run directory promises:

1. One process at a time works in it: an exclusive lock is held from `open` to `close`, also against a second
   opener in the same process. The kernel drops the lock when the process dies, however it dies.
2. A file appears under its final name whole or not at all: it is written under a temporary name in the same folder,
   fsynced, renamed, and the folder is fsynced. A killed run leaves temporary names at most, which the next `open`
   removes.
3. `run.json` exists only when the last run wrote everything else: `open` removes it, the pipeline writes it last.
4. Nothing that no run wrote is touched: a folder with other files in it is refused, and `fresh=True` removes the
   names in `OWNED` only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect_fanout._errors import RunFailed, UsageError

RUN_JSON = "run.json"
LEDGER_FILE = "ledger.parquet"
LEDGER_FOLDER = "ledger"
INDEX_FILE = ".index.sqlite"
LOCK_FILE = ".lock"
MARK_FILE = ".run"
"""Says which pipeline owns the folder; written before anything else, so that a killed run is recognised as one."""

OWNED = (
    RUN_JSON,
    LEDGER_FILE,  # before the parts: what is left of a half-removed ledger is then the newest rows, never older ones
    LEDGER_FOLDER,
    INDEX_FILE,
    "report.html",
    "timeline.parquet",
    "images",
    "data",
    "rejects",
)
"""Everything a run writes at the top of its folder, in the order in which `fresh=True` removes it."""

OWNED_FOLDERS = (LEDGER_FOLDER, "images", "data", "rejects")
"""The folders of a run: temporary names are looked for in them, at any depth."""

NAME_BYTES = 255
"""Longest file name, in bytes, on the usual Linux and macOS file systems (NAME_MAX)."""

_MARK_FORMAT = 1
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}\Z")


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
    """

    def __init__(self, path: Path, pipeline: str, lock: int) -> None:
        self.path = path
        self.pipeline = pipeline
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: str | Path, *, pipeline: str, fresh: bool = False) -> RunDirectory:
        """Open a run directory, new or of an earlier run of the same pipeline, and keep every other process out.

        Removes the temporary files of a killed run, and `run.json`: a run in progress has no commit mark.

        Args:
            path: the folder; made, with its parents, when it is not there. `~` is the home folder.
            pipeline: name of the pipeline that will write to it.
            fresh: first remove what earlier runs of this pipeline left (the names in `OWNED`).

        Raises:
            UsageError: the folder cannot be made or written, is in use, is a file, belongs to another pipeline or
                holds files that no run wrote.
        """
        folder = _local_folder(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder, pipeline)
            lock = _lock(folder)
        except OSError as error:
            raise _unusable(folder, error) from error
        run = cls(folder, pipeline, lock)
        try:
            _refuse_foreign(folder, pipeline)  # again, now that nobody else can change it
            run._sweep()
            if not (folder / MARK_FILE).exists():
                run._write_json(folder / MARK_FILE, {"format": _MARK_FORMAT, "pipeline": pipeline})
            (folder / RUN_JSON).unlink(missing_ok=True)
            if fresh:
                run._remove_owned()
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

        Raises:
            RunFailed: the disk refused.
        """
        final = self.path / RUN_JSON
        try:
            self._write_json(final, document)
        except OSError as error:
            raise storage_failure("The run's commit mark", final, error) from error
        return final

    def read_run_json(self) -> dict[str, Any] | None:
        """Give the document of `run.json`, or None while a run is in progress or was killed."""
        try:
            text = (self.path / RUN_JSON).read_bytes()
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

    def _sweep(self) -> None:
        for path in _temporaries(self.path):
            _remove(path)

    def _remove_owned(self) -> None:
        """Remove what earlier runs left. Each thing is renamed first, so that a kill never leaves half a ledger."""
        for name in OWNED:
            path = self.path / name
            if path.is_symlink() or path.exists():
                doomed = temporary_name(path)
                path.rename(doomed)
                _remove(doomed)


def _local_folder(path: str | Path) -> Path:
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        raise UsageError(f"The output folder should be a path, but is {text!r}. Name a folder that the run may create.")
    if "://" in text:
        raise UsageError(f"The output folder should be on this machine, but {text!r} is an address. Name a folder.")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # what expanduser raises for ~nobody
        raise UsageError(f"The output folder {text!r} names a home folder that does not exist: {error}") from error


def _refuse_foreign(folder: Path, pipeline: str) -> None:
    """Raise unless the folder is empty or holds a run of this pipeline."""
    owner = _owner(folder)
    if owner is not None:
        if owner != pipeline:
            raise UsageError(
                f"{folder} holds a run of {owner!r}, and {pipeline!r} cannot use it too. Choose another folder."
            )
        return
    for entry in folder.iterdir():
        if entry.name != LOCK_FILE and not _TEMPORARY.search(entry.name):
            raise UsageError(
                f"{folder} holds files that no run wrote ({entry.name!r}, for one). Choose a new or an empty folder."
            )


def _owner(folder: Path) -> str | None:
    """Give the name of the pipeline whose run the folder holds, or None."""
    try:
        mark = json.loads((folder / MARK_FILE).read_bytes())
        return str(mark["pipeline"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / MARK_FILE} should say which pipeline owns the folder, but cannot be read ({error!r}). "
            "Choose another folder."
        ) from error


def _lock(folder: Path) -> int:
    """Take the folder's exclusive lock; give the descriptor that holds it."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise UsageError(
            f"{folder} is in use by another run (process {holder}). Wait until it ends, or choose another folder."
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unusable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"The output folder {folder} cannot be used: {error.strerror or error}. "
        "Name a folder on a local disk that this user may create and write to."
    )


def _temporaries(folder: Path) -> Iterator[Path]:
    """Give every temporary name of a run, file or folder: at the top, and at any depth of the run's own folders."""
    for entry in folder.iterdir():
        if _TEMPORARY.search(entry.name):
            yield entry
    for name in OWNED_FOLDERS:
        for parent, folders, files in os.walk(folder / name):
            for found in [*folders, *files]:
                if _TEMPORARY.search(found):
                    yield Path(parent, found)


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
