"""CSV files into Parquet: the flow `ingest-csv` beside other engines, at the same codec.

    python benchmarks/csv.py [--files N] [--mb N...] [--rounds N] [--codecs NAME...] [--markdown FILE]

Exit code 0: every target is met. 1: one is missed. 2: the benchmark could not run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if not sys.flags.safe_path:
    del sys.path[0]  # This folder: this very file would hide the standard library's csv.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from importlib.metadata import version  # Here, because it imports the standard library's csv.

from benchmarks.harness.contender import AsTyped, Contender
from benchmarks.harness.peers import has_module, install, interpreter, module_versions
from benchmarks.harness.prefect_server import PrefectServer, prefect_server
from benchmarks.harness.process import BenchmarkError, end_on_sigterm
from benchmarks.harness.report import CANNOT_RUN, Report, Spread, command_line, machine
from benchmarks.harness.tables import MB, make_tables

AS_TYPED = "fanout csv, as typed"
CODEC_AS_TYPED = "zstd"  # the default of the options; the command has none for it
OURS = "ingest-csv"
BY_COMMAND = "ingest-csv, by `fanout csv`"
PANDAS_2 = "pandas 2.3, one by one"
DUCKDB = "DuckDB, COPY"
# At least so many times faster than each. The target for pandas was set with 2.3; from 3.1 on it reads a file in
# parallel, and so much faster that it is shown without a target.
TARGETS = {PANDAS_2: 4.0, DUCKDB: 1.5}
# Name, module, function.
ENGINES = (
    (PANDAS_2, "pandas", "pandas_one_by_one"),
    ("polars, scan and sink", "polars", "polars"),
    (DUCKDB, "duckdb", "duckdb_copy"),
    ("DuckDB, PER_THREAD_OUTPUT", "duckdb", "duckdb_per_thread"),
    ("DataFusion", "datafusion", "datafusion"),
)


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = _arguments()
    end_on_sigterm()
    try:
        report = Report(name="csv", markdown=options.markdown)
        if not options.no_install:
            install("peers")
        options.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="csv-", dir=options.work) as name:
            folder = Path(name).resolve()
            with prefect_server(folder / "prefect") as server:
                contenders = list(_contenders(options, server.environment, folder / "home"))
                _warm_up(contenders, folder)
                report.paragraph(f"`{command_line()}`")
                report.paragraph(machine(["prefect", "pandas", "pyarrow"]) + _peers_text())
                for mb in options.mb:
                    report.say(f"Making {options.files} files of {mb:g} MB ...")
                    rows = make_tables(folder / "in", options.files, mb)
                    for codec in options.codecs:
                        _compare(report, options, contenders, codec, folder, server, rows)
                    shutil.rmtree(folder / "in")
        report.write()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    return report.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=10, help="CSV files (%(default)s)")
    parser.add_argument(
        "--mb", type=float, nargs="+", default=[100.0], metavar="N", help="size of a file in MB; several in turn (100)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often all run, in turns (%(default)s)")
    parser.add_argument("--codecs", nargs="+", choices=["snappy", "zstd"], default=["snappy", "zstd"], metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only peers whose name has one of these words")
    parser.add_argument("--no-install", action="store_true", help="compare only with what is there already")
    parser.add_argument(
        "--work", type=Path, default=Path(__file__).with_name(".work"), help="folder for what it makes (%(default)s)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also put the results into this file")
    return parser.parse_args()


def _peers_text() -> str:
    python = interpreter("peers")
    versions = module_versions(python, ["pandas", "polars", "duckdb", "datafusion"]) if python.is_file() else ""
    return f" Peers: {versions}." if versions else ""


def _contenders(options: argparse.Namespace, ours: Mapping[str, str], home: Path) -> Iterator[Contender | AsTyped]:
    """Ours, then the peers that are there and wanted."""
    yield AsTyped(name=AS_TYPED, arguments=_typed, home=home)
    yield Contender(name=OURS, file="csv_ours.py", function="flow", environment=ours)
    yield Contender(name=BY_COMMAND, file="csv_ours.py", function="flow_of_the_command", environment=ours)
    pandas = ".".join(version("pandas").split(".")[:2])
    peers = [
        Contender(name=f"pandas {pandas}, one by one", file="csv_peers.py", function="pandas_one_by_one"),
        Contender(name=f"pandas {pandas}, in threads", file="csv_peers.py", function="pandas_threads"),
        Contender(name="pyarrow in threads", file="csv_peers.py", function="arrow_threads"),
    ]
    python = interpreter("peers")
    for name, module, function in ENGINES:
        if has_module(python, module):
            peers.append(Contender(name=name, file="csv_peers.py", function=function, python=python))
    yield from (peer for peer in peers if not options.only or any(word in peer.name for word in options.only))


def _typed(spec: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `fanout csv`."""
    return ["csv", *spec["files"], "--out", spec["out"], "--workers", str(spec["threads"])]


