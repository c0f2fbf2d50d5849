"""Other ways to turn CSV files into Parquet.

The specification: `files`, the CSV files; `out`, an empty folder; `codec`, "snappy" or "zstd" (level 1, the default of
pyarrow, for everyone); `threads`, how many threads where a contender makes them itself. Each is left to find the
column types out, with the settings that it comes with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

Work = Callable[[], None]

ZSTD_LEVEL = 1


def _level(spec: dict[str, Any]) -> int | None:
    return ZSTD_LEVEL if spec["codec"] == "zstd" else None


def _target(spec: dict[str, Any], file: str) -> str:
    return str(Path(spec["out"], Path(file).stem + ".parquet"))


def _pandas_one(spec: dict[str, Any], file: str) -> None:
    import pandas as pd

    pd.read_csv(file).to_parquet(_target(spec, file), compression=spec["codec"], index=False)


def pandas_one_by_one(spec: dict[str, Any]) -> Work:
    """The baseline: pandas.read_csv and to_parquet, file after file."""
    import pandas as pd

    pd.DataFrame().to_parquet  # noqa: B018 - loads what is loaded late, before the time is taken

    def work() -> None:
        for file in spec["files"]:
            _pandas_one(spec, file)

    return work


def pandas_threads(spec: dict[str, Any]) -> Work:
    """The same in a pool of threads, a file each."""
    return partial(_in_threads, partial(_pandas_one, spec), spec)


def arrow_threads(spec: dict[str, Any]) -> Work:
    """pyarrow.csv.read_csv and write_table in a pool of threads, a file each: fast, but a whole file in memory."""
    from pyarrow import csv, parquet

    def convert(file: str) -> None:
        table = csv.read_csv(file, read_options=csv.ReadOptions(use_threads=False))
        parquet.write_table(table, _target(spec, file), compression=spec["codec"])

    return partial(_in_threads, convert, spec)


def _in_threads(convert: Callable[[str], None], spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(spec["threads"]) as pool:
        for _ in pool.map(convert, spec["files"]):
            pass


# The peers below are imported by name: they are installed where no type checker looks.


def polars(spec: dict[str, Any]) -> Work:
    """polars.scan_csv and sink_parquet, file after file, each on all cores."""
    pl = importlib.import_module("polars")

    def work() -> None:
        for file in spec["files"]:
            frame = pl.scan_csv(file, try_parse_dates=True)
            frame.sink_parquet(_target(spec, file), compression=spec["codec"], compression_level=_level(spec))

    return work


def duckdb_copy(spec: dict[str, Any]) -> Work:
    """DuckDB's COPY as it comes: all files into one, on all cores, rows in their order."""
    return _duckdb(spec, "all.parquet", "")


def duckdb_per_thread(spec: dict[str, Any]) -> Work:
    """DuckDB's COPY with a file per thread."""
    return _duckdb(spec, "all", ", PER_THREAD_OUTPUT")


def _duckdb(spec: dict[str, Any], name: str, more: str) -> Work:
    duckdb = importlib.import_module("duckdb")
    level = f", COMPRESSION_LEVEL {ZSTD_LEVEL}" if _level(spec) else ""
    options = f"FORMAT parquet, COMPRESSION {spec['codec']}{level}{more}"
    files = ", ".join(_sql(file) for file in spec["files"])
    command = f"COPY (FROM read_csv([{files}])) TO {_sql(str(Path(spec['out'], name)))} ({options})"

    def work() -> None:
        with duckdb.connect() as connection:
            connection.execute(command)

    return work


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def datafusion(spec: dict[str, Any]) -> Work:
    """DataFusion's register_csv on the folder and write_parquet."""
    engine = importlib.import_module("datafusion")

    def work() -> None:
        context = engine.SessionContext()
        context.register_csv("orders", str(Path(spec["files"][0]).parent))
        context.table("orders").write_parquet(spec["out"], compression=spec["codec"], compression_level=_level(spec))

    return work
