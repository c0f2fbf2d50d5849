"""Removing the results of earlier runs from a run folder, and nothing else: the work of `fresh=True`.

A data file is removed only if a row of the ledger names it. A file that a killed run finished, but whose row was not
committed, is left: its name (`photo-0123456789abcdef.jpg`, `export-1700000000.parquet`) can as well be a user's. The
next run over the same input writes it again under that name.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_fanout._errors import RunFailed
from prefect_fanout.tasks.ledger_files import GROUP_ROWS, ledger_paths, readable
from prefect_fanout.tasks.ownership import DATA_FOLDERS, LEDGER_FOLDER, OWNED_FILES

OUTPUT_COLUMNS = ("path", "rejects_path")
"""Columns of a ledger, of any format, that name the files of an item, relative to the run folder."""

_SPREAD = re.compile(r"[0-9a-f]{2}|files")
"""Folders that the images of a long list are spread over; they may be empty from the start."""


def clear_results(folder: Path) -> list[str]:
    """Remove the results of earlier runs. After a kill it can be called again: the ledger goes last.

    Args:
        folder: the run folder, locked, its owned names checked.

    Returns:
        Sentences for the user: parts of the ledger that could not be read, and files that were left in place.

    Raises:
        OSError: something cannot be removed.
    """
    notes = []
    emptied: set[str] = set()
    ledger = ledger_paths(folder)
    for path in ledger:
        try:
            for output in _outputs(path):
                _remove_output(folder, output, emptied)
        except RunFailed:
            notes.append(
                f"--fresh left files in place that only {path.name} names: that part of the ledger is damaged."
            )
    _remove_emptied(folder, emptied)
    for path in (*(folder / name for name in OWNED_FILES), *ledger):
        path.unlink(missing_ok=True)
    _remove_if_empty(folder / LEDGER_FOLDER)
    count, example = 0, ""
    for name in _files_left(folder):
        count += 1
        example = min(example, name) if example else name
    if count:
        files, such_as = ("1 file", ":") if count == 1 else (f"{count:,} files", ", such as")
        notes.append(f"--fresh left {files} in place that no row of the ledger names{such_as} {example!r}.")
    return notes


def _outputs(ledger: Path) -> Iterator[str]:
    """Yield the texts in the columns of a ledger file that name outputs, a batch of rows in memory at a time."""
    with readable(ledger), pq.ParquetFile(ledger) as file:
        schema = file.schema_arrow
        columns = [
            name for name in OUTPUT_COLUMNS if name in schema.names and pa.types.is_string(schema.field(name).type)
        ]
        for batch in file.iter_batches(GROUP_ROWS, columns=columns) if columns else ():
            for column in batch.columns:
                yield from map(str, column.drop_null().to_pylist())


def _remove_output(folder: Path, output: str, emptied: set[str]) -> None:
    """Remove a file that a row names, if it is a regular file below a data folder; note the folders it was in."""
    parts = PurePosixPath(output).parts
    if len(parts) < 2 or parts[0] not in DATA_FOLDERS or ".." in parts or "\0" in output:
        return
    path = folder.joinpath(*parts)
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # it is gone, or nothing can have that name
        return
    if is_file:
        path.unlink()
        emptied.update(str(parent) for parent in PurePosixPath(output).parents)


def _remove_emptied(folder: Path, emptied: set[str]) -> None:
    """Remove the data folders and those below them that are empty and were made by a run; a user's own stay."""
    for name in DATA_FOLDERS:
        for path, _, _ in os.walk(folder / name, topdown=False):
            relative = PurePosixPath(path).relative_to(folder)
            if str(relative) in emptied or all(map(_SPREAD.fullmatch, relative.parts[1:])):
                _remove_if_empty(Path(path))


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _files_left(folder: Path) -> Iterator[str]:
    for name in DATA_FOLDERS:
        for path, _, files in os.walk(folder / name):
            yield from (str(PurePosixPath(path, file).relative_to(folder)) for file in files)
