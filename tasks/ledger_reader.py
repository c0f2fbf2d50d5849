"""Reading a ledger: `read_ledger`, for people and notebooks; it needs no open run and takes no lock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prefect_fanout._errors import RunFailed, UsageError
from prefect_fanout.tasks.ledger_files import COMMON_COLUMNS, KEY, list_sources, path_of, readable
from prefect_fanout.tasks.ownership import LEDGER_FILE, LEDGER_FOLDER, MARK_FILE, RUN_JSON

READ_ATTEMPTS = 10
"""How often `read_ledger` starts again because a running compaction removed a part before it could be opened."""


def read_ledger(run: str | Path) -> pd.DataFrame:
    """Read the newest row of each item, ordered by `index`, while a run goes on, after it, or after a kill.

    Rows that a live run has not yet committed are not in it. Nothing is locked or written.

    Args:
        run: a run directory.

    Returns:
        One row per item. Whole numbers that may be missing have pandas' nullable type, so none becomes a float.

    Raises:
        UsageError: the folder is not a run directory.
        RunFailed: a file of the ledger is damaged.
    """
    folder = Path(run).expanduser()
    if not any((folder / name).exists() for name in (MARK_FILE, RUN_JSON, LEDGER_FILE, LEDGER_FOLDER)):
        raise UsageError(
            f"{folder} should be the folder of a run, but {'holds none' if folder.is_dir() else 'is not a folder'}. "
            "Name the folder that was given as output (`--out`)."
        )
    for _ in range(READ_ATTEMPTS):
        try:
            return _to_pandas(_newest_rows(folder))
        except FileNotFoundError:
            continue  # compacted while it was read: what is there now is newer
    raise RunFailed(f"The ledger in {folder} changed {READ_ATTEMPTS} times while it was read. Read it again.")


def _newest_rows(folder: Path) -> pa.Table:
    sources, _, _ = list_sources(folder)
    tables = []
    key = ""
    for source in sources:
        path = path_of(folder, source.id)
        with readable(path), pq.ParquetFile(path) as file:
            tables.append(file.read())
            key = (tables[-1].schema.metadata or {})[KEY].decode()
    if not tables:
        return pa.schema(COMMON_COLUMNS).empty_table()
    table = pa.concat_tables(tables, promote_options="permissive")
    newest = np.flatnonzero(~table.column(key).to_pandas().duplicated(keep="last").to_numpy())
    position = table.column("index").to_numpy()[newest]
    return table.take(newest[np.argsort(position, kind="stable")])


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame = table.replace_schema_metadata(None).to_pandas()
    nullable = {pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(),
                pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # fmt: skip
    for field in table.schema:
        if field.nullable and field.type in nullable:
            frame[field.name] = table.column(field.name).to_pandas(types_mapper=nullable.get)
    return frame
