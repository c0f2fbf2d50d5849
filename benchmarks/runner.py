"""What one item costs on the runner: `.map` beside Prefect's own runner, and a stream of a million items.

    python benchmarks/runner.py [--items N] [--stock-items N] [--rounds N] [--stream-items N] [--markdown FILE]

Exit code 0: every target is met. 1: one is missed. 2: the benchmark could not run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

if not sys.flags.safe_path:
    del sys.path[0]  # This folder: its csv.py would hide the standard library's.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.contender import Contender
from benchmarks.harness.prefect_server import PrefectServer, prefect_server
from benchmarks.harness.process import BenchmarkError, end_on_sigterm
from benchmarks.harness.report import CANNOT_RUN, Report, Spread, command_line, machine

SPEED_TARGET = 150.0
MEMORY_TARGET_MB = 150.0
MICRO = 1_000_000


def main() -> int:
    """Run the benchmark and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000, help="items of one .map of ours (%(default)s)")
    parser.add_argument(
        "--stock-items",
        type=int,
        default=1_500,
        help="items of one .map of Prefect's own runner (%(default)s; beyond about 3,300 the server drops messages)",
    )
    parser.add_argument("--chunksize", default="1024", help="items per chunk of .map, or auto (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often both run, in turns (%(default)s)")
    parser.add_argument("--stream-items", type=int, default=1_000_000, help="items of the fan_out (%(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also put the results into this file")
    options = parser.parse_args()
    end_on_sigterm()
    try:
        report = Report(name="runner", markdown=options.markdown)
        with tempfile.TemporaryDirectory(prefix="fanout-bench-") as folder, ExitStack() as stack:
            # A server each, so that messages of one that are dropped or digested late are not taken for the other's.
            stock = stack.enter_context(prefect_server(Path(folder) / "stock"))
            ours = stack.enter_context(prefect_server(Path(folder) / "ours"))
            report.paragraph(f"`{command_line()}`")
            report.paragraph(machine(["prefect"]))
            _compare(report, options, stock, ours)
            _stream(report, options, ours)
            _count_lost(report, stock, ours)
        report.write()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    return report.exit_code


def _compare(report: Report, options: argparse.Namespace, stock: PrefectServer, ours: PrefectServer) -> None:
    chunksize = "auto" if options.chunksize == "auto" else int(options.chunksize)
    theirs = Contender(
        name="ThreadPoolTaskRunner",
        file="noop.py",
        function="stock_map",
        spec={"items": options.stock_items},
        environment=stock.environment,
    )
    chunked = Contender(
        name="ExecutorTaskRunner",
        file="noop.py",
        function="our_map",
        spec={"items": options.items, "chunksize": chunksize},
        environment=ours.environment,
    )
    costs: list[tuple[float, float]] = []
    for number in range(1, options.rounds + 1):
        pair = []
        for contender in (theirs, chunked):
            stock.settle()
            ours.settle()
            measured = contender.run()
            pair.append(measured["seconds"] / measured["items"] * MICRO)
        report.say(f"round {number}: {pair[0]:,.0f} and {pair[1]:,.2f} µs an item, ratio {pair[0] / pair[1]:,.0f}")
        costs.append((pair[0], pair[1]))
    ratio = Spread.of(their_us / our_us for their_us, our_us in costs)
    report.paragraph(
        f"No-op tasks through `.map`, from the call to the results, {options.rounds} rounds in turns; "
        "median (lowest to highest):"
    )
    report.table(
        ["runner", "items", "chunk", "µs an item"],
        [
            [theirs.name, f"{options.stock_items:,}", "1", Spread.of(theirs for theirs, _ in costs).text(0)],
            [chunked.name, f"{options.items:,}", str(chunksize), Spread.of(ours for _, ours in costs).text(1)],
        ],
    )
    report.verdict(
        ratio.median >= SPEED_TARGET,
        f"an item costs at least {SPEED_TARGET:.0f} times less than on Prefect's runner: "
        f"{ratio.text(0)} times, pair by pair",
    )


def _stream(report: Report, options: argparse.Namespace, ours: PrefectServer) -> None:
    contender = Contender(
        name="fan_out",
        file="noop.py",
        function="our_stream",
        spec={"items": options.stream_items},
        environment=ours.environment,
    )
    ours.settle()
    measured = contender.run()
    report.paragraph("The same task through `fan_out` with default settings, in one flow run:")
    report.table(
        ["items", "seconds", "µs an item", "chunks", "MB before", "MB after", "peak growth in MB"],
        [
            [
                f"{measured['items']:,}",
                f"{measured['seconds']:,.1f}",
                f"{measured['seconds'] / measured['items'] * MICRO:,.1f}",
                f"{measured['chunks']:,}",
                f"{measured['start_mb']:,.0f}",
                f"{measured['end_mb']:,.0f}",
                f"{measured['growth_mb']:,.1f}",
            ]
        ],
    )
    report.verdict(
        measured["growth_mb"] < MEMORY_TARGET_MB,
        f"memory grows by less than {MEMORY_TARGET_MB:.0f} MB: {measured['growth_mb']:,.1f} MB at the peak",
    )


def _count_lost(report: Report, stock: PrefectServer, ours: PrefectServer) -> None:
    stock.settle()
    ours.settle()
    known, completed = ours.task_runs(), ours.task_runs("COMPLETED")
    report.verdict(
        ours.dropped() == 0,
        f"the server of ExecutorTaskRunner dropped no message: {ours.dropped()} dropped "
        f"(that of ThreadPoolTaskRunner: {stock.dropped()})",
    )
    report.verdict(known == completed, f"it knows every task run of ours as Completed: {completed:,} of {known:,}")


if __name__ == "__main__":
    sys.exit(main())
