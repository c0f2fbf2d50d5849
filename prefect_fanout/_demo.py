"""`fanout demo`: both pipelines on data made on the spot, and a check that exactly the planted faults were found."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from prefect_fanout._connection import connect
from prefect_fanout._demo_site import demo_site
from prefect_fanout._demo_tables import BAD_ROWS, FILES, ROWS_PER_FILE, write_demo_tables
from prefect_fanout._finished import Finished
from prefect_fanout._local_server import new_password
from prefect_fanout._terminal import Terminal

Pipeline = Callable[[Terminal, list[str], Path, Mapping[str, object]], Finished]

EXPECTED_IMAGES = {"items": 24, "ok": 20, "failed": 3, "duplicate": 1}
EXPECTED_KINDS = {"http_4xx": 1, "not_an_image": 1, "decode_error": 1}
EXPECTED_TABLES = {
    "items": FILES,
    "ok": FILES,
    "failed": 0,
    "rows_out": FILES * ROWS_PER_FILE,
    "rejected": sum(map(len, BAD_ROWS.values())),
}
# An earlier demo's results are replaced, and the planted faults must not end the demo.
OPTIONS = {"fresh": True, "max_failed": None}


def run_demo(terminal: Terminal, out: Path, run_images: Pipeline, run_csv: Pipeline) -> bool:
    """Make the data, run both pipelines, and say what was done, what failed and why, and where everything is.

    Args:
        terminal: Where the demo tells its story.
        out: Folder of the demo.
        run_images: Runs the image pipeline.
        run_csv: Runs the CSV pipeline.

    Returns:
        Whether exactly the planted faults were found.
    """
    home = out / ".prefect"
    with terminal.waiting("Starting Prefect's embedded server ..."):
        connect(home.absolute())

    terminal.heading("1. Download 24 URLs: 20 images, a missing one, a web page, a cut file, and one URL twice")
    with demo_site() as urls:
        images = run_images(terminal, urls, out / "images", {**OPTIONS, "allow_private": True})

    terminal.heading(f"2. Turn {FILES} CSV files into Parquet; {EXPECTED_TABLES['rejected']} rows do not fit")
    files = write_demo_tables(out / "csv")
    tables = run_csv(terminal, [str(file) for file in files], out / "tables", OPTIONS)
    terminal.table(_rejected_rows(out / "tables" / "rejects"))

    terminal.heading("Where everything is")
    terminal.places(
        [
            ("images", out / "images" / "images"),
            ("tables, as Parquet", out / "tables" / "data"),
            ("rows that did not fit", out / "tables" / "rejects"),
            ("one row per item", out / "images" / "ledger.parquet"),
            ("", out / "tables" / "ledger.parquet"),
            ("report, for a browser", out / "images" / "report.html"),
            ("", out / "tables" / "report.html"),
        ]
    )
    terminal.note(_ui_note(home, new_password()))
    if surprises := find_surprises(images, tables):
        terminal.error("The demo did not come out as planned. " + " ".join(surprises))
        return False
    terminal.success("Exactly the planted faults were found, and nothing else went wrong.")
    return True


def find_surprises(images: Finished, tables: Finished) -> list[str]:
    """What differs from what the demo planted, one sentence each; empty when all is as it should be."""
    return [
        f"Of the {what}, {number:,} {name} were expected, and {found.get(name, 0):,} were counted."
        for what, expected, found in (
            ("images", EXPECTED_IMAGES, images.counts),
            ("images that failed", EXPECTED_KINDS, images.failures),
            ("CSV files", EXPECTED_TABLES, tables.counts),
        )
        for name, number in expected.items()
        if found.get(name, 0) != number
    ]


def _rejected_rows(folder: Path) -> list[tuple[str, str, str]]:
    """The few rows that did not fit, for the terminal: reason, file and line, message."""
    import pyarrow.parquet as pq

    columns = ["reason", "file", "line", "message"]
    rows = [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    return [(row["reason"], f"{Path(row['file']).name}, line {row['line']:,}", row["message"]) for row in rows]


def _ui_note(home: Path, password: str) -> str:
    """Return the command that starts a server with Prefect's UI for both runs, and the password to log in with."""
    address = "http://127.0.0.1:4200"
    return f"""
  Both runs in Prefect's UI, at {address} with the password {password}

    PREFECT_HOME={shlex.quote(str(home))} PREFECT_API_URL={address}/api \\
      PREFECT_API_AUTH_STRING={password} \\
      PREFECT_SERVER_API_AUTH_STRING={password} \\
      PREFECT_SERVER_CORS_ALLOWED_ORIGINS={address} \\
      {shlex.quote(_prefect_command())} --no-prompt server start"""


def _prefect_command() -> str:
    """How to call Prefect's command from here: it is on the path only where the environment is activated."""
    if shutil.which("prefect"):
        return "prefect"
    command = Path(sys.executable).with_name("prefect")
    return str(command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command)
