"""What a Prefect server costs while it does nothing: that of the `fanout` command beside Prefect's own.

    python benchmarks/idle.py [--seconds N] [--rounds N] [--markdown FILE]

Exit code 0: the target is met. 1: it is missed. 2: the benchmark could not run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

if not sys.flags.safe_path:
    del sys.path[0]  # This folder: its csv.py would hide the standard library's.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.prefect_server import cpu_s, prefect_server
from benchmarks.harness.process import BenchmarkError, end_on_sigterm
from benchmarks.harness.report import CANNOT_RUN, Report, Spread, command_line, machine
from prefect_fanout import FanoutError
from prefect_fanout._local_server import start_local_server

OURS = "that of the command `fanout`"
THEIRS = "Prefect's, with its default settings"
# Percent of a core. At 1 % a server cannot be felt; one that polls without a pause takes 100.
TARGET = 3.0
SETTLE_S = 5.0
PERCENT = 100


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = _arguments()
    end_on_sigterm()
    try:
        report = Report(name="idle", markdown=options.markdown)
        options.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="idle-", dir=options.work) as name:
            folder = Path(name).resolve()
            before = _children()
            start_local_server(folder / "ours")
            (ours,) = _children() - before
            with prefect_server(folder / "theirs") as theirs:
                report.paragraph(f"`{command_line()}`")
                report.paragraph(machine(["prefect"]))
                _compare(report, options, {OURS: ours, THEIRS: theirs.pid})
        report.write()
    except (BenchmarkError, FanoutError) as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    return report.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often both are measured, together (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path(__file__).with_name(".work"), help="folder for what it makes (%(default)s)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also put the results into this file")
    return parser.parse_args()


def _children() -> set[int]:
    """The processes that this one has started and not yet waited for."""
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def _compare(report: Report, options: argparse.Namespace, servers: dict[str, int]) -> None:
    time.sleep(SETTLE_S)  # what a server does once, after its start, is not what it does for the rest of its life
    shares: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(1, options.rounds + 1):
        used = {name: cpu_s(pid) for name, pid in servers.items()}
        started = time.perf_counter()
        time.sleep(options.seconds)
        passed = time.perf_counter() - started
        for name, pid in servers.items():
            shares[name].append((cpu_s(pid) - used[name]) / passed * PERCENT)
        report.say(f"round {number}: " + ", ".join(f"{shares[name][-1]:.1f} % {name}" for name in servers))
    report.paragraph(
        f"CPU of a server that nobody asks for anything, in percent of a core, {options.rounds} rounds of "
        f"{options.seconds:g} s; median (lowest to highest):"
    )
    report.table(["server", "% of a core"], [[name, Spread.of(values).text(1)] for name, values in shares.items()])
    ours = Spread.of(shares[OURS])
    report.verdict(ours.median < TARGET, f"the command's server takes less than {TARGET:g} %: {ours.text(1)} %")


if __name__ == "__main__":
    sys.exit(main())