def _warm_up(contenders: list[Contender | AsTyped], folder: Path) -> None:
    """Have each new server answer one flow run, which takes it a second longer than all later ones."""
    small = folder / "small.csv"
    small.write_text("a,b\n1,2\n")
    for number, name in enumerate((AS_TYPED, OURS)):
        ours = next(contender for contender in contenders if contender.name == name)
        ours.run(files=[str(small)], out=str(folder / f"warm-up-{number}"), codec="snappy", threads=1)


def _compare(
    report: Report,
    options: argparse.Namespace,
    contenders: list[Contender | AsTyped],
    codec: str,
    folder: Path,
    server: PrefectServer,
    rows: int,
) -> None:
    files = sorted(str(path) for path in (folder / "in").iterdir())
    size = sum(len(Path(file).read_bytes()) for file in files)  # Read: all start with the files in memory.
    measures: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    for number in range(1, options.rounds + 1):
        for contender in contenders:
            server.settle()
            out = folder / "out"
            out.mkdir()
            measured = contender.run(files=files, out=str(out), codec=codec, threads=os.cpu_count())
            measured["rows"], measured["mb"] = _written(out)
            measures[contender.name].append(measured)
            report.say(f"{codec}, round {number}: {measured['seconds']:8.2f} s  {contender.name}")
            if measured["rows"] != rows:
                raise BenchmarkError(
                    f"{contender.name} should have written {rows:,} rows and has written {measured['rows']:,}."
                )
            shutil.rmtree(out)
            # What one contender wrote is not to be written to the disk in the time of the next.
            os.sync()
    if codec != CODEC_AS_TYPED:
        measures = {f"{name} ({CODEC_AS_TYPED})" if name == AS_TYPED else name: runs for name, runs in measures.items()}
    _show(report, measures, f"{options.files} files, {size / MB:,.0f} MB, {codec}", f"{rows:,} rows x 15 columns")


def _written(out: Path) -> tuple[int, float]:
    """Rows and megabytes of the Parquet files of data that a contender has written."""
    from pyarrow.parquet import read_metadata

    # The flow keeps its data apart from its ledger; the others write nothing but data.
    folder = out / "data" if (out / "data").is_dir() else out
    paths = list(folder.rglob("*.parquet"))
    return sum(read_metadata(path).num_rows for path in paths), sum(path.stat().st_size for path in paths) / MB


def _show(report: Report, measures: dict[str, list[dict[str, float]]], what: str, rows: str) -> None:
    ours = [one["seconds"] for one in measures[OURS]]
    ratios = {
        name: Spread.of(one["seconds"] / mine for one, mine in zip(runs, ours, strict=True))
        for name, runs in measures.items()
    }
    report.paragraph(
        f"{what}, {rows}, {len(ours)} rounds in turns; median (lowest to highest). Every contender wrote every row."
    )
    report.table(
        ["contender", "seconds", f"times the time of {OURS}", "CPU s", "peak MB", "Parquet MB", "whole process s"],
        [
            [
                name,
                Spread.of(one["seconds"] for one in runs).text(2),
                ratios[name].text(2),
                *(f"{Spread.of(one[key] for one in runs).median:,.1f}" for key in ("cpu_s", "peak_mb", "mb")),
                f"{Spread.of(one['process_s'] for one in runs).median:,.1f}",
            ]
            for name, runs in sorted(
                measures.items(), key=lambda item: (not item[0].startswith(AS_TYPED), ratios[item[0]].median)
            )
        ],
    )
    for name, target in TARGETS.items():
        if name in ratios:
            report.verdict(
                ratios[name].median >= target,
                f"at least {target:g} times as fast as {name} ({what}): {ratios[name].text(2)} times, pair by pair",
            )


if __name__ == "__main__":
    sys.exit(main())
