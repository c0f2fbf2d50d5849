"""Images from a local web server written in C: the flow `download-images` beside other ways to download a list.

    python benchmarks/images.py [--count N] [--kib N] [--threads N] [--rounds N] [--markdown FILE]

Exit code 0: every target is met. 1: one is missed. 2: the benchmark could not run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if not sys.flags.safe_path:
    del sys.path[0]  # This folder: its csv.py would hide the standard library's.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.contender import AsTyped, Contender
from benchmarks.harness.peers import has_module, install, interpreter
from benchmarks.harness.prefect_server import PrefectServer, prefect_server
from benchmarks.harness.process import BenchmarkError, end_on_sigterm
from benchmarks.harness.report import CANNOT_RUN, Report, Spread, command_line, machine
from benchmarks.harness.web import SITE_FOLDER, find_nginx, make_site, nginx

AS_TYPED = "fanout images, as typed"
BASELINE = "a Session per thread"
OURS = "download-images"
BY_COMMAND = "download-images, by `fanout images`"
# At least as fast as the baseline.
TARGET = 1.0
COMMANDS = {"curl": "curl --parallel", "aria2c": "aria2c", "wget2": "wget2"}
KIB = 1024


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = _arguments()
    end_on_sigterm()
    try:
        report = Report(name="images", markdown=options.markdown)
        program = find_nginx(options.nginx)
        if not options.no_install:
            install("peers")
            if options.img2dataset:
                install("img2dataset")
        options.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="images-", dir=options.work) as name, ExitStack() as stack:
            folder = Path(name).resolve()
            report.say(f"Making {options.count:,} images ...")
            total = make_site(folder / "site", options.count, options.kib)
            address = stack.enter_context(nginx(program, folder / "site", folder / "nginx"))
            server = stack.enter_context(prefect_server(folder / "prefect"))
            report.paragraph(f"`{command_line()}`")
            report.paragraph(machine(["prefect", "requests", "urllib3", "pillow"]))
            urls = folder / "urls.txt"
            urls.write_text("".join(f"{address}/{SITE_FOLDER}/{i:06d}.jpg\n" for i in range(options.count)))
            contenders = list(_contenders(options, server.environment, folder / "home"))
            # The first flow run takes a new server a second longer than all later ones.
            few = folder / "few.txt"
            few.write_text(f"{address}/{SITE_FOLDER}/000000.jpg\n")
            for number, name in enumerate((AS_TYPED, OURS)):
                ours = next(contender for contender in contenders if contender.name == name)
                ours.run(list=str(few), out=str(folder / f"warm-up-{number}"), threads=1)
            _compare(report, options, contenders, folder, server, total)
        report.write()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN
    return report.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=3_000, help="images, and URLs (%(default)s)")
    parser.add_argument("--kib", type=int, default=52, help="size of an image in KiB (%(default)s)")
    parser.add_argument("--threads", type=int, default=16, help="downloads at once, for each contender (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often all run, in turns (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only peers whose name has one of these words")
    parser.add_argument("--img2dataset", action="store_true", help="install that peer too (1 GB, Python up to 3.12)")
    parser.add_argument("--nginx", default="nginx", metavar="PROGRAM", help="the web server (%(default)s)")
    parser.add_argument("--no-install", action="store_true", help="compare only with what is there already")
    parser.add_argument(
        "--work", type=Path, default=Path(__file__).with_name(".work"), help="folder for what it makes (%(default)s)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also put the results into this file")
    return parser.parse_args()


def _typed(spec: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `fanout images`."""
    return ["images", spec["list"], "--out", spec["out"], "--allow-private", "--workers", str(spec["threads"])]


