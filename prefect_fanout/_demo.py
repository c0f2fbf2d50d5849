"""`fanout demo`: both pipelines on data made on the spot, and a check that exactly the planted faults were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect_fanout._connection import connect, quiet_prefect
from prefect_fanout._demo_site import demo_site
from prefect_fanout._demo_tables import BAD_ROWS, FILES, ROWS_PER_FILE, write_demo_tables
from prefect_fanout._terminal import Finished, Terminal

Pipeline = Callable[[Terminal, list[str], Path, Mapping[str, object]], Finished]

EXPECTED_IMAGES = {"items": 24, "ok": 20, "failed": 3, "duplicate": 1}
EXPECTED_KINDS = {"http_4xx": 1, "not_an_image": 1, "decode_error": 1}
EXPECTED_TABLES = {
    "items": FILES,
    "ok": FILES,
    "failed": 0,
    "rows": FILES * ROWS_PER_FILE,
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
    quiet_prefect()
    with terminal.waiting("Starting Prefect's embedded server ..."):
        connect(home.absolute())

    terminal.heading("1. Download 24 URLs: 20 images, a missing one, a web page, a cut file, a repeated URL")
    with demo_site() as urls:
        images = run_images(terminal, urls, out / "images", {**OPTIONS, "allow_private": True})

    terminal.heading(f"2. Turn {FILES} CSV files into Parquet; {EXPECTED_TABLES['rejected']} rows do not fit")
    files = write_demo_tables(out / "csv")
    tables = run_csv(terminal, [str(file) for file in files], out / "tables", OPTIONS)

    terminal.heading("Where everything is")
    terminal.places(
        {
            "images": out / "images" / "images",
            "Parquet tables": out / "tables" / "data",
            "rows that did not fit": out / "tables" / "rejects",
            "what became of each item": out / "images" / "ledger.parquet",
            "": out / "tables" / "ledger.parquet",
            "reports, for a browser": out / "images" / "report.html",
            " ": out / "tables" / "report.html",
        }
    )
    terminal.note(f"  To look at both runs in Prefect's UI: PREFECT_HOME={home} prefect server start")
    surprises = _differences("images", EXPECTED_IMAGES, images.counts)
    surprises += _differences("images", EXPECTED_KINDS, images.failures)
    surprises += _differences("CSV files", EXPECTED_TABLES, tables.counts)
    if surprises:
        terminal.error("The demo did not come out as planned. " + " ".join(surprises))
        return False
    terminal.success("Exactly the planted faults were found; everything else is on disk.")
    return True


def _differences(what: str, expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    return [
        f"Of the {what}, {number:,} {name} were expected, and {found.get(name, 0):,} were counted."
        for name, number in expected.items()
        if found.get(name, 0) != number
    ]
