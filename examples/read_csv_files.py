"""Ten CSV files, one after the other and several at once, timed honestly.

Parsing is work, not waiting, so a second thread helps only while a core is idle, and only if the parser lets go of
Python's global lock (the GIL). Each line therefore also says how many cores were busy on average. pyarrow is told to
use only the thread that called it, so a pool can bring it more cores. pandas since 3.1 divides a large file among the
cores by itself: where the loop is already busy everywhere, there is nothing left for a pool to gain.

The times are wall time of the real reading, from opening the first file until the last table is in memory. All files
are read once before the first measurement, so that every way gets them from the system's cache. The flow's time holds
what a flow costs besides: its start, its end and its task runs.

Run it:  python examples/read_csv_files.py                 (ten files of 500,000 rows, 190 MB, in a temporary folder)
         python examples/read_csv_files.py --rows 1000 --workers 2

This is the lesson; the real thing, with rejects, checks and Parquet, is `fanout csv`.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow.compute as pc
from prefect import flow, task
from pyarrow import csv

from prefect_fanout import ExecutorTaskRunner, fan_out

FILES = 10
CORES = os.cpu_count() or 1
BLOCK_ROWS = 10_000  # made once and written as often as needed: made-up numbers are slow to make
Parser = Literal["pandas", "pyarrow"]
PARSERS: tuple[Parser, ...] = ("pandas", "pyarrow")
Totals = tuple[int, int]  # rows, sum of the column "amount" in cents


def make_files(folder: Path, rows: int) -> list[Path]:
    """Write ten CSV files of made-up sales, the same ones every time."""
    chance = random.Random(20)
    block = []
    for row in range(min(rows, BLOCK_ROWS)):
        item = chance.randrange(100_000)
        day = f"2026-{row % 12 + 1:02}-{row % 28 + 1:02}"
        block.append(f"{day},{chance.choice('NESW')},item {item},{item % 1000},{chance.random():.6f}\n")
    files = [folder / f"sales-{number}.csv" for number in range(FILES)]
    for file in files:
        with file.open("w", encoding="utf-8") as stream:
            stream.write("day,shop,item,amount,share\n")
            for start in range(0, rows, BLOCK_ROWS):
                stream.writelines(block[: rows - start])
    return files


# --- The work: one file ----------------------------------------------------------------------------------------------


def read(file: Path, parser: Parser) -> Totals:
    """Read one file into memory and add it up."""
    if parser == "pandas":
        frame = pd.read_csv(file)
        return len(frame), int(frame["amount"].sum())
    table = csv.read_csv(file, read_options=csv.ReadOptions(use_threads=False))
    return table.num_rows, int(pc.sum(table["amount"]).as_py())


# --- Three ways to do it ten times -----------------------------------------------------------------------------------


def one_after_the_other(files: list[Path], parser: Parser, workers: int) -> list[Totals]:
    """A plain loop; it has no use for workers."""
    return [read(file, parser) for file in files]


def with_a_pool(files: list[Path], parser: Parser, workers: int) -> list[Totals]:
    """A pool of threads."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="read") as pool:
        return list(pool.map(read, files, [parser] * len(files)))


@task(task_run_name="read {file.name}")
def read_task(file: Path, parser: Parser) -> Totals:
    """The same work as a task; it returns two numbers, not a table: large data does not belong in task results."""
    return read(file, parser)


@flow
def with_a_runner(files: list[Path], parser: Parser, workers: int) -> list[Totals]:
    """A flow: one task run per file, seen in the Prefect UI."""
    totals = []
    with ExecutorTaskRunner(max_workers=workers, thread_name_prefix="read") as runner:
        for outcome in fan_out(read_task, files, static={"parser": parser}, chunksize=1, ordered=True, runner=runner):
            if outcome.error is not None:
                raise outcome.error
            totals.append(outcome.value)
    return totals


# --- The lesson ------------------------------------------------------------------------------------------------------


def show(title: str, way: Callable[[list[Path], Parser, int], list[Totals]], files: list[Path], workers: int) -> None:
    """Read all files in one way with each parser, and print rows, sum, wall time and cores."""
    for parser in PARSERS:
        start, work = time.perf_counter(), time.process_time()
        totals = way(files, parser, workers)
        seconds = time.perf_counter() - start
        cores = (time.process_time() - work) / seconds
        rows, amount = (sum(column) for column in zip(*totals, strict=True))
        print(f"{title}, {parser}: {len(totals)} files, {rows:,} rows, sum {amount:,},", end=" ")
        print(f"{seconds:.2f} s, {cores:.1f} cores")


def main() -> None:
    """Read the command line, make the files, then read them in each way."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=500_000, help="rows in each file (default: 500000)")
    command.add_argument("--workers", type=int, default=CORES, help=f"threads (default: one per core, here {CORES})")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), arguments.rows)
        for parser in PARSERS:
            one_after_the_other(files, parser, workers=1)  # warm up: files into the system's cache, parsers into memory
        with_a_runner([], "pandas", workers=1)  # and Prefect, which may have to start a server
        show("one after the other", one_after_the_other, files, arguments.workers)
        show(f"pool of {arguments.workers} threads", with_a_pool, files, arguments.workers)
        show(f"flow on {arguments.workers} threads", with_a_runner, files, arguments.workers)


if __name__ == "__main__":
    main()