def _contenders(options: argparse.Namespace, ours: Mapping[str, str], home: Path) -> Iterator[Contender | AsTyped]:
    """The command, the baseline, the flows, then the peers that are there and wanted."""
    yield AsTyped(name=AS_TYPED, arguments=_typed, home=home)
    yield Contender(name=BASELINE, file="images_peers.py", function="sessions")
    yield Contender(name=OURS, file="images_ours.py", function="flow", environment=ours)
    yield Contender(name=BY_COMMAND, file="images_ours.py", function="flow_of_the_command", environment=ours)
    yield Contender(
        name=f'{OURS}, verify="full"',
        file="images_ours.py",
        function="flow",
        environment=ours,
        spec={"options": {"verify": "full"}},
    )
    peers = [Contender(name="requests.get in threads", file="images_peers.py", function="requests_get")]
    if has_module(interpreter("peers"), "pycurl"):
        peers.append(
            Contender(
                name="pycurl, one multi loop",
                file="images_peers.py",
                function="pycurl_multi",
                python=interpreter("peers"),
            )
        )
    for command, name in COMMANDS.items():
        if shutil.which(command):
            peers.append(Contender(name=name, file="images_peers.py", function=command))
    if has_module(interpreter("img2dataset"), "img2dataset"):
        peers.append(
            Contender(
                name="img2dataset, nothing re-encoded",
                file="images_peers.py",
                function="img2dataset",
                python=interpreter("img2dataset"),
            )
        )
    yield from (peer for peer in peers if not options.only or any(word in peer.name for word in options.only))


def _compare(
    report: Report,
    options: argparse.Namespace,
    contenders: list[Contender | AsTyped],
    folder: Path,
    server: PrefectServer,
    total: int,
) -> None:
    measures: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    complete = dict.fromkeys(measures, True)
    for number in range(1, options.rounds + 1):
        for place, contender in enumerate(contenders):
            server.settle()
            out = folder / f"out-{number}-{place}"
            out.mkdir()
            measured = contender.run(list=str(folder / "urls.txt"), out=str(out), threads=options.threads)
            measures[contender.name].append(measured)
            found = [path.stat().st_size for path in out.rglob("*.jpg")]
            if len(found) != options.count or sum(found) != total:
                complete[contender.name] = False
                report.say(f"{contender.name} left {len(found):,} of {options.count:,} images, {sum(found):,} bytes.")
            report.say(f"round {number}: {options.count / measured['seconds']:8,.0f} images/s  {contender.name}")
            _empty(out)
    base = [measured["seconds"] for measured in measures[BASELINE]]
    ratios = {
        name: Spread.of(slow / one["seconds"] for slow, one in zip(base, runs, strict=True))
        for name, runs in measures.items()
    }
    report.paragraph(
        f"{options.count:,} JPEG files of {total / options.count / KIB:.0f} KiB, {options.threads} downloads at once, "
        f"{options.rounds} rounds in turns; median (lowest to highest). CPU seconds are the contender's own, with its "
        "processes; nginx shares the cores."
    )
    report.table(
        ["contender", "images a second", "times the baseline", "CPU s", "peak MB", "whole process s"],
        [
            [
                f"{name}{' (baseline)' if name == BASELINE else ''}{'' if complete[name] else ' (images missing!)'}",
                Spread.of(options.count / one["seconds"] for one in runs).text(0),
                ratios[name].text(2),
                *(f"{Spread.of(one[key] for one in runs).median:,.1f}" for key in ("cpu_s", "peak_mb", "process_s")),
            ]
            for name, runs in sorted(measures.items(), key=lambda item: (item[0] != AS_TYPED, -ratios[item[0]].median))
        ],
    )
    report.verdict(
        ratios[OURS].median >= TARGET and complete[OURS],
        f"with requests at least as fast as a pool of Sessions: {ratios[OURS].text(2)} times, pair by pair",
    )


def _empty(out: Path) -> None:
    """Free the disk of what a contender wrote, and have nothing of it written in the time of the next.

    The files stay, without content: ext4 passes over what was deleted in the last minutes when it makes a file, which
    made each of the next contender's files take up to a millisecond.
    """
    for path in out.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    os.sync()


if __name__ == "__main__":
    sys.exit(main())
